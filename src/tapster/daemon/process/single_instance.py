# SPDX-License-Identifier: LGPL-2.1-or-later
"""At most one broker in a network namespace.

The lock file keeps two brokers out of one runtime directory. A second broker with
a runtime directory of its own would know none of the first one's taps: it would
write the nftables rules anew without them and remove them as leftovers. Something
is needed that exists once in a network namespace and ends with its process: a name
of an abstract Unix socket (unix(7)). Any user can bind such a name, so it counts
only if root or our own user holds it. A stranger who holds the name does not keep a
broker from starting.
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
_TRIES = 3  # the holder of the name may be ending just now


def acquire() -> socket.socket | None:
    """Become the only broker of this network namespace.

    :returns: a socket that holds the name until it is closed; None if a stranger
        holds the name, which is logged.
    :raises BrokerUnavailable: another broker serves this network namespace.
    """
    uids: set[int] = set()
    for _ in range(_TRIES):
        ours = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            ours.bind(NAME)  # never listens: nobody has to connect to it
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
