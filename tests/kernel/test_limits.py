# SPDX-License-Identifier: LGPL-2.1-or-later
"""[limits]: who is beyond one is told so or waits, and nobody else notices; after
that he is served as before."""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Iterator
from contextlib import ExitStack

import pytest

from lab import OTHER, USER, Daemon, Lab, until
from support.host import (
    Watcher,
    ask,
    attach,
    broker,
    leftovers,
    plain_socket,
    until_nothing_is_left,
)
from support.raw import GET_INFO, call, descriptors, messages, receive
from support.serving import serving
from tapster import errors

CONFIG = """
[limits]
connections = 40
connections_per_user = 20
stalled_connection_seconds = 0.5
calls_per_user = 2
requests_per_second = 2
requests_at_once = 4
watchers = 5
watchers_per_user = 3
[broker]
network_grace_seconds = 0.1
"""


@pytest.fixture(scope="module")
def daemon(lab: Lab) -> Iterator[Daemon]:
    with serving(lab, CONFIG) as running:
        with pytest.raises(errors.NotAuthorized):  # what it opens once it has open
            attach(lab, OTHER, bridge="gone")
        yield running


@pytest.fixture(autouse=True)
def nothing_is_left(lab: Lab, daemon: Daemon) -> Iterator[None]:
    until("quiet", lambda: leftovers(lab) == [])
    before = descriptors(daemon)
    yield
    until_nothing_is_left(lab, networks=True)
    try:
        until("its descriptors", lambda: descriptors(daemon) <= before)
    except TimeoutError:
        directory = f"/proc/{daemon.process.pid}/fd"
        found = [os.readlink(f"{directory}/{fd}") for fd in os.listdir(directory)]
        raise AssertionError(f"more than {before}: {found}") from None
    for uid in (USER, OTHER):
        ask(lab, uid, "GetInfo")


REFUSED = call("Attach", parameters={"bridge": "gone"})


class TestRequests:
    def test_beyond_the_rate_wait_and_others_do_not(
        self, lab: Lab, daemon: Daemon
    ) -> None:
        with ExitStack() as stack:
            waiting = [stack.enter_context(plain_socket(lab, USER)) for _ in range(19)]
            for sock in waiting:
                sock.sendall(REFUSED)
            with attach(lab, OTHER), attach(lab, 0):
                pass
            answered = [sock for sock in waiting if is_readable(sock)]
            assert len(answered) < len(waiting)
            for sock in waiting:
                (reply,) = messages(sock, 1)
                assert reply["error"].endswith(".NotAuthorized")

    def test_far_beyond_it_are_refused_as_busy(self, lab: Lab, daemon: Daemon) -> None:
        """Each diagnosis counts for many."""
        with ExitStack() as stack:
            asking = [stack.enter_context(plain_socket(lab, USER)) for _ in range(5)]
            for sock in asking:
                sock.sendall(call("Diagnose"))
            replies = [messages(sock, 1)[0] for sock in asking]
            busy = [reply for reply in replies if "error" in reply]
            assert 0 < len(busy) < 5
            assert {r["error"] for r in busy} == {"io.tapster.Broker.BrokerBusy"}
            assert busy[0]["parameters"]["hint"]
            # What only looks at what is known costs nothing.
            asking[0].sendall(GET_INFO)
            assert messages(asking[0], 1)[0]["parameters"]["tier"] == "system"
        with attach(lab, OTHER):
            pass
        until("its turn", lambda: attaches(lab, USER), 60)

    def test_that_wait_end_with_their_caller(self, lab: Lab, daemon: Daemon) -> None:
        with Watcher(lab, 0) as watcher, plain_socket(lab, USER) as sock:
            sock.sendall(REFUSED * 6)
            messages(sock, 6)
            for _ in range(8):
                with plain_socket(lab, USER) as dying:
                    dying.sendall(call("Attach", parameters={}))
            until("its turn", lambda: attaches(lab, USER), 60)
            ifname = watcher.wait("detached")["ifname"]
            attached = [e for e in watcher.seen if e["event"] == "attached"]
            assert [e["ifname"] for e in attached] == [ifname]

    def test_of_root_are_not_counted(self, lab: Lab, daemon: Daemon) -> None:
        with plain_socket(lab, 0) as sock:
            for _ in range(10):  # a user would be told that this is too much
                sock.sendall(call("Explain", parameters={}) * 10)
                assert not [r for r in messages(sock, 10) if "error" in r]


class TestCalls:
    def test_of_one_user_wait_for_each_other(self, lab: Lab, daemon: Daemon) -> None:
        """Two may run; refusals run for a while, on purpose."""
        with ExitStack() as stack:
            asking = [stack.enter_context(plain_socket(lab, USER)) for _ in range(4)]
            for sock in asking:
                sock.sendall(REFUSED)
            ask(lab, OTHER, "GetInfo")
            for sock in asking:
                assert "error" in messages(sock, 1)[0]

    def test_that_stream_do_not_count(self, lab: Lab, daemon: Daemon) -> None:
        with Watcher(lab, USER), Watcher(lab, USER), Watcher(lab, USER):
            ask(lab, USER, "List")


class TestWatchers:
    def test_of_one_user_and_in_all_but_roots(self, lab: Lab, daemon: Daemon) -> None:
        with ExitStack() as stack:
            for _ in range(3):
                stack.enter_context(Watcher(lab, USER))
            with broker(lab, USER) as wire, pytest.raises(errors.BrokerBusy):
                next(wire.stream("Watch", {}))
            for _ in range(2):
                stack.enter_context(Watcher(lab, OTHER))
            with broker(lab, 23009) as wire, pytest.raises(errors.BrokerBusy):
                next(wire.stream("Watch", {}))
            for _ in range(3):
                stack.enter_context(Watcher(lab, 0))
            with broker(lab, 0) as wire, pytest.raises(errors.BrokerBusy):
                next(wire.stream("Watch", {}))
            ask(lab, USER, "GetInfo")
        until("a place", lambda: watches(lab, USER))


class TestSlowReaders:
    def test_are_cut_off(self, lab: Lab, daemon: Daemon) -> None:
        with plain_socket(lab, USER) as deaf:
            deaf.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            deaf.settimeout(0.2)
            with pytest.raises(OSError):
                while True:
                    deaf.sendall(call("ListNetworks") * 100)
            ask(lab, USER, "GetInfo")
            receive(deaf)  # to its end
        until("said", lambda: "uid" in daemon.log)

    def test_that_read_now_and_then_are_served(self, lab: Lab, daemon: Daemon) -> None:
        with plain_socket(lab, USER) as sock:
            for _ in range(4):
                sock.sendall(call("ListNetworks"))
                time.sleep(0.3)
                messages(sock, 1)


def is_readable(sock: socket.socket) -> bool:
    sock.setblocking(False)
    try:
        sock.recv(1, socket.MSG_PEEK)
    except BlockingIOError:
        return False
    finally:
        sock.settimeout(15)
    return True


def attaches(lab: Lab, uid: int) -> bool:
    try:
        attach(lab, uid).close()
    except errors.BrokerBusy:
        return False
    return True


def watches(lab: Lab, uid: int) -> bool:
    try:
        Watcher(lab, uid).close()
    except errors.BrokerBusy:
        return False
    return True
