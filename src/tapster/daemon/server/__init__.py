# SPDX-License-Identifier: LGPL-2.1-or-later
"""Stage 7: requests come in and replies go out, over the Unix socket."""
