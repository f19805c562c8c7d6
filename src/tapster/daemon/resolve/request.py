# SPDX-License-Identifier: LGPL-2.1-or-later
"""What a request to attach is about.

The form of its parameters is checked first, and the caller is told what is wrong.
What exists is looked up only then, and a caller that is denied is never told.
"""

from __future__ import annotations

from collections.abc import Callable

from ...errors import InvalidRequest
from ...kernel.rtnetlink import Link
from ...model import BRIDGE_PREFIX, AttachRequest
from ...policy.config.load import Config
from ...policy.core.rulebook import DEFAULT_NETWORK, Target
from ...syntax import LABEL_LENGTH, is_interface_name, is_label, parse_mac


def check(request: AttachRequest) -> AttachRequest:
    """The request in its normal form: names and MAC in lower case.

    :raises InvalidRequest: a parameter is not acceptable, whatever exists.
    """
    if request.network is not None and request.bridge is not None:
        raise InvalidRequest(
            "network and bridge exclude each other", "give one of them"
        )
    if request.bridge is not None and not is_interface_name(request.bridge):
        raise InvalidRequest(
            "bridge: not an interface name",
            "1 to 15 bytes, without '/', ':' and white space",
        )
    if request.network is not None and not is_label(request.network):
        raise InvalidRequest("network: not a network's name", "letters, digits and '-'")
    name = request.name
    if name is not None:
        name = name.lower()
        if not is_label(name):
            raise InvalidRequest(
                "name: not a host name",
                f"1 to {LABEL_LENGTH} letters, digits and '-', not first or last",
            )
    return AttachRequest(
        request.network,
        request.bridge,
        name,
        _guest_mac(request.mac),
        request.vnet_hdr,
        request.for_parent,
        request.interactive,
    )


def _guest_mac(mac: str | None) -> str | None:
    if mac is None:
        return None
    try:
        raw = parse_mac(mac)
    except ValueError:
        raise InvalidRequest(
            "mac: not a MAC address", "as in 0a:1b:2c:3d:4e:5f"
        ) from None
    if raw[0] & 1:
        raise InvalidRequest("mac: a multicast address", "the first byte must be even")
    if not any(raw):
        raise InvalidRequest("mac: all zero", "leave it out to be given one")
    return raw.hex(":")


def resolve(
    request: AttachRequest, find: Callable[[str], Link | None], config: Config
) -> tuple[Target, Link | None]:
    """Find out what is asked for.

    The name of a bridge means the Linux bridge of that name; if there is none, the
    network of that name; if there is none, and the name is br0 or qemubr0 (or what
    is configured instead), the default network.

    :param request: in its normal form.
    :param find: finds the device of a name, as `Bridges.find`.
    :param config: the networks that there are.
    :returns: the target, which is empty if nothing of that name exists, and the
        link if it is a Linux bridge.
    """
    if request.bridge is None:
        name = request.network or DEFAULT_NETWORK
        return Target(network=name if name in config.networks else None), None
    # Our own bridges are reached through their network only: otherwise an "allow all"
    # in bridge.conf would be about other users' networks.
    if request.bridge.startswith(BRIDGE_PREFIX):
        return Target(), None
    link = find(request.bridge)
    if link is not None:
        # The kernel finds alternative names, too; bridge.conf compares real names.
        if link.kind == "bridge" and link.name == request.bridge:
            return Target(bridge=link.name), link
        return Target(), None
    if request.bridge in config.networks:
        return Target(network=request.bridge), None
    if request.bridge in config.broker.default_bridge_names:
        return Target(network=DEFAULT_NETWORK), None
    return Target(), None
