# SPDX-License-Identifier: LGPL-2.1-or-later
"""The user and network namespace of a rootless broker, seen from inside and outside.

The broker makes them and enters them; the supervisor, which stays outside, holds them
by descriptors, so that they outlive a broker that dies and the next one can enter the
very same.
"""

from __future__ import annotations

import logging
import os
from ipaddress import IPv4Network, IPv6Network
from typing import NamedTuple

from ...errors import BrokerUnavailable
from ...kernel import capabilities, namespaces, rtnetlink
from ...kernel.netlink import NetlinkError, NetlinkSocket

_log = logging.getLogger(__name__)

# Over these namespaces alone. SETPCAP is kept besides until the sandbox is entered,
# which takes it to give up more.
_CAPABILITIES = [
    capabilities.NET_BIND_SERVICE,  # dnsmasq's
    capabilities.NET_ADMIN,
    capabilities.NET_RAW,  # dnsmasq's
]


class Namespaces(NamedTuple):
    """Descriptors of a user and a network namespace. Whoever has them closes them."""

    user: int
    network: int

    @classmethod
    def of(cls, pid: int) -> Namespaces:
        """:raises OSError: there is no such process, or it is not ours."""
        flags = os.O_RDONLY | os.O_CLOEXEC
        user = os.open(f"/proc/{pid}/ns/user", flags)
        try:
            return cls(user, os.open(f"/proc/{pid}/ns/net", flags))
        except OSError:
            os.close(user)
            raise

    def close(self) -> None:
        os.close(self.user)
        os.close(self.network)


def enter(existing: Namespaces | None) -> None:
    """Move the calling process, which has one thread, into namespaces, and keep the
    capabilities that a broker needs there.

    :param existing: those of an earlier broker; None: new ones are made.
    :raises BrokerUnavailable: user namespaces are not available.
    """
    if existing is None:
        try:
            namespaces.enter_new()
        except OSError as err:
            raise BrokerUnavailable(
                f"unprivileged user namespaces are not available: {err.strerror}",
                "as root: sysctl user.max_user_namespaces=10000"
                " kernel.unprivileged_userns_clone=1",
            ) from err
    else:
        namespaces.setns(existing.user, namespaces.CLONE_NEWUSER)
        namespaces.setns(existing.network, namespaces.CLONE_NEWNET)
    capabilities.bound(_CAPABILITIES)
    capabilities.keep([*_CAPABILITIES, capabilities.SETPCAP], _CAPABILITIES)


def set_loopback_up() -> None:
    """In a new network namespace `lo` is down."""
    with NetlinkSocket() as netlink:
        loopback = rtnetlink.get_link(netlink, "lo")
        if loopback is not None:
            netlink.transact([rtnetlink.set_link(loopback.ifindex, "lo", up=True)])


def host_networks() -> tuple[IPv4Network | IPv6Network, ...]:
    """Find what the caller's network namespace has addresses in and routes to. The
    broker, which must not use the same subnets, can't see that from inside."""
    try:
        with NetlinkSocket() as netlink:
            found = {net for _, net in rtnetlink.used_networks(netlink)}
    except NetlinkError as err:
        _log.warning("the host's routes are not known: %s", err)
        return ()
    return tuple(sorted(found, key=str))
