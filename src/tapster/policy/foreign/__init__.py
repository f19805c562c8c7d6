# SPDX-License-Identifier: LGPL-2.1-or-later
"""Files of other projects that grant bridges, too: QEMU's bridge.conf and LXC's
lxc-usernet.
"""
