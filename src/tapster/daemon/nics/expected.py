# SPDX-License-Identifier: LGPL-2.1-or-later
"""What a tap of ours looks like in the kernel, and what of it is not so any more.

Pure functions: `daemon/provision/provisioner.py` makes a tap by what is said here, and
`daemon/watch/guard.py` holds it to that. Who holds its descriptor can change three
things with no privilege: the MAC of the host's end, that the tap outlasts the
descriptor, and whose it is. All else takes CAP_NET_ADMIN.
"""

from __future__ import annotations

import functools
from collections.abc import Iterable, Mapping
from typing import NamedTuple

from ...kernel import rtnetlink
from ...kernel.rtnetlink import Link
from ...model import State
from ...syntax import is_interface_name
from .ledger import Nic

TAP_ALIAS = "tapster nic"

# What is for 01:80:c2:00:00:00 to 0f (STP, LACP, 802.1X, LLDP) a bridge gives to
# the host's listeners, LLDP without asking netfilter. Told to forward it, it asks
# as for any other frame, and the ruleset says no. Pause frames, bit 1, it drops.
LINK_LOCAL_GROUPS = 0xFFFD

MAC, PERSISTENT, OWNER, GROUP = "MAC", "persistent", "owner", "group"
NAME, ALIAS, MTU, BRIDGE, UP = "name", "alias", "MTU", "bridge", "up"
OF_HOLDER = (MAC, PERSISTENT, OWNER, GROUP)
FOR_GOOD = (PERSISTENT, OWNER, GROUP)  # only who has the descriptor can undo it
# Flags that say what a port does with frames; none of them is ours.
FLAGS = {
    "noarp": rtnetlink.IFF_NOARP,
    "promisc": rtnetlink.IFF_PROMISC,
    "allmulti": rtnetlink.IFF_ALLMULTI,
}
_FIRST_MAC = ("learning", "mab")  # settings that change while a port waits


class Change(NamedTuple):
    """One thing that is not as it was made, and both in words."""

    what: str
    wanted: str
    found: str

    @property
    def is_of_holder(self) -> bool:
        """Whether who holds the descriptor can do that, with no privilege."""
        return self.what in OF_HOLDER

    def __str__(self) -> str:
        return f"{self.what} {self.wanted} -> {self.found}"


def in_words(changes: Iterable[Change]) -> str:
    return ", ".join(map(str, changes))


def alias(nic: Nic) -> str:
    """What the kernel keeps of whose a tap is; only CAP_NET_ADMIN sets it."""
    text = f"{TAP_ALIAS} network={nic.network or nic.bridge}"
    return f"{text} user={nic.user} guest={nic.name}"


def altname(nic: Nic) -> str:
    """Tells network, user and guest, in at most 127 bytes the kernel takes."""
    user = str(nic.uid)
    if is_interface_name(nic.user[:15]) and nic.user.isascii():
        user = nic.user
    return f"tapster.{nic.network or nic.bridge}.{user}.{nic.name}"[:127]


def is_of(nic: Nic, link: Link | None) -> bool:
    """Whether the device that has a NIC's index is still its tap, if by another
    name or alias."""
    return (
        link is not None
        and link.ifindex == nic.ifindex
        and (link.name == nic.ifname or link.alias == _cut(alias(nic)))
    )


def is_recorded(nic: Nic, link: Link | None) -> bool:
    """The same of a record that a broker finds: an index and a name may be
    another's by now. Our alias and alternative name only CAP_NET_ADMIN can set."""
    if link is None or not is_of(nic, link):
        return False
    marked = link.alias.startswith(TAP_ALIAS) or altname(nic) in link.altnames
    return link.kind == "tun" and marked


def port_settings(nic: Nic) -> dict[str, int]:
    """A port's settings, by the names of `rtnetlink.set_port`: whom it hears, and
    whom it may be."""
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
        # Else a guest that asks who listens gets all that anybody listens to.
        "multicast_router": 0,
        "group_fwd_mask": LINK_LOCAL_GROUPS,
    }


def changed_settings(nic: Nic, port: Mapping[int, int]) -> list[Change]:
    """What of a port is not as it should be; a kernel that does not know a
    setting says nothing of it.

    :param port: as `Link.port`.
    """
    found = []
    for name, wanted in port_settings(nic).items():
        if nic.state is State.WAITING and name in _FIRST_MAC:
            continue  # an older kernel's port waits in another way
        value = port.get(rtnetlink.PORT_SETTINGS[name], wanted)
        if value != wanted:
            found.append(Change(name, str(wanted), str(value)))
    return found


def is_as_set(nic: Nic, message: bytes) -> bool:
    """Whether a message about a port alone (RTM_NEWLINK in AF_BRIDGE) has all of the
    port's settings as they should be. "No" means that it has to be read: each
    attach makes two, and reading takes ten times as long."""
    if nic.state is State.WAITING:
        return False
    return all(each in message for each in _as_sent(tuple(port_settings(nic).items())))


@functools.lru_cache(64)
def _as_sent(settings: tuple[tuple[str, int], ...]) -> tuple[bytes, ...]:
    """The settings as attributes. There are few kinds of ports."""
    return tuple(rtnetlink.port_attribute(name, value) for name, value in settings)


def changes(nic: Nic, link: Link) -> list[Change]:
    """What of a NIC's tap is not as it should be, the holder's doings first.

    Of one in quarantine only that it is down and on no bridge.
    """
    found: list[Change] = []

    def compare(what: str, wanted: object, value: object) -> None:
        if wanted != value:
            found.append(Change(what, _word(wanted), _word(value)))

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
    compare(ALIAS, _cut(alias(nic)), link.alias)
    compare(MTU, nic.mtu, link.mtu)
    compare(BRIDGE, nic.bridge_index, link.master or None)
    compare(UP, True, bool(link.flags & rtnetlink.IFF_UP))
    for flag, bit in FLAGS.items():
        compare(flag, False, bool(link.flags & bit))
    if link.master == nic.bridge_index:
        found += changed_settings(nic, link.port)
    return found


def _cut(text: str) -> str:
    """As the kernel keeps an alias, and rtnetlink reads it."""
    return text.encode()[:255].decode(errors="replace")


def _word(value: object) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    return "none" if value is None else str(value)
