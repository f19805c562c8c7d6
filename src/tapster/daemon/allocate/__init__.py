# SPDX-License-Identifier: LGPL-2.1-or-later
"""Stage 4: the name, MAC and addresses of a NIC, before any of it exists."""
