# SPDX-License-Identifier: LGPL-2.1-or-later
"""What a tap of ours has to look like in the kernel, and how one differs from that.

Pure functions. `provision/` makes a tap by what is said here, and `watch/guard.py`
holds it to that. Whoever holds a tap's descriptor can change three things without
any privilege: the MAC of the host's end, that the tap outlasts the descriptor, and
who owns it. Everything else takes CAP_NET_ADMIN.
"""

from __future__ import annotations

import functools
from collections.abc import Iterable, Mapping
from typing import NamedTuple

from ...kernel import rtnetlink
from ...kernel.rtnetlink import Link
from ...model import State
from .naming import TAP_ALIAS, alias_in_kernel
from .nic import Nic

# A bridge hands frames to 01:80:c2:00:00:00 to 0f (STP, LACP, 802.1X, LLDP) to the
# host's own listeners, LLDP without asking netfilter. Told to forward such a group,
# it asks netfilter as for any other frame, and our ruleset refuses. Bit 1 is left
# out: the bridge drops pause frames by itself.
LINK_LOCAL_GROUPS = 0xFFFD

MAC, PERSISTENT, OWNER, GROUP = "MAC", "persistent", "owner", "group"
NAME, ALIAS, MTU, BRIDGE, UP = "name", "alias", "MTU", "bridge", "up"
# What the holder of the descriptor can change without any privilege.
UNPRIVILEGED = (MAC, PERSISTENT, OWNER, GROUP)
# What only the holder of the descriptor can undo.
IRREVERSIBLE = (PERSISTENT, OWNER, GROUP)
# Flags that say what a port does with frames. We set none of them.
FLAGS = {
    "noarp": rtnetlink.IFF_NOARP,
    "promisc": rtnetlink.IFF_PROMISC,
    "allmulti": rtnetlink.IFF_ALLMULTI,
}
_FIRST_MAC = ("learning", "mab")  # settings that change while a port waits


class Drift(NamedTuple):
    """One property of a tap that is not as it should be; both values as text."""

    what: str
    wanted: str
    found: str

    @property
    def is_unprivileged(self) -> bool:
        """Whether the holder of the descriptor can do that without any privilege."""
        return self.what in UNPRIVILEGED

    def __str__(self) -> str:
        return f"{self.what} {self.wanted} -> {self.found}"


def in_words(drift: Iterable[Drift]) -> str:
    """For the log: "MAC a -> b, MTU 1500 -> 9000"."""
    return ", ".join(map(str, drift))


def is_tap_of(nic: Nic, link: Link | None) -> bool:
    """Whether the device with a NIC's index is still that NIC's tap. Its name or
    its alias may have been changed, but not both: the index of a tap that is gone
    can come to another device."""
    return (
        link is not None
        and link.ifindex == nic.ifindex
        and (link.name == nic.ifname or link.alias == alias_in_kernel(nic.alias))
    )


def is_recorded(nic: Nic, link: Link | None) -> bool:
    """Whether a device is the tap that an earlier broker's record is about. More is
    asked than by `is_tap_of`, since by then an index and a name may be another
    device's: it has to be a tap, and to bear a mark that takes CAP_NET_ADMIN."""
    if link is None or not is_tap_of(nic, link):
        return False
    marked = link.alias.startswith(TAP_ALIAS) or nic.altname in link.altnames
    return link.kind == "tun" and marked


def port_settings(nic: Nic) -> dict[str, int]:
    """The settings of a NIC's bridge port, by the names of `rtnetlink.set_port`:
    which frames it takes from its guest, and which it sends to it."""
    isolated = int(nic.isolated)
    if nic.trusted:
        return {"isolated": isolated}
    waiting = int(nic.state is State.WAITING)
    return {
        "learning": waiting,
        "mab": waiting,
        "flood": 0,
        "locked": 1,
        "guard": 1,
        "protect": 1,
        "isolated": isolated,
        # Otherwise a guest that sends an IGMP or MLD query counts as a multicast
        # router, and gets every multicast frame of the bridge.
        "multicast_router": 0,
        "group_fwd_mask": LINK_LOCAL_GROUPS,
    }


def port_drift(nic: Nic, port: Mapping[int, int]) -> list[Drift]:
    """Which settings of a port are not as they should be. A kernel that does not
    know a setting reports nothing of it, and this is no drift.

    :param port: `Link.port`.
    """
    found = []
    for name, wanted in port_settings(nic).items():
        if nic.state is State.WAITING and name in _FIRST_MAC:
            continue  # on a kernel without MAB a port waits in another way
        value = port.get(rtnetlink.PORT_SETTINGS[name], wanted)
        if value != wanted:
            found.append(Drift(name, str(wanted), str(value)))
    return found


def has_settings(nic: Nic, message: bytes) -> bool:
    """Whether a message about a port alone (RTM_NEWLINK in AF_BRIDGE) has all of the
    port's settings as they should be. False means only that the message has to be
    parsed: each attach causes two of them, and parsing takes ten times as long."""
    if nic.state is State.WAITING:
        return False
    return all(each in message for each in _as_sent(tuple(port_settings(nic).items())))


@functools.lru_cache(64)
def _as_sent(settings: tuple[tuple[str, int], ...]) -> tuple[bytes, ...]:
    """The settings as netlink attributes. There are few kinds of ports."""
    return tuple(rtnetlink.port_attribute(name, value) for name, value in settings)


def link_drift(nic: Nic, link: Link) -> list[Drift]:
    """In what a NIC's tap is not as it should be; what its holder can do comes first.

    A tap in quarantine only has to be down and on no bridge.
    """
    found: list[Drift] = []

    def compare(what: str, wanted: object, value: object) -> None:
        if wanted != value:
            found.append(Drift(what, _as_text(wanted), _as_text(value)))

    if nic.state is State.QUARANTINED:
        compare(BRIDGE, None, link.master or None)
        compare(UP, False, bool(link.flags & rtnetlink.IFF_UP))
        return found
    if nic.host_mac:
        compare(MAC, nic.host_mac, link.address)
    compare(PERSISTENT, False, link.persist)
    compare(OWNER, None, link.owner)
    compare(GROUP, None, link.group)
    compare(NAME, nic.ifname, link.name)
    compare(ALIAS, alias_in_kernel(nic.alias), link.alias)
    compare(MTU, nic.mtu, link.mtu)
    compare(BRIDGE, nic.bridge_index, link.master or None)
    compare(UP, True, bool(link.flags & rtnetlink.IFF_UP))
    for flag, bit in FLAGS.items():
        compare(flag, False, bool(link.flags & bit))
    if link.master == nic.bridge_index:
        found += port_drift(nic, link.port)
    return found


def _as_text(value: object) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    return "none" if value is None else str(value)
