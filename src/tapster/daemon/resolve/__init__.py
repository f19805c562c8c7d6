# SPDX-License-Identifier: LGPL-2.1-or-later
"""Stage 2: what a request is about: a network, or a Linux bridge of the host."""
