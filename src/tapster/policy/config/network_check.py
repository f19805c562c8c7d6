# SPDX-License-Identifier: LGPL-2.1-or-later
"""Whether the keys of the networks go together, once all files have been read.

A key that would have no effect is refused: whoever wrote it believes that it has one.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network

from ...model import Mode, Scope
from .network_file import Draft, Setting
from .toml_locations import Invalid

_IPV6_MTU = 1280  # RFC 8200, section 5
_OWN_BRIDGE = (Mode.NAT, Mode.ISOLATED)  # modes whose bridge the broker makes
# The modes that a key is for. A key that is not here is for every mode.
MODES: dict[str, tuple[Mode, ...]] = {
    "bridge": (Mode.BRIDGE,),
    "address_check": (Mode.BRIDGE,),
    "egress": (Mode.NAT,),
    "forward": (Mode.NAT,),
    **dict.fromkeys(
        ("scope", "subnet", "subnet6", "slaac", "domain", "dns", "dhcp", "mtu"),
        _OWN_BRIDGE,
    ),
    "host_access": _OWN_BRIDGE,
}


def check(networks: Collection[Draft]) -> None:
    """Check all networks, each by itself and with the others.

    :raises ConfigError: something does not go together; it says what, and where.
    """
    for draft in networks:
        _check_mode(draft)
        _check_subnets(draft)
        _check_reservations(draft)
    _check_overlaps(networks)
    _check_forwards(networks)


def _wrong(setting: Setting, message: str, *keys: str | int) -> Exception:
    return setting.document.error(setting.keys, Invalid(message, *keys))


def _check_mode(draft: Draft) -> None:
    for key, setting in draft.settings.items():
        modes = MODES.get(key, tuple(Mode))
        if draft.mode not in modes:
            words = " or ".join(f'"{mode}"' for mode in modes)
            raise _wrong(
                setting,
                f'only for mode {words}; network {draft.name} has mode "{draft.mode}"',
            )
    if draft.mode is Mode.BRIDGE and "bridge" not in draft.settings:
        raise _wrong(
            draft.settings["mode"], '"bridge" needs a bridge, as in bridge = "br0"'
        )


def _check_subnets(draft: Draft) -> None:
    for key in ("subnet", "subnet6"):
        if draft.value(key) is not None and draft.scope is not Scope.SHARED:
            raise _wrong(
                draft.settings[key],
                'only for scope = "shared": one subnet cannot serve the networks '
                'that scope = "user" gives each user',
            )
    mtu = draft.value("mtu")
    if mtu is not None and mtu < _IPV6_MTU and draft.ipv6:
        raise _wrong(
            draft.settings["mtu"],
            f"{mtu} is less than IPv6 needs, which is {_IPV6_MTU}; "
            'without IPv6 (subnet6 = "none") it may be',
        )
    if not draft.ipv6 and "slaac" in draft.settings:
        raise _wrong(
            draft.settings["slaac"], 'not with subnet6 = "none": there is no IPv6'
        )


def _check_reservations(draft: Draft) -> None:
    seen: dict[object, Setting] = {}
    for setting in draft.reservations.values():
        what = setting.value
        if what.ipv6 is not None and not draft.ipv6:
            raise _wrong(setting, 'not with subnet6 = "none": there is no IPv6', "ipv6")
        for key, subnet in (("ipv4", "subnet"), ("ipv6", "subnet6")):
            address, network = getattr(what, key), draft.value(subnet)
            if address is not None and network is not None:
                problem = _problem(address, network)
                if problem:
                    raise _wrong(setting, problem, key)
        for key in ("ipv4", "ipv6", "mac"):
            value = getattr(what, key)
            if value is None:
                continue
            if value in seen:
                other = seen[value]
                raise _wrong(
                    setting,
                    f"{value} is reserved for {other.keys[-1]} already, at "
                    f"{other.location}",
                    key,
                )
            seen[value] = setting


def _problem(
    address: IPv4Address | IPv6Address, network: IPv4Network | IPv6Network
) -> str | None:
    """Why no guest of the network can have the address; None if one can."""
    if address not in network:
        return f"{address} is not in {network}"
    if address == network[0]:
        return f"{address} is the address of {network} itself"
    if address == network[1]:
        return f"{address} is the gateway's"
    if isinstance(network, IPv4Network) and address == network[-1]:
        return f"{address} is the broadcast address of {network}"
    return None


def _check_overlaps(networks: Collection[Draft]) -> None:
    seen: list[tuple[str, Setting]] = []
    for draft in networks:
        for key in ("subnet", "subnet6"):
            if draft.value(key) is None:
                continue
            setting = draft.settings[key]
            for name, other in seen:
                if _overlap(setting.value, other.value):
                    raise _wrong(
                        setting,
                        f"{setting.value} overlaps {other.value} of network {name}, "
                        f"at {other.location}",
                    )
            seen.append((draft.name, setting))


def _overlap(one: IPv4Network | IPv6Network, other: IPv4Network | IPv6Network) -> bool:
    return one.version == other.version and one.overlaps(other)


def _check_forwards(networks: Collection[Draft]) -> None:
    """Check that no port of the host is forwarded to two guests."""
    seen: dict[object, str] = {}
    for draft in networks:
        for setting, number in _forwards(draft):
            port = setting.value[number].port
            if port in seen:
                raise _wrong(
                    setting, f"{port} is forwarded already, at {seen[port]}", number
                )
            seen[port] = setting.document.location(*setting.keys, number)


def _forwards(draft: Draft) -> Iterator[tuple[Setting, int]]:
    if setting := draft.settings.get("forward"):
        for number in range(len(setting.value)):
            yield setting, number
