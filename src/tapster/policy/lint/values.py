# SPDX-License-Identifier: LGPL-2.1-or-later
"""What single rules and networks say that their author may not have meant.

Most of it is about names: whether there is what they mean on this host, of which
`Host` tells. Nothing here asks the host itself.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple

from ...model import Mode, NetworkDefinition
from ..config.load import Reading
from ..config.rule_file import Written
from ..config.toml_locations import Document, Keys
from ..config.values import Names, shown
from ..core.patterns import matches_no_mac, matches_no_name
from ..core.rulebook import EVERY_NETWORK
from .coverage import EVERYONE, who
from .findings import Finding, Severity, at

_PRIVILEGED = 1024  # below it only root binds a port
_SAY_WHO = "say for which users or groups"


class Host(NamedTuple):
    """What this host knows of people, and of bridges."""

    names: Names
    has_user: Callable[[int], bool]
    has_group: Callable[[int], bool]
    # Whether anybody is in a group; None where it cannot be told.
    has_members: Callable[[int], bool | None]
    # Whether an interface is a Linux bridge; None where there is none.
    is_bridge: Callable[[str], bool | None]


def lint_words(reading: Reading, host: Host) -> Iterator[Finding]:
    """Findings in no order."""
    lonely: set[int] = set()
    for written in reading.written:
        yield from _people(written, host, lonely)
        yield from _patterns(written)
        if written.rule.effect == "allow" and who(written.rule) == [EVERYONE]:
            # With polkit, somebody else says who everyone is.
            yield from _for_everyone(written)
        yield from _terms(written, reading.config.networks)
    yield from _bridges(reading, host)
    yield from _reservations(reading)


def _people(written: Written, host: Host, lonely: set[int]) -> Iterator[Finding]:
    """About users and groups, in the words of the file.

    :param lonely: the groups that were told of.
    """
    rule = _raw(written)
    for key, kind, resolve, exists in (
        ("users", "user", host.names.uid, host.has_user),
        ("groups", "group", host.names.gid, host.has_group),
    ):
        seen: dict[int, Any] = {}
        for index, word in enumerate(rule.get(key, ())):
            try:
                number = resolve(word) if isinstance(word, str) else word
            except (KeyError, ValueError):
                continue  # an error, and told as one
            keys = (*written.keys, key, index)
            if number in seen:
                again = f"{shown(word)} is named twice"
                if word != seen[number]:
                    again = f"{shown(word)} is {kind} {shown(seen[number])} again"
                yield at(written.document, keys, Severity.NOTE, "named-twice", again)
                continue
            seen[number] = word
            if not isinstance(word, str) and not exists(number):
                text = f"no {kind} has the number {word}"
                code = f"nameless-{kind}"
                yield at(written.document, keys, Severity.NOTE, code, text)
            elif (
                kind == "group"
                and number not in lonely
                and host.has_members(number) is False
            ):
                lonely.add(number)
                text = f"nobody is in group {shown(word)}"
                hint = "usermod -a -G GROUP USER adds somebody, from the next login on"
                code = "empty-group"
                yield at(written.document, keys, Severity.WARNING, code, text, hint)


def _raw(written: Written) -> dict[str, Any]:
    """A rule as it is written; the reader has taken it."""
    found: Any = written.document.data
    for key in written.keys:
        found = found[key]
    rule: dict[str, Any] = found
    return rule


def _patterns(written: Written) -> Iterator[Finding]:
    rule, document, keys = written
    for index, pattern in enumerate(rule.macs):
        if matches_no_mac(pattern):
            yield at(
                document,
                (*keys, "macs", index),
                Severity.WARNING,
                "impossible-mac",
                f"no guest's MAC address is like {shown(pattern)}",
                "it is for the whole address, as in 52:54:00:*, and never multicast",
            )
    for index, pattern in enumerate(rule.guests):
        if matches_no_name(pattern):
            yield at(
                document,
                (*keys, "guests", index),
                Severity.WARNING,
                "impossible-guest",
                f"no guest's name is like {shown(pattern)}",
                "a name neither starts nor ends with a hyphen",
            )


def _for_everyone(written: Written) -> Iterator[Finding]:
    rule, document, keys = written
    if rule.trusted:
        yield at(
            document,
            (*keys, "trusted"),
            Severity.WARNING,
            "trusted-for-everyone",
            "everyone's guests go without the checks against spoofing",
            _SAY_WHO,
        )
    if rule.manage:
        yield at(
            document,
            (*keys, "manage"),
            Severity.WARNING,
            "manage-for-everyone",
            "everyone sees and changes other users' NICs and forwards",
            _SAY_WHO,
        )
    for index, port in enumerate(rule.forward or ()):
        if port.first < _PRIVILEGED:
            yield at(
                document,
                (*keys, "forward", index),
                Severity.WARNING,
                "privileged-forward",
                f"everyone may have {port} of this host lead to a guest",
                f"others expect the host's own services there; {_SAY_WHO}",
            )


def _terms(
    written: Written, networks: Mapping[str, NetworkDefinition]
) -> Iterator[Finding]:
    rule, document, keys = written
    everywhere = EVERY_NETWORK in rule.networks
    if rule.trusted and everywhere:
        yield at(
            document,
            (*keys, "trusted"),
            Severity.WARNING,
            "trusted-everywhere",
            "no checks against spoofing on any network, those to come included",
            "name the networks",
        )
    names = networks if everywhere else rule.networks
    forwards = any(n not in networks or networks[n].mode is Mode.NAT for n in names)
    if rule.forward and not forwards:
        yield at(
            document,
            (*keys, "forward"),
            Severity.WARNING,
            "vain-forward",
            'it is about no network of mode "nat", and no other forwards ports',
            "remove it",
        )


def _bridges(reading: Reading, host: Host) -> Iterator[Finding]:
    """About Linux bridges, each where it is named first."""
    named: dict[str, tuple[Document, Keys]] = {}
    for name, network in reading.config.networks.items():
        for document in reversed(reading.documents):
            if "bridge" in document.data.get("networks", {}).get(name, {}):
                keys: Keys = ("networks", name, "bridge")
                named.setdefault(network.bridge or "", (document, keys))
                break
    for rule, document, keys in reading.written:
        for index, name in enumerate(rule.bridges):
            named.setdefault(name, (document, (*keys, "bridges", index)))
    for name, (document, keys) in named.items():
        words = about_bridge(name, host)
        if words is not None:
            yield at(document, keys, *words)


def about_bridge(name: str, host: Host) -> tuple[Severity, str, str, str] | None:
    """Severity, code, message and hint, if it is not a Linux bridge of this host."""
    found = host.is_bridge(name)
    if found is None:
        text = f"there is no Linux bridge {shown(name)} on this host"
        return Severity.NOTE, "no-such-bridge", text, "it may come later"
    if not found:
        text = f"{shown(name)} is not a Linux bridge"
        return Severity.WARNING, "not-a-bridge", text, "only Linux bridges are used"
    return None


def _reservations(reading: Reading) -> Iterator[Finding]:
    """What two networks of one Linux bridge reserve for two guests; within one
    network that is an error."""
    networks = reading.config.networks
    seen: dict[tuple[str, object], tuple[str, str]] = {}
    for name, network in networks.items():
        if network.bridge is None:
            continue
        for guest, what in network.reservations.items():
            for value in (what.ipv4, what.ipv6, what.mac):
                if value is None:
                    continue
                mine = (guest, name)
                other, its = seen.setdefault((network.bridge, value), mine)
                if other == guest:
                    continue
                first, there = _reservation(reading, its, other)
                document, keys = _reservation(reading, name, guest)
                yield at(
                    document,
                    keys,
                    Severity.WARNING,
                    "reserved-twice",
                    f"{value} is guest {other}'s on network {its}, which is on Linux "
                    f"bridge {network.bridge} too",
                    "no two guests of a bridge can have it",
                    (first.line(*there),),
                )


def _reservation(reading: Reading, network: str, guest: str) -> tuple[Document, Keys]:
    """Where it was written last."""
    keys: Keys = ("networks", network, "reservations", guest)
    for document in reversed(reading.documents):
        found = document.data.get("networks", {}).get(network, {})
        if guest in found.get("reservations", {}):
            return document, keys
    raise KeyError(guest)
