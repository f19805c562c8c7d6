# SPDX-License-Identifier: LGPL-2.1-or-later
"""Settings of bridge ports. Numbers: linux/if_link.h."""

from __future__ import annotations

import functools

from ..netlink import (
    Reply,
    Request,
    attr_u8,
    attr_u16,
    attrs,
    nested,
    number,
)
from .layout import AF_BRIDGE, IFINFO, RTM_SETLINK

IFLA_PROTINFO = 12
IFLA_BRPORT_GUARD, IFLA_BRPORT_PROTECT = 5, 6
IFLA_BRPORT_LEARNING, IFLA_BRPORT_UNICAST_FLOOD = 8, 9
IFLA_BRPORT_MULTICAST_ROUTER, IFLA_BRPORT_GROUP_FWD_MASK = 25, 31
IFLA_BRPORT_ISOLATED, IFLA_BRPORT_LOCKED, IFLA_BRPORT_MAB = 33, 39, 40

PORT_SETTINGS = {
    "learning": IFLA_BRPORT_LEARNING,
    "flood": IFLA_BRPORT_UNICAST_FLOOD,
    "locked": IFLA_BRPORT_LOCKED,
    "mab": IFLA_BRPORT_MAB,
    "guard": IFLA_BRPORT_GUARD,
    "protect": IFLA_BRPORT_PROTECT,
    "isolated": IFLA_BRPORT_ISOLATED,
    "multicast_router": IFLA_BRPORT_MULTICAST_ROUTER,
    "group_fwd_mask": IFLA_BRPORT_GROUP_FWD_MASK,
}


def set_port(index: int, what: str, **settings: int) -> Request:
    """Change settings of a bridge port.

    A kernel that does not know a setting ignores it: read it back with `get_link`
    before relying on it.

    :param index: of the port's device.
    :param what: the device's name, for the error.
    :param settings: new values by the names of PORT_SETTINGS. Each is 0 or 1, except
        group_fwd_mask: its bits say which frames to 01:80:c2:00:00:00 to 0f are
        forwarded as others are, instead of being the host's.
    """
    return Request(
        f"set bridge port {what}",
        RTM_SETLINK,
        0,
        IFINFO.pack(AF_BRIDGE, 0, index, 0, 0) + _protinfo(tuple(settings.items())),
    )


@functools.lru_cache(64)
def _protinfo(settings: tuple[tuple[str, int], ...]) -> bytes:
    """The attribute with all settings. There are few kinds of ports, and many ports."""
    return nested(IFLA_PROTINFO, *(port_attribute(*each) for each in settings))


def port_attribute(name: str, value: int) -> bytes:
    """One setting of a port, as the kernel takes and returns it."""
    pack = attr_u16 if name == "group_fwd_mask" else attr_u8
    return pack(PORT_SETTINGS[name], value)


def port_settings(attributes: memoryview | None) -> dict[int, int]:
    """Read settings of a port: IFLA_BRPORT_* → value, those of one or two bytes."""
    if attributes is None:
        return {}
    return {k: number(v) for k, v in attrs(attributes) if len(v) in (1, 2)}


def parse_port(reply: Reply) -> dict[int, int]:
    """Read the settings of a port from RTM_NEWLINK of AF_BRIDGE, as `Link.port`."""
    found = dict(attrs(reply.payload, IFINFO.size))
    return port_settings(found.get(IFLA_PROTINFO))
