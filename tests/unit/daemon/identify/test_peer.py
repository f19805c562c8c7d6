# SPDX-License-Identifier: LGPL-2.1-or-later
"""`identify.peer`: the kernel says who is at the other end of a socket."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator

import pytest

from tapster.daemon.identify import peer
from tapster.daemon.identify.accounts import account_of


@pytest.fixture
def connection() -> Iterator[socket.socket]:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        yield ours


def test_a_peer_is_the_process_that_connected(connection: socket.socket) -> None:
    found = peer.identify(connection)
    assert (found.uid, found.gid, found.pid) == (
        os.geteuid(),
        os.getegid(),
        os.getpid(),
    )
    assert found.groups == {os.getegid(), *os.getgroups()}
    assert found.account_groups == account_of(os.geteuid()).groups


def test_credentials_are_those_of_the_peer(connection: socket.socket) -> None:
    found = peer.identify(connection)
    assert peer.credentials(connection) == (found.pid, found.uid, found.gid)


def test_a_socket_that_is_not_connected_has_no_peer() -> None:
    with socket.socket(socket.AF_INET) as sock, pytest.raises(OSError):
        peer.identify(sock)


@pytest.mark.parametrize("first", [1, 64])
def test_groups_are_read_whole_whatever_their_number(
    connection: socket.socket, monkeypatch: pytest.MonkeyPatch, first: int
) -> None:
    monkeypatch.setattr(peer, "_GROUPS", first)
    assert peer.groups(connection) == frozenset(os.getgroups())
