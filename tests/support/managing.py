# SPDX-License-Identifier: LGPL-2.1-or-later
"""What `tapster.client.manage` asks for, as one of the lab's users."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from lab import Lab
from support.host import SOCKET_NAME, as_user
from tapster.client import manage


def by(lab: Lab, uid: int, function: Callable[..., Any], *arguments: Any) -> Any:
    """The result of one of manage's functions, for that user."""
    with as_user(lab, uid):
        return function(*arguments, socket=SOCKET_NAME)


def forward(
    lab: Lab, uid: int, port: str, guest: str, number: int, network: str | None = None
) -> dict[str, Any]:
    """`add_forward` by that user."""
    told: dict[str, Any] = by(
        lab, uid, manage.add_forward, port, guest, number, network
    )
    return told


def remove(lab: Lab, uid: int, port: str, network: str | None = None) -> None:
    """`remove_forward` by that user."""
    by(lab, uid, manage.remove_forward, port, network)


def forwards(lab: Lab, uid: int) -> dict[str, dict[str, Any]]:
    """What that user sees of forwarded ports, by port."""
    return {row["port"]: row for row in by(lab, uid, manage.list_forwards)}


def network(lab: Lab, uid: int, name: str) -> dict[str, Any]:
    """What that user is told of the one network of that name."""
    (found,) = (n for n in by(lab, uid, manage.list_networks) if n["name"] == name)
    return dict(found)


def reload(lab: Lab, uid: int = 0) -> list[str]:
    """Have the broker read its configuration anew."""
    changes: list[str] = by(lab, uid, manage.reload)
    return changes
