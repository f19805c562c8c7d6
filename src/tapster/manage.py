# SPDX-License-Identifier: LGPL-2.1-or-later
"""Asking the broker about networks, forwarded ports and the host's health.

A program that only wants a tap imports `tapster.client`, and pays for none of
this. Everything here takes `where` as `client.list_nics()` does, and raises as it.
"""

from __future__ import annotations

from tapster.client import ask
from tapster.errors import ProtocolError
from tapster.fields import FINDING, FORWARD, NETWORK, check, check_list, is_strings

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any


def list_networks(**where: Any) -> list[dict[str, Any]]:
    """The networks that the caller may use, with the fields of NetworkInfo.

    Root sees all, a network as often as users have an instance of it.
    """
    networks = ask("ListNetworks", {}, where).get("networks")
    return check_list(networks, NETWORK, "network")


def reload(**where: Any) -> list[str]:
    """Have the broker read its configuration anew; returns what changed.

    :raise NotAuthorized: the caller is not root, and the broker not its own.
    :raise ConfigInvalid: it is wrong, and nothing changed.
    """
    changes = ask("Reload", {}, where).get("changes")
    if not isinstance(changes, list) or not is_strings(changes):
        raise ProtocolError("the broker's answer has no list of changes")
    return changes


def add_forward(
    port: str, guest: str, guest_port: int, network: str | None = None, **where: Any
) -> dict[str, Any]:
    """Have a port of the host lead to a guest; returns a ForwardInfo's fields.

    :param port: of the host, "tcp/8080".
    :param guest: its name; it need not be attached.
    :param network: the guest's; the default one if None.
    :raise ForwardRefused: the port is taken, privileged or not granted.
    """
    parameters = {"port": port, "guest": guest, "guest_port": guest_port}
    reply = ask("AddForward", _with_network(parameters, network), where)
    return check(reply.get("forward"), FORWARD, "forward")


def remove_forward(port: str, network: str | None = None, **where: Any) -> None:
    """Undo `add_forward()`.

    :raise NoSuchForward: the caller has not forwarded that port.
    """
    ask("RemoveForward", _with_network({"port": port}, network), where)


def list_forwards(**where: Any) -> list[dict[str, Any]]:
    """The ports that lead to the caller's guests; root sees all."""
    forwards = ask("ListForwards", {}, where).get("forwards")
    return check_list(forwards, FORWARD, "forward")


def diagnose(**where: Any) -> list[dict[str, Any]]:
    """What the broker finds wrong with the host, in no order."""
    findings = ask("Diagnose", {}, where).get("findings")
    return check_list(findings, FINDING, "finding")


def _with_network(parameters: dict[str, Any], network: str | None) -> dict[str, Any]:
    """The parameters, with a network where there is one."""
    return parameters if network is None else {**parameters, "network": network}
