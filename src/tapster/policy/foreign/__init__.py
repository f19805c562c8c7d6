# SPDX-License-Identifier: LGPL-2.1-or-later
"""Files of other projects that decide about Linux bridges, too.

bridge_conf    QEMU's file, judged as its helper judges it
               (bridge_conf_lines: one file; bridge_conf_includes: how many)
lxc_usernet    LXC's file, which grants numbers of NICs
               (lxc_usernet_lines: what lines come to; name_lookup: whose names)
access         reads a file as another user could
               (permissions: whether that user may; mounts: where nobody looks)
"""
