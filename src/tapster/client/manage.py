# SPDX-License-Identifier: LGPL-2.1-or-later
"""Ask the broker about networks, forwarded ports, the policy and the host's health.

A program that only wants a tap imports `client.attach`, and does not pay for this.
In every function here, `where` and what is raised are those of
`client.attach.list_nics()`, and `interactive` is that of `client.attach.attach()`.
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

    Root gets all networks, with one entry for each user's instance. Somebody who
    manages a network gets that of every user.
    """
    networks = ask("ListNetworks", {}, where).get("networks")
    return check_list(networks, NETWORK, "network")


def reload(*, interactive: bool = False, **where: Any) -> list[str]:
    """Have the broker read its configuration again.

    :returns: what changed, a line each.
    :raises NotAuthorized: the caller is not root, does not manage every network,
        and the broker is not the caller's own.
    :raises ConfigInvalid: the configuration is wrong; nothing changed.
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
    """Forward a port of the host to a guest.

    :param port: of the host, "tcp/8080".
    :param guest: the guest's name. It need not be attached.
    :param guest_port: the number of the guest's port.
    :param network: the guest's network; the default one if None.
    :returns: the fields of a ForwardInfo.
    :raises ForwardRefused: the port is taken, privileged or not granted.
    """
    parameters = {"port": port, "guest": guest, "guest_port": guest_port}
    reply = ask("AddForward", _with_network(parameters, network), where, interactive)
    return check(reply.get("forward"), FORWARD, "forward")


def remove_forward(
    port: str, network: str | None = None, *, interactive: bool = False, **where: Any
) -> None:
    """Stop forwarding a port, the caller's or one that the caller manages.

    :param port: of the host, "tcp/8080".
    :param network: the guest's network; the default one if None.
    :raises NoSuchForward: the port is not forwarded, or is another user's.
    """
    parameters = _with_network({"port": port}, network)
    ask("RemoveForward", parameters, where, interactive)


def list_forwards(**where: Any) -> list[dict[str, Any]]:
    """The forwarded ports of the caller's guests and of those that the caller
    manages, for root all of them; with the fields of ForwardInfo."""
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
    """Whether a user may attach a guest, or forward a port to it, and by which rules.

    Nothing is attached or forwarded, and polkit is not asked.

    :param user: name or number; the caller if None. Only root may ask about others.
    :param network: as for `attach()`.
    :param bridge: as for `attach()`.
    :param name: the guest's.
    :param mac: the guest's.
    :param forward: a port of the host, "tcp/8080", if the question is about that.
    :returns: the fields of an Explanation.
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
    """What the broker finds wrong with the host, in no particular order."""
    findings = ask("Diagnose", {}, where).get("findings")
    return check_list(findings, FINDING, "finding")


def _with_network(parameters: dict[str, Any], network: str | None) -> dict[str, Any]:
    """The parameters, and the network if one is given."""
    return parameters if network is None else {**parameters, "network": network}
