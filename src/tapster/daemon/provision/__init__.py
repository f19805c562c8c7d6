# SPDX-License-Identifier: LGPL-2.1-or-later
"""Stage 5: make the tap and all that belongs to it, or leave nothing."""
