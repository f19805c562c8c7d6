# SPDX-License-Identifier: LGPL-2.1-or-later
"""Stage 6: tell DHCP, DNS, forwarded ports and the administrator's hooks.

networks        which networks are up; host_upkeep: what they need of the host
forwards        what users ask of forwards; forward_table: all that there are
                open_forwards: which lead to a guest now; host_port: holds ports
hooks/          the administrator's programs, run for what begins and what ends
"""
