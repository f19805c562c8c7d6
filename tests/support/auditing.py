# SPDX-License-Identifier: LGPL-2.1-or-later
"""Requests and NICs that audit records are about."""

from __future__ import annotations

import os
from typing import Any

from support.builders import make_nic, make_peer
from tapster.daemon.audit.request_context import RequestContext
from tapster.daemon.nics.nic import Nic
from tapster.model import Peer

ALICE, BOB = 23001, 23002
RULE = "/etc/tapster/tapster.toml:3"


def peer(uid: int = ALICE) -> Peer:
    """A user's process that is not to be found."""
    return make_peer(uid, gid=uid + 1, groups=frozenset(), pid=0)


def us() -> Peer:
    """This very process."""
    return make_peer(os.getuid(), gid=os.getgid(), groups=frozenset(), pid=os.getpid())


def context(uid: int = ALICE, verb: str = "attach", **what: Any) -> RequestContext:
    """A user's request; `what` is known of it."""
    made = RequestContext(peer(uid), verb)
    for name, value in what.items():
        setattr(made, name, value)
    return made


def nic(uid: int = ALICE) -> Nic:
    """A user's guest "web" on the default network."""
    return make_nic(
        7,
        ifname="tapsternabc",
        uid=uid,
        pid=17,
        name="web",
        mac="0a:00:00:00:00:01",
        ipv4="10.1.2.3",
    )
