# SPDX-License-Identifier: LGPL-2.1-or-later
"""What a request about a forward names: a network, a port of the host, a guest.

As in `request.py`, form is checked before anything that exists is looked up.
"""

from __future__ import annotations

from ...errors import InvalidRequest
from ...model import Forward, Port
from ...networks import definition_json
from ...policy.core.rulebook import DEFAULT_NETWORK
from ...syntax import is_label


def parse_network(text: str | None) -> str:
    """A network's name; None means the default network.

    :raises InvalidRequest: no network can have that name.
    """
    if text is None:
        return DEFAULT_NETWORK
    if not is_label(text):
        raise InvalidRequest("network: not a network's name", "letters, digits and '-'")
    return text


def parse_port(text: str) -> Port:
    """One port of the host, as in "tcp/8080".

    :raises InvalidRequest: the text names no port, or a range.
    """
    try:
        port = definition_json.parse_port(text)
    except ValueError:
        raise InvalidRequest("port: not a port", "as in tcp/8080 or udp/53") from None
    if port.first != port.last:
        raise InvalidRequest("port: a range", "one port at a time")
    return port


def parse_forward(port: str, guest: str, guest_port: int) -> Forward:
    """A forward in its normal form: the guest's name in lower case.

    :param port: of the host, as in "tcp/8080".
    :param guest: the guest's name.
    :param guest_port: the guest's own port, of the same protocol.
    :raises InvalidRequest: one of them is not acceptable, whatever exists.
    """
    parsed = parse_port(port)
    if not is_label(guest.lower()):
        raise InvalidRequest("guest: not a host name", "letters, digits and '-'")
    if isinstance(guest_port, bool) or not 0 < guest_port < 65536:
        raise InvalidRequest("guest_port: not a port", "1 to 65535")
    return Forward(parsed, guest.lower(), guest_port)
