# SPDX-License-Identifier: LGPL-2.1-or-later
"""Stage 6: tell DHCP, DNS, forwarded ports and the administrator's hooks."""
