# SPDX-License-Identifier: LGPL-2.1-or-later
"""What a decision goes by besides the rules: plain values that others gathered.

The files and the ledger are read elsewhere (`policy/foreign`, the daemon). What they
say arrives here as values, so that deciding reads nothing and can be tested alone.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from ...model import Rule


class Source(NamedTuple):
    """A line of bridge.conf, or of a file that it includes."""

    path: str
    line: int
    text: str


class Verdict(NamedTuple):
    """What bridge.conf says about one caller and one Linux bridge."""

    allowed: bool
    reason: str  # one line for the log: never for the caller
    source: Source | None  # the line that decided
    notes: tuple[str, ...]  # what was ignored, or is not what it seems
    # The file exists but could not be judged whole: an unread line may deny.
    undecided: bool = False


class Share(NamedTuple):
    """The NICs that lxc-usernet grants the caller on one bridge by one name.

    The name is the caller's own or, with an "@", a group's. Of the `nics` granted,
    `used` are taken; those of a group by any of its members.
    """

    name: str
    nics: int
    used: int


class Usernet(NamedTuple):
    """What lxc-usernet grants the caller on one bridge."""

    shares: tuple[Share, ...]
    location: str  # file:line of the lines that grant it

    @property
    def nics(self) -> int:
        return sum(share.nics for share in self.shares)

    @property
    def used(self) -> int:
        return sum(share.used for share in self.shares)


def no_nics(_rule: Rule, _bridges: bool) -> int:
    """`Facts.used` of a caller who has no NIC."""
    return 0


class Facts(NamedTuple):
    """What a decision goes by besides the rules."""

    # Counts the caller's NICs that a rule applies to: used(rule, bridges). With
    # `bridges`, those on Linux bridges count too; without, those on networks only.
    used: Callable[[Rule, bool], int] = no_nics
    verdict: Verdict | None = None  # where the target is a Linux bridge
    usernet: Usernet | None = None
    network_nics: int = 0  # NICs of all users on the network
    network_limit: int | None = None  # how many these may be; None: any number
