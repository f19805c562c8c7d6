# SPDX-License-Identifier: LGPL-2.1-or-later
"""What messages of more than one kind begin with."""

from __future__ import annotations

import struct
from typing import Any

from ..netlink import Reply

AF_BRIDGE = 7
RTM_SETLINK = 19
IFINFO = struct.Struct("=BxHiII")  # family, type, index, flags, change


def header(layout: struct.Struct, reply: Reply) -> tuple[Any, ...]:
    """The fixed part of a reply; zeros if it is too short to have one."""
    if len(reply.payload) < layout.size:
        return layout.unpack(bytes(layout.size))
    return layout.unpack_from(reply.payload)
