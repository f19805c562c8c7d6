# SPDX-License-Identifier: LGPL-2.1-or-later
"""Networks: what a guest's port needs besides the port itself.

A network of ours is a bridge, a subnet, dnsmasq and rules of nftables; one on a Linux
bridge of the host's is rules alone. What is decided is pure (addresses, subnets,
definition_*, elements, ruleset, leases, rates); what acts is managed_network and the
parts that it names.
"""
