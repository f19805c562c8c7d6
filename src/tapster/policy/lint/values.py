# SPDX-License-Identifier: LGPL-2.1-or-later
"""What single rules say that their author may not have meant.

Most of it is about names: whether this host has what they mean, which `Host` tells.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from ...model import Mode, NetworkDefinition
from ..config.load import Reading
from ..config.rule_file import Written
from ..config.values import shown
from ..core.patterns import matches_no_mac, matches_no_name
from ..core.rulebook import EVERY_NETWORK
from .coverage import EVERYONE, who
from .findings import Finding, Severity, at
from .host import Host

_PRIVILEGED = 1024  # below it only root binds a port
_SAY_WHO = "say for which users or groups"


def lint_values(reading: Reading, host: Host) -> Iterator[Finding]:
    """Findings about each rule by itself, in no order."""
    lonely: set[int] = set()
    for written in reading.written:
        yield from _people(written, host, lonely)
        yield from _patterns(written)
        if written.rule.effect == "allow" and who(written.rule) == [EVERYONE]:
            # With effect "polkit", polkit still says who "everyone" is.
            yield from _for_everyone(written)
        yield from _terms(written, reading.config.networks)


def _people(written: Written, host: Host, lonely: set[int]) -> Iterator[Finding]:
    """About users and groups, in the words of the file.

    :param lonely: the groups without members that were told of; more are added.
    """
    rule = _raw(written)
    for key, kind, resolve in (
        ("users", "user", host.names.uid),
        ("groups", "group", host.names.gid),
    ):
        seen: dict[int, Any] = {}
        for index, word in enumerate(rule.get(key, ())):
            try:
                number = resolve(word) if isinstance(word, str) else word
            except (KeyError, ValueError):
                continue  # an error, and told as one
            found: tuple[Severity, str, str, str | None] | None
            if number in seen:
                found = _named_twice(kind, word, seen[number])
            elif kind == "user":
                found = _about_user(number, word, host)
            else:
                found = _about_group(number, word, host, lonely)
            seen.setdefault(number, word)
            if found is not None:
                yield at(written.document, (*written.keys, key, index), *found)


def _raw(written: Written) -> dict[str, Any]:
    """A rule as it is written, before its values are typed."""
    found: Any = written.document.data
    for key in written.keys:
        found = found[key]
    rule: dict[str, Any] = found
    return rule


# What is wrong with one name: severity, code, message, hint.
_Words = tuple[Severity, str, str, str | None]


def _named_twice(kind: str, word: object, first: object) -> _Words:
    again = f"{shown(word)} is named twice"
    if word != first:
        again = f"{shown(word)} is {kind} {shown(first)} again"
    return Severity.NOTE, "named-twice", again, None


def _about_user(uid: int, word: object, host: Host) -> _Words | None:
    if isinstance(word, str) or host.has_user(uid):
        return None
    return Severity.NOTE, "nameless-user", f"no user has the number {word}", None


def _about_group(gid: int, word: object, host: Host, lonely: set[int]) -> _Words | None:
    if not isinstance(word, str) and not host.has_group(gid):
        return Severity.NOTE, "nameless-group", f"no group has the number {word}", None
    if gid in lonely or host.has_members(gid) is not False:
        return None
    lonely.add(gid)
    text = f"nobody is in group {shown(word)}"
    hint = "usermod -a -G GROUP USER adds somebody, from the next login on"
    return Severity.WARNING, "empty-group", text, hint


def _patterns(written: Written) -> Iterator[Finding]:
    """About patterns that match no guest."""
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
    """About what should be allowed to some, and is allowed to everyone."""
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
    """About terms that do more on the rule's networks than they seem to, or nothing.

    :param networks: all that are defined, by name.
    """
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
