# SPDX-License-Identifier: LGPL-2.1-or-later
"""`polkit.subject`: which process polkit is asked about."""

from __future__ import annotations

import errno
import os
import subprocess

import pytest

from support.polkit_client import Connected
from tapster.daemon.decide.polkit.subject import Subject, Unclear
from tapster.kernel import process
from tapster.model import Peer

pytestmark = pytest.mark.usefixtures("no_leaked_fd")


def subject_of(connected: Connected) -> Subject:
    return Subject(connected.peer, connected)


def test_a_subject_is_the_process_that_is_connected(client: Connected) -> None:
    subject = subject_of(client)
    try:
        assert subject.pid == os.getpid()
        assert subject.started == process.start_time(os.getpid())
        assert subject.lives()
    finally:
        subject.close()


def old_kernel() -> int:
    raise OSError(errno.ENOPROTOOPT, "Protocol not available")


def test_an_older_kernel_s_subject_is_opened_by_its_pid(
    client: Connected, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(client, "pidfd", old_kernel)
    subject_of(client).close()


def test_a_process_that_started_after_the_connection_is_another(
    client: Connected, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(client, "pidfd", old_kernel)
    later = int(client.accepted * os.sysconf("SC_CLK_TCK")) + 1
    monkeypatch.setattr(process, "start_time", lambda _: later)
    with pytest.raises(Unclear, match="another process"):
        subject_of(client)


@pytest.mark.parametrize("code", [errno.ESRCH, errno.EINVAL, errno.ENODATA, 9, 24])
def test_a_process_without_a_pidfd_is_not_asked_about(
    client: Connected, monkeypatch: pytest.MonkeyPatch, code: int
) -> None:
    def fail() -> int:
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(client, "pidfd", fail)
    with pytest.raises(Unclear, match="no pidfd"):
        subject_of(client)


@pytest.mark.parametrize("uids", [(0, 12345), (12345, 0), (12345, 12345)])
def test_a_process_that_is_another_users_by_now_is_not_asked_about(
    client: Connected, monkeypatch: pytest.MonkeyPatch, uids: tuple[int, int]
) -> None:
    mine = tuple(os.getuid() if uid == 0 else uid for uid in uids)
    monkeypatch.setattr(process, "user_ids", lambda _: mine)
    with pytest.raises(Unclear, match="another user"):
        subject_of(client)


@pytest.mark.parametrize("what", ["user_ids", "start_time"])
def test_a_process_that_can_t_be_found_is_gone(
    client: Connected, monkeypatch: pytest.MonkeyPatch, what: str
) -> None:
    monkeypatch.setattr(process, what, lambda _: None)
    with pytest.raises(Unclear, match="gone"):
        subject_of(client)


def test_what_was_read_of_a_process_that_ended_meanwhile_is_worth_nothing(
    client: Connected, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its pid may have been another's when that was read."""
    child = subprocess.Popen(["true"])
    pidfd = os.pidfd_open(child.pid)
    child.wait()
    monkeypatch.setattr(client, "pidfd", lambda: pidfd)
    with pytest.raises(Unclear, match="gone"):
        subject_of(client)


@pytest.mark.parametrize(("uid", "pid"), [(0, 0), (1 << 31, 1), (0xFFFFFFFE, 1)])
def test_a_peer_that_polkit_has_no_words_for_is_not_asked_about(
    uid: int, pid: int
) -> None:
    with Connected() as client:
        client.peer = Peer(uid, 0, frozenset(), pid)
        with pytest.raises(Unclear):
            subject_of(client)


def test_polkit_is_asked_about_nobody_but_the_client_whose_call_it_is(
    client: Connected,
) -> None:
    other = Peer(client.peer.uid, 0, frozenset(), 1)
    for who in (None, client):
        with pytest.raises(Unclear, match="call"):
            Subject(other, who)
