# SPDX-License-Identifier: LGPL-2.1-or-later
"""[[rules]]: who may have what, in the order of the files.

Names of users and groups become numbers here, so that a decision need not look them
up. A name that nobody has is an error: a rule that denies it would deny nobody.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator
from enum import StrEnum
from typing import Any, NamedTuple

from ...errors import ConfigError
from ...model import Rule
from ..core.rulebook import EVERY_NETWORK
from .network_file import MOST_NICS
from .network_values import interface, mac_pattern, port
from .toml_locations import Document, Invalid, Keys, did_you_mean
from .values import (
    Names,
    boolean,
    choice,
    duration,
    each,
    identity,
    integer,
    name_pattern,
    shown,
    string,
    table,
)


class Effect(StrEnum):
    """What a rule does with the requests that it is about."""

    ALLOW = "allow"
    DENY = "deny"
    POLKIT = "polkit"


# Keys that say on which terms something is allowed: a rule that denies has none.
_OF_ALLOW = ("max_nics", "macs", "trusted", "forward", "ttl", "manage")


class Written(NamedTuple):
    """A rule, and where it is written."""

    rule: Rule
    document: Document
    keys: Keys


def read(document: Document, names: Names) -> list[Written]:
    """The rules of one file.

    :raises ConfigError: a value is not acceptable, or a key not known.
    """
    found = document.data.get("rules", [])
    if not isinstance(found, list):
        raise document.error(
            ("rules",), f"{shown(found)} is not a list: write [[rules]]", 0
        )
    rules = []
    for number, item in enumerate(found):
        keys: Keys = ("rules", number)
        try:
            values = table(item, converters(names))
            rules.append(Written(_rule(document.line(*keys), values), document, keys))
        except Invalid as err:
            raise document.error(keys, err) from None
    return rules


def check(rules: Collection[Written], networks: Collection[str]) -> None:
    """Check that all networks of the rules exist.

    :raises ConfigError: a rule is about a network that no file defines.
    """
    for error in unknown_networks(rules, networks):
        raise error


def unknown_networks(
    rules: Collection[Written], networks: Collection[str]
) -> Iterator[ConfigError]:
    """An error for each network that a rule is about and no file defines."""
    for rule, document, keys in rules:
        for number, name in enumerate(rule.networks):
            if name != EVERY_NETWORK and name not in networks:
                text = f"there is no network {shown(name)}"
                yield document.error(
                    (*keys, "networks", number), text + did_you_mean(name, networks)
                )


def _rule(location: str, values: dict[str, Any]) -> Rule:
    if not values.get("networks") and not values.get("bridges"):
        raise Invalid("a rule needs networks or bridges")
    effect = values.setdefault("effect", Effect.ALLOW)
    if effect is Effect.DENY:
        for key in _OF_ALLOW:
            if key in values:
                raise Invalid('not for effect = "deny"', key)
    for key in ("users", "groups"):
        if key in values:
            values[key] = frozenset(values[key])
    return Rule(location, **{**values, "effect": str(effect)})


def _linux_bridge(value: Any) -> str:
    if value == EVERY_NETWORK:
        raise Invalid(f"{shown(value)} is for networks; name each Linux bridge")
    return interface(value)


def converters(names: Names) -> dict[str, Callable[[Any], Any]]:
    """For each key of a rule, the function that checks and types its value."""
    everyone = "leave it out for everyone"
    return {
        "users": each(identity("user", names.uid), everyone),
        "groups": each(identity("group", names.gid), everyone),
        "networks": each(string, "leave it out for none"),
        "bridges": each(_linux_bridge, "leave it out for none"),
        "effect": choice(Effect),
        "max_nics": integer(1, MOST_NICS),
        "macs": each(mac_pattern, "leave it out for any"),
        "guests": each(name_pattern, "leave it out for any"),
        "ttl": duration,
        "trusted": boolean,
        "forward": each(port),
        "manage": boolean,
    }
