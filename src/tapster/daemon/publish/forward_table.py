# SPDX-License-Identifier: LGPL-2.1-or-later
"""All forwards there are: whose each is, and the file that keeps users' ones.

A forward belongs to a guest's name. It stays when the guest goes, and leads to the
guest again when the guest is back. Each row's port is held by bound sockets, so that
no program of the host takes the port and then gets no callers.
"""

from __future__ import annotations

import json
import logging
import socket
from collections.abc import Iterator
from dataclasses import dataclass, field

from ... import jsonutil
from ...jsonutil import integer, string, text_as
from ...model import Forward, Port, State
from ...networks import definition_json, state_files
from ...syntax import is_label
from ..nics.nic import Nic
from .host_port import hold

_log = logging.getLogger(__name__)

USER_LIMIT = 32  # forwards of one user; each holds two descriptors
HOST_LIMIT = 4096  # forwards of all users and of the configuration

PortKey = tuple[str, int]  # protocol and number


@dataclass(slots=True)
class Row:
    """One forward."""

    network: str
    uid: int | None  # None: it is the configuration's, for any user's guest
    forward: Forward
    sockets: list[socket.socket] = field(default_factory=list)  # hold the port
    nic: Nic | None = None  # the guest's as it was when the forward was opened

    @property
    def key(self) -> PortKey:
        """What no two forwards of a host share."""
        return key_of(self.forward.port)

    def matches(self, nic: Nic) -> bool:
        """Whether a NIC bears the name that the forward is for, and can be reached."""
        return (
            nic.network == self.network
            and nic.name == self.forward.guest
            and self.uid in (None, nic.uid)
            and nic.state is State.ACTIVE
            and nic.ipv4 is not None
        )

    def hold_port(self) -> None:
        """Bind the port unless that is done already.

        :raises OSError: another program has it, or we may not bind it.
        """
        if not self.sockets:
            self.sockets = hold(self.forward.port)

    def release_port(self) -> None:
        """Let other programs bind the port."""
        for sock in self.sockets:
            sock.close()
        self.sockets = []


def key_of(port: Port) -> PortKey:
    """The key of a single port."""
    return port.protocol, port.first


class ForwardTable:
    """The rows, by port."""

    def __init__(self, path: str) -> None:
        """Read the forwards that an earlier broker kept, and hold their ports.

        :param path: the file that keeps users' forwards.
        """
        self._path = path
        self._rows: dict[PortKey, Row] = {}
        self._load()

    def __len__(self) -> int:
        return len(self._rows)

    def __iter__(self) -> Iterator[Row]:
        return iter(self._rows.values())

    def get(self, key: PortKey) -> Row | None:
        return self._rows.get(key)

    def count(self, uid: int) -> int:
        """How many forwards a user has."""
        return sum(row.uid == uid for row in self._rows.values())

    def insert(self, row: Row) -> None:
        """Take a row in. Its port is free in the table."""
        self._rows[row.key] = row

    def insert_held(self, row: Row) -> None:
        """Take a row in and hold its port. If another program has the port, the row
        is there all the same and waits."""
        try:
            row.hold_port()
        except OSError as err:
            _log.warning("port %s is not held: %s", row.forward.port, err.strerror)
        self.insert(row)

    def delete(self, row: Row) -> None:
        """Take a row out and let its port go."""
        row.release_port()
        del self._rows[row.key]

    def save(self) -> None:
        """Keep users' forwards for the next broker.

        :raises OSError: the file can't be written; the one before is still there.
        """
        rows = [
            [row.network, row.uid, str(f.port), f.guest, f.guest_port]
            for row in self._rows.values()
            for f in (row.forward,)
            if row.uid is not None
        ]
        state_files.replace(self._path, json.dumps(rows))

    def close(self) -> None:
        """Let all ports go; the rows stay in the file."""
        for row in self._rows.values():
            row.release_port()

    def _load(self) -> None:
        try:
            found = state_files.read_json(self._path)
        except FileNotFoundError:
            return
        except ValueError as err:
            _log.warning("%s is damaged; forwards are lost: %s", self._path, err)
            return
        for entry in found if isinstance(found, list) else [found]:
            try:
                row = _parse_row(entry)
                if row.key in self._rows or len(self._rows) >= HOST_LIMIT:
                    raise ValueError("one too many")
            except ValueError as err:
                # One row that nftables refuses would make it refuse all others, too.
                _log.warning(
                    "%s is damaged; a forward is lost: %s", self._path, str(err)[:200]
                )
                continue
            self.insert_held(row)


def _label(value: object) -> str:
    if not is_label(text := string(value)):
        raise ValueError("not the name of a network or of a guest")
    return text


def _single_port(text: str) -> Port:
    port = definition_json.parse_port(text)
    if port.first != port.last:
        raise ValueError("a range of ports")
    return port


def _parse_row(entry: object) -> Row:
    """:raises ValueError: no broker wrote such a row."""
    network, uid, port, guest, guest_port = jsonutil.row(
        entry,
        *(_label, integer(0, 2**32 - 1)),
        *(text_as(_single_port), _label, integer(1, 65535)),
    )
    return Row(network, uid, Forward(port, guest, guest_port))
