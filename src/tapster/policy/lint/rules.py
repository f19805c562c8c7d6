# SPDX-License-Identifier: LGPL-2.1-or-later
"""What the rules say together that their author may not have meant. Pure.

The broker refuses none of it. A finding is true of every request that may come; where
that cannot be known, nothing is said.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from typing import NamedTuple

from ...model import Rule
from ..config.load import Reading
from ..config.toml_locations import Document, Keys
from ..core.rulebook import DEFAULT_NETWORK, DENY, EVERY_NETWORK
from .coverage import BRIDGE, EVERYONE, shadowed_denials, shadowed_grants, who
from .findings import Finding, Severity, at
from .host import Host
from .networks import lint_networks
from .reach import bypasses, closed_networks, redundant_denials
from .values import lint_values

_MOST_LOCATIONS = 3  # in a message
_NARROW = "have less denied: a rule that denies wins"


class Elsewhere(NamedTuple):
    """What bridge.conf and lxc-usernet allow besides the rules."""

    may_allow: bool = False  # they may allow some Linux bridge to somebody
    bridges: Collection[str] = ()  # Linux bridges that they allow everyone


def lint(reading: Reading, host: Host, elsewhere: Elsewhere) -> list[Finding]:
    """All findings about the rules and networks of a configuration, in no order.

    :param reading: the configuration, and where each part of it is written.
    :param host: whose users, groups and bridges the names are.
    :param elsewhere: what other files allow.
    """
    return [
        *_shadowed_grants(reading),
        *_shadowed_denials(reading, elsewhere.may_allow),
        *_closed_networks(reading),
        *_bypasses(reading, elsewhere.bridges),
        *lint_values(reading, host),
        *lint_networks(reading, host),
    ]


def _shadowed_grants(reading: Reading) -> Iterator[Finding]:
    rules = reading.config.rules
    naming = [n for n, rule in enumerate(rules) if DEFAULT_NETWORK in rule.networks]
    for number, by, manages in shadowed_grants(rules, reading.config.networks):
        _, document, keys = reading.written[number]
        locations = tuple(rules[other].location for other in by)
        code = "never-matches"
        if all(rules[other].effect == DENY for other in by):
            why = f"{_several(locations, 'deny', 'denies')} all that it is about"
            hint = f"remove it, or {_NARROW}"
        else:
            why = f"{_several(locations, 'decide', 'decides')} all that it is about"
            hint = "put it first, or remove it: the first rule that matches decides"
        message = f"this rule can never match: {why}"
        if manages:
            code = "only-manages"
            message = f"this rule only says who manages: {why} otherwise"
            hint = "what it says but manage = true has no effect"
        elif naming == [number]:
            hint = (
                "without it the built-in rule would hold again, by which everyone "
                f"may use network {DEFAULT_NETWORK}"
            )
        yield at(document, keys, Severity.WARNING, code, message, hint, locations)


def _shadowed_denials(reading: Reading, bridges_elsewhere: bool) -> Iterator[Finding]:
    rules = reading.config.rules
    for number, by, _ in shadowed_denials(rules):
        _, document, keys = reading.written[number]
        locations = tuple(rules[other].location for other in by)
        why = _several(locations, "deny", "denies")
        message = f"this rule denies nothing that is not denied already: {why} it"
        hint = "remove it"
        code = "shadowed-deny"
        yield at(document, keys, Severity.WARNING, code, message, hint, locations)
    for number in redundant_denials(rules, bridges_elsewhere):
        _, document, keys = reading.written[number]
        message = "this rule denies what no rule allows"
        hint = "what no rule allows is denied without it"
        yield at(document, keys, Severity.NOTE, "vain-deny", message, hint)


def _several(locations: Sequence[str], many: str, one: str) -> str:
    """Where rules stand, and what they do.

    :param locations: of the rules.
    :param many: the verb for several of them.
    :param one: the verb for one.
    """
    if len(locations) == 1:
        return f"{locations[0]} {one}"
    said = list(locations[:_MOST_LOCATIONS])
    if len(locations) > _MOST_LOCATIONS:
        said.append(f"{len(locations) - _MOST_LOCATIONS} more")
    return f"{', '.join(said[:-1])} and {said[-1]} {many}"


def _closed_networks(reading: Reading) -> Iterator[Finding]:
    rules = reading.config.rules
    for name in closed_networks(rules, reading.config.networks):
        about = [
            number
            for number, rule in enumerate(rules)
            if name in rule.networks or EVERY_NETWORK in rule.networks
        ]
        severity, why, hint = _why_closed(name, [rules[number] for number in about])
        message = f"nobody may use network {name}: {why}"
        document, keys = _network(reading, name) or reading.written[about[0]][1:]
        yield at(document, keys, severity, "closed-network", message, hint)


def _network(reading: Reading, name: str) -> tuple[Document, Keys] | None:
    """Where a network is written first; None if it is the default one and no file
    has it."""
    for document in reading.documents:
        if name in document.data.get("networks", {}):
            return document, ("networks", name)
    return None


def _why_closed(name: str, about: Sequence[Rule]) -> tuple[Severity, str, str]:
    """Why nobody may use a network, and what to do about it.

    :param about: the rules that are about the network.
    """
    add = f'add a rule with networks = ["{name}"]'
    naming = [rule for rule in about if name in rule.networks]
    for rule in about:
        if rule.effect == DENY and who(rule) == [EVERYONE] and not rule.guests:
            return Severity.NOTE, f"{rule.location} denies it to everyone", _NARROW
    if any(rule.effect != DENY for rule in about):
        why = "whomever a rule allows it, another denies it"
        return Severity.WARNING, why, _NARROW
    if name == DEFAULT_NETWORK and naming:
        why = f"{naming[0].location} names it, so that the built-in rule does not hold"
        hint = f'{add}; or deny networks = ["{EVERY_NETWORK}"], which names none'
        return Severity.WARNING, why, hint
    return Severity.WARNING, "no rule allows it", add


def _bypasses(reading: Reading, bridges: Collection[str]) -> Iterator[Finding]:
    networks = reading.config.networks
    on: dict[str, list[str]] = {}
    for name, network in networks.items():
        if network.bridge is not None:
            on.setdefault(network.bridge, []).append(name)
    rules = [*reading.config.rules, Rule(bridges=tuple(bridges))]
    for number, kind, name in bypasses(rules, on):
        _, document, keys = reading.written[number]
        if kind == BRIDGE:
            what = f"Linux bridge {name}, which network {on[name][0]} is on"
            hint = f'add bridges = ["{name}"] to it'
        else:
            what = f"network {name}, which is on Linux bridge {networks[name].bridge}"
            hint = f'add networks = ["{name}"] to it'
        message = f"this rule does not deny {what}, and that is allowed elsewhere"
        yield at(document, keys, Severity.WARNING, "way-around", message, hint)
