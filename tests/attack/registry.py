# SPDX-License-Identifier: LGPL-2.1-or-later
"""The list of attacks: what each would achieve, and whom it is for.

An attack is a function of a site. It returns None if it held, and otherwise what
was observed. "Held" has to mean something: an attack first shows that what it
looks at works where nobody attacks, or that the same thing is had by who may have
it, and raises NotShown if not.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from attack.site import Site

GROUPS = (
    "holder", "device", "frames", "segment", "routed", "clients", "broker", "policy"
)  # fmt: skip
TITLES = {
    "holder": "MACs, persistence, owners: a tap's holder",
    "device": "Settings, queues, programs: devices",
    "frames": "Frames in another's name",
    "segment": "Frames in one's own name",
    "routed": "What the host routes and serves",
    "clients": "Clients without measure",
    "broker": "What is asked of the broker",
    "policy": "Names, files and quotas",
}

Run = Callable[["Site"], "str | None"]


class NotShown(Exception):
    """The control failed: what was observed says nothing about the attack."""


@dataclass(frozen=True)
class Attack:
    """`would`: what it would achieve. `not_for_peer`: why it does not apply there,
    or "" if it does. `known`: it works, this is why, and whom it concerns."""

    name: str
    group: str
    would: str
    run: Run
    not_for_peer: str = ""
    known: str = ""


ATTACKS: dict[str, Attack] = {}


def attack(
    name: str, would: str, *, not_for_peer: str = "", known: str = ""
) -> Callable[[Run], Run]:
    """Enter a function into the list; its module is its group."""

    def enter(function: Run) -> Run:
        if name in ATTACKS:
            raise ValueError(f"two attacks are called {name!r}")
        group = function.__module__.rpartition(".")[2]
        ATTACKS[name] = Attack(name, group, would, function, not_for_peer, known)
        return function

    return enter


def control(holds: object, what: str) -> None:
    """:raises NotShown: it does not hold."""
    if not holds:
        raise NotShown(what)


def load() -> list[Attack]:
    """All attacks, by group and in the order in which they are written."""
    for group in GROUPS:
        importlib.import_module(f"attack.{group}")
    return sorted(ATTACKS.values(), key=lambda each: GROUPS.index(each.group))
