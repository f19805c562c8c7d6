# SPDX-License-Identifier: LGPL-2.1-or-later
"""Asking the broker about networks, ports, the policy and the host's health.

A program that only wants a tap imports `tapster.client`, and pays for none of
this. Everything here takes `where` as `client.list_nics()` does, and raises as it;
`interactive` is as in `client.attach()`.
"""

from __future__ import annotations

from tapster.client.attach import ask, check_request
from tapster.client.fields import (
    EXPLANATION,
    FINDING,
    FORWARD,
    NETWORK,
    STEP,
)
from tapster.client.reply import check, check_list, is_strings
from tapster.errors import ProtocolError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any


def list_networks(**where: Any) -> list[dict[str, Any]]:
    """The networks that the caller may use, with the fields of NetworkInfo.

    Root sees all, a network as often as users have an instance of it; and who
    manages a network those.
    """
    networks = ask("ListNetworks", {}, where).get("networks")
    return check_list(networks, NETWORK, "network")


def reload(*, interactive: bool = False, **where: Any) -> list[str]:
    """Have the broker read its configuration anew; returns what changed.

    :raises NotAuthorized: the caller is not root and does not manage every
        network, and the broker is not its own.
    :raises ConfigInvalid: it is wrong, and nothing changed.
    """
    changes = ask("Reload", {}, where, interactive).get("changes")
    if not isinstance(changes, list) or not is_strings(changes):
        raise ProtocolError("the broker's answer has no list of changes")
    return changes


def add_forward(
    port: str,
    guest: str,
    guest_port: int,
    network: str | None = None,
    *,
    interactive: bool = False,
    **where: Any,
) -> dict[str, Any]:
    """Have a port of the host lead to a guest; returns a ForwardInfo's fields.

    :param port: of the host, "tcp/8080".
    :param guest: its name; it need not be attached.
    :param network: the guest's; the default one if None.
    :raises ForwardRefused: the port is taken, privileged or not granted.
    """
    parameters = {"port": port, "guest": guest, "guest_port": guest_port}
    reply = ask("AddForward", _with_network(parameters, network), where, interactive)
    return check(reply.get("forward"), FORWARD, "forward")


def remove_forward(
    port: str, network: str | None = None, *, interactive: bool = False, **where: Any
) -> None:
    """Undo `add_forward()`, the caller's own or one that it manages.

    :raises NoSuchForward: there is none, or it is another's.
    """
    parameters = _with_network({"port": port}, network)
    ask("RemoveForward", parameters, where, interactive)


def list_forwards(**where: Any) -> list[dict[str, Any]]:
    """The ports that lead to the caller's guests, and those that it manages; root
    sees all."""
    forwards = ask("ListForwards", {}, where).get("forwards")
    return check_list(forwards, FORWARD, "forward")


def explain(
    user: str | None = None,
    network: str | None = None,
    bridge: str | None = None,
    name: str | None = None,
    mac: str | None = None,
    forward: str | None = None,
    **where: Any,
) -> dict[str, Any]:
    """Whether a user may attach this, or forward a port to it, and by which rules;
    with the fields of Explanation. Nothing is done, and nobody is asked.

    :param user: name or number; the caller if None. Of others only root is told.
    :param forward: a port of the host, "tcp/8080", if that is the question.
    :raises InvalidRequest: a parameter cannot be right, or there is no such user.
    :raises NotAuthorized: it is about another user, and the caller is not root.
    """
    parameters = check_request(network, bridge, name, mac)
    given = {"user": user, "forward": forward}
    parameters |= {key: value for key, value in given.items() if value is not None}
    reply = ask("Explain", parameters, where)
    told = check(reply.get("explanation"), EXPLANATION, "explanation")
    told["steps"] = check_list(told.get("steps"), STEP, "step")
    return told


def diagnose(**where: Any) -> list[dict[str, Any]]:
    """What the broker finds wrong with the host, in no order."""
    findings = ask("Diagnose", {}, where).get("findings")
    return check_list(findings, FINDING, "finding")


def _with_network(parameters: dict[str, Any], network: str | None) -> dict[str, Any]:
    """The parameters, with a network where there is one."""
    return parameters if network is None else {**parameters, "network": network}
