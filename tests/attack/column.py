# SPDX-License-Identifier: LGPL-2.1-or-later
"""Running attacks: a site for each group, and what came of each attack."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from attack.ours import TapsterSite
from attack.peer import PeerSite
from attack.registry import GROUPS, Attack, NotShown
from attack.site import Site
from lab import Lab

SITES: dict[str, Callable[[Lab], Site]] = {"peer": PeerSite, "tapster": TapsterSite}


@dataclass(frozen=True)
class Outcome:
    """What one attack came to at one site. `held` is None where nothing was shown,
    and `observed` then says why, as it says for an attack that does not apply."""

    held: bool | None
    observed: str = ""
    applies: bool = True
    seconds: float = 0.0

    def __str__(self) -> str:
        if not self.applies:
            return f"does not apply: {self.observed}"
        if self.held is None:
            return f"not shown: {self.observed}"
        return "held" if self.held else f"broke: {self.observed}"


def run(attack: Attack, site: Site) -> Outcome:
    """One attack; afterwards the site is as it was."""
    if site.name == "peer" and attack.not_for_peer:
        return Outcome(None, attack.not_for_peer, applies=False)
    start = time.monotonic()
    try:
        with site.round():
            observed = attack.run(site)
    except NotShown as reason:
        return Outcome(None, str(reason))
    if observed and len(site.grounds) == 1:
        observed = observed.removeprefix(f"{site.grounds[0]}: ")
    return Outcome(not observed, observed or "", seconds=time.monotonic() - start)


@contextmanager
def made(name: str) -> Iterator[Site]:
    """A site of that name, in a lab that ends with it."""
    with (
        tempfile.TemporaryDirectory(prefix="tapster-") as directory,
        Lab(Path(directory)) as lab,
        SITES[name](lab) as site,
    ):
        yield site


def column(
    name: str, attacks: Iterable[Attack], told: Callable[[Attack, Outcome], None]
) -> dict[str, Outcome]:
    """Each attack's outcome at that site, by its name."""
    chosen, outcomes = list(attacks), {}
    for group in GROUPS:
        of_group = [attack for attack in chosen if attack.group == group]
        if not of_group:
            continue
        with made(name) as site:
            for attack in of_group:
                outcomes[attack.name] = run(attack, site)
                told(attack, outcomes[attack.name])
    return outcomes
