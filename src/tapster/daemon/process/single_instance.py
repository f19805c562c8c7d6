# SPDX-License-Identifier: LGPL-2.1-or-later
"""One broker in a network namespace.

A second one, of another runtime directory, would know none of the first one's
taps: it would make the rules anew without them and take them for leftovers. What
is alone in a network namespace, and gone with its process, is a name of an
abstract Unix socket (unix(7)). Anybody can take one, so it counts only if it is
root's or our own user's; a stranger who has it keeps no broker from starting.
"""

from __future__ import annotations

import errno
import logging
import os
import socket

from ...errors import BrokerUnavailable
from ...kernel import unixdiag

_log = logging.getLogger(__name__)

NAME = "\0io.tapster.Broker"
_TRIES = 3  # another may be ending just now


def claim() -> socket.socket | None:
    """Be the only broker of this network namespace.

    :returns: what says so for as long as it is open; None if a stranger has the name.
    :raises BrokerUnavailable: another broker serves it.
    """
    uids: set[int] = set()
    for _ in range(_TRIES):
        ours = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            ours.bind(NAME)  # never listened to: nobody has to ask anything there
            return ours
        except OSError as err:
            ours.close()
            if err.errno != errno.EADDRINUSE:
                raise BrokerUnavailable(f"no abstract socket: {err.strerror}") from err
        try:
            uids = unixdiag.owners(NAME.encode())
        except OSError as err:
            _log.debug("whose sockets are whose is not known: %s", err)
            uids = set()
            break
        if uids & {0, os.geteuid()}:
            raise BrokerUnavailable(
                "another broker serves this network namespace",
                "stop that one first, or start this one in a namespace of its own",
            )
        if uids:
            break
    _log.warning(
        "uid %s has the abstract socket %r: whether another broker serves this"
        " network namespace is not known",
        ", ".join(map(str, sorted(uids))) or "?",
        NAME[1:],
    )
    return None
