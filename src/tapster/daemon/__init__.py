# SPDX-License-Identifier: LGPL-2.1-or-later
"""tapsterd, and the map of it: a request walks through eight rooms, in this order.

    1 identify/    who is asking, by the kernel's word
    2 resolve/     what is asked for: a network, or a Linux bridge
    3 decide/      may they have it? The rules, and polkit
    4 allocate/    its name, MAC and addresses, before any of it exists
    5 provision/   make the tap, wire it, lock it; or leave nothing
    6 publish/     tell DHCP, DNS, forwarded ports and the administrator's hooks
    7 server/      requests come in and replies go out
    8 watch/       what happens to a NIC while it exists

attach.py is the way in, the eight stages on one screen; detach.py the way out;
reconfigure.py another configuration under running guests. api/ does what each method
of the Varlink interface says. reconcile.py finishes what an earlier broker left.
serve.py starts and ends what parts.py puts together. Shared by all: nics/ (what
exists), audit/ (what is told), fairness/ (nobody's flood is another's wait), process/
(how tapsterd starts, confines itself and ends).

The rule, which tests/unit/test_layering.py holds: each imports what stands to its
right, and itself. main, rootless, serve, parts, reconcile, api, watch, attach, detach,
reconfigure, allocate, publish, decide, provision, server, audit, nics, resolve,
identify, fairness, process. In words: a stage knows earlier stages and the shared
rooms, never a later one; attach, detach and parts alone know them all.
"""
