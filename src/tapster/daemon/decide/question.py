# SPDX-License-Identifier: LGPL-2.1-or-later
"""What polkit is asked, in its own terms: an action, and what of the request an
authentication agent may show."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol

from ...model import Peer, Port
from ...policy.core.rulebook import Target
from ..identify.accounts import user_name
from .polkit.client import Answer

# Of data/io.tapster.policy.
ATTACH, FORWARD, MANAGE = (
    f"io.tapster.{verb}" for verb in ("attach", "forward", "manage")
)


class Authority(Protocol):
    """Who is asked: `polkit.client.Polkit`."""

    async def authorize(
        self, peer: Peer, action: str, details: Mapping[str, str], interactive: bool
    ) -> Answer: ...


async def ask(
    authority: Authority,
    peer: Peer,
    action: str,
    target: Target,
    *,
    verb: str,
    port: Port | str | None = None,
    interactive: bool = False,
) -> str | None:
    """Ask polkit whether a caller may do something.

    :param peer: the caller.
    :param action: one of ATTACH, FORWARD and MANAGE.
    :param target: what it would be done to; nothing in it where that is anything.
    :param verb: what is asked for, as the audit record calls it; "list" where
        other users' things would be shown.
    :param port: the host's port that would be forwarded.
    :param interactive: whether a person may be asked for a password.
    :returns: why polkit does not allow it; None if it does.
    :raises CancelledError: the client is gone.
    """
    details = {
        "verb": verb,
        "user": user_name(peer.uid),
        "network": target.network,
        "bridge": target.bridge,
        "guest": target.name,
        "port": str(port) if port is not None else None,
    }
    told = {key: value for key, value in details.items() if value}
    answer = await authority.authorize(peer, action, told, interactive)
    return None if answer.allowed else answer.reason
