# SPDX-License-Identifier: LGPL-2.1-or-later
"""What else on this host keeps guests from their network, and what helps.

host_facts and device_managers read the host, foreign_firewall follows packets through
other programs' nftables rules, and findings and firewalls judge, purely, by what those
have found.
"""
