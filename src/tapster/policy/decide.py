# SPDX-License-Identifier: LGPL-2.1-or-later
"""May this caller have this? A pure function of facts that others gathered.

Default deny. What is allowed in this version: the network `default` to every
local user, up to a number of NICs each, and Linux bridges as bridge.conf says.
"""

from __future__ import annotations

from typing import NamedTuple

from ..model import Peer
from .bridge_conf import Verdict

DEFAULT_NETWORK = "default"
MAX_NICS = 16  # a user, on the default network


class Target(NamedTuple):
    """What a request turned out to be about: one of the two, or neither."""

    network: str | None = None
    bridge: str | None = None


class Decision(NamedTuple):
    """`reason` is for the log, never for the caller."""

    allowed: bool
    reason: str
    over_quota: bool = False


def decide(peer: Peer, target: Target, nics: int, verdict: Verdict | None) -> Decision:
    """Decide a request to attach.

    :param nics: how many the caller has on that network now.
    :param verdict: of bridge.conf, when the target is a Linux bridge.
    """
    if target.bridge is not None:
        if verdict is None:
            return Decision(False, f"bridge {target.bridge} was not judged")
        return Decision(verdict.allowed, verdict.reason)
    if target.network is None:
        return Decision(False, "no such network or bridge")
    if target.network != DEFAULT_NETWORK:
        return Decision(False, f"no rule allows network {target.network}")
    if nics >= MAX_NICS:
        return Decision(
            False, f"uid {peer.uid} has {nics} of {MAX_NICS} NICs", over_quota=True
        )
    return Decision(True, f"every user may use network {target.network}")
