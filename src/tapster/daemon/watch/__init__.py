# SPDX-License-Identifier: LGPL-2.1-or-later
"""Stage 8: what happens to a NIC while it exists, and what is done about it."""
