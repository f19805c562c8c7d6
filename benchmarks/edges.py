# SPDX-License-Identifier: LGPL-2.1-or-later
"""Where an attach spends its time: in calls of the kernel, or outside of them.

strace would slow each call more than it takes. Here Python's own functions
that end in a system call are wrapped, in the broker and in its client, and note
when they began and ended on the clock that all processes share
(CLOCK_MONOTONIC). Laid over each other, the two lists say of each moment of an
attach whether someone that the caller waits for ran code of his own.
"""

from __future__ import annotations

import asyncio
import fcntl
import functools
import os
import pwd
import select
import selectors
import shutil
import socket
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Sequence
from statistics import median
from time import perf_counter
from typing import Any, NamedTuple

from tapster.policy.foreign import mounts

assert asyncio and shutil  # imported now: they compare os' functions with sets of them

_SOCKET = (
    "__init__",
    "_accept",
    "_real_close",
    "connect",
    "getsockopt",
    "recv_into",
    "recvfrom_into",
    "recvmsg",
    "send",
    "sendall",
    "sendmsg",
    "setblocking",
    "settimeout",
)
_OS = (
    "close",
    "fstat",
    "getxattr",
    "lstat",
    "open",
    "read",
    "readlink",
    "stat",
    "unlink",
    "write",
)
_EPOLL = ("poll", "register", "unregister", "modify", "close")
# Libraries in C that do work of their own between their system calls.
LIBRARIES = ("libnftables", "getpwuid")


class Edge(NamedTuple):
    """One call: what, and from when to when, in seconds."""

    name: str
    start: float
    end: float


class Edges:
    """The calls of this process since `install`."""

    def __init__(self) -> None:
        self.log: list[tuple[str, float, float]] = []
        self._undo: list[tuple[Any, str, Any, bool]] = []

    def _timed(self, name: str, call: Callable[..., Any]) -> Callable[..., Any]:
        note = self.log.append

        @functools.wraps(call)
        def timed(*args: Any, **options: Any) -> Any:
            start = perf_counter()
            try:
                return call(*args, **options)
            finally:
                note((name, start, perf_counter()))

        return timed

    def _wrap(self, owner: Any, attribute: str, name: str) -> None:
        own = attribute in vars(owner)
        call = getattr(owner, attribute)
        self._undo.append((owner, attribute, call, own))
        setattr(owner, attribute, self._timed(name, call))

    def install(self) -> None:
        for attribute in _SOCKET:
            self._wrap(socket.socket, attribute, f"socket {attribute.strip('_')}")
        for attribute in _OS:
            self._wrap(os, attribute, f"file {attribute}")
        self._wrap(fcntl, "ioctl", "tun ioctl")
        self._wrap(mounts, "_statx", "file statx")
        self._wrap(pwd, "getpwuid", "getpwuid")

    def install_daemon(self) -> None:
        """As `install`, and what only the broker uses; before it has a loop."""
        from nftables import Nftables

        edges = self

        class Epoll:
            """select.epoll, which cannot be inherited from."""

            def __init__(self) -> None:
                real = select.epoll()
                self.fileno = real.fileno
                for attribute in _EPOLL:
                    call = edges._timed(f"epoll {attribute}", getattr(real, attribute))
                    setattr(self, attribute, call)

        class Poll:
            """select.poll, of which only one method is a call."""

            def __init__(self) -> None:
                real = select_poll()
                self.register, self.unregister = real.register, real.unregister
                self.poll = edges._timed("file poll", real.poll)

        select_poll = select.poll
        self._undo.append((select, "poll", select_poll, True))
        select.poll = Poll  # type: ignore[assignment,misc]

        self.install()
        self._wrap(Nftables, "cmd", "libnftables")
        selectors.EpollSelector._selector_cls = Epoll  # type: ignore[attr-defined]

    def uninstall(self) -> None:
        for owner, attribute, call, own in reversed(self._undo):
            if own:
                setattr(owner, attribute, call)
            else:
                delattr(owner, attribute)
        self._undo.clear()

    def overhead(self) -> float:
        """Seconds that one wrapped call adds outside of what it notes."""
        nothing = self._timed("nothing", int)
        kept = len(self.log)
        best = float("inf")
        for _ in range(20):
            start = perf_counter()
            for _ in range(500):
                nothing()
            whole = perf_counter() - start
            inside = sum(end - begin for _, begin, end in self.log[kept:])
            best = min(best, (whole - inside) / 500)
            del self.log[kept:]
        return best


class Share(NamedTuple):
    """One attach, taken apart; seconds."""

    whole: float
    client: float  # outside of calls, in the client
    broker: float  # outside of calls, in the broker, while the client waits for it
    libraries: float  # libnftables and getpwuid, with the calls they make
    calls: dict[str, float]  # by the first word of their names
    wrapped: int  # calls on the critical path
    steps: tuple[tuple[str, float, float], ...]  # of the broker: call, before it, in it


def _inside(edges: Iterable[Edge], start: float, end: float) -> list[Edge]:
    """The edges cut to that time, in order; of those in one another, the outer."""
    cut: list[Edge] = []
    for edge in sorted(edges, key=lambda e: (e.start, -e.end)):
        begin = max(edge.start, cut[-1].end if cut else start, start)
        until = min(edge.end, end)
        if until > begin:
            cut.append(Edge(edge.name, begin, until))
    return cut


def take_apart(
    start: float, end: float, client: Sequence[Edge], broker: Sequence[Edge]
) -> Share:
    """Of one attach that the client began at `start` and had at `end`.

    While the client is in a call it may be waiting for the broker: in recvmsg()
    it is, and in others where the broker was given its processor. So until the
    reply is out, time in calls of the client is the broker's own where the
    broker is in none.
    """
    calls: defaultdict[str, float] = defaultdict(float)
    replies = [e.end for e in broker if e.name == "socket sendmsg" and e.start < end]
    replied = max(replies, default=end)
    ours = _inside(client, start, end)
    running = 0.0
    for call in ours:
        idle = "wake-up" if call.name == "socket recvmsg" else "client"
        until = max(call.start, min(call.end, replied))
        calls[idle] += call.end - until
        running += until - call.start
        for edge in _inside(broker, call.start, until):
            word = idle if edge.name == "epoll poll" else edge.name.split()[0]
            calls[word] += edge.end - edge.start
            running -= edge.end - edge.start
    theirs = _inside(broker, start, replied)
    steps = tuple(
        (edge.name, edge.start - last, edge.end - edge.start)
        for edge, last in zip(
            theirs, [start, *(edge.end for edge in theirs)], strict=False
        )
    )
    libraries = sum(calls.pop(name, 0.0) for name in LIBRARIES)
    whole = end - start
    outside = whole - sum(edge.end - edge.start for edge in ours)
    wrapped = len(ours) + len(theirs)
    return Share(whole, outside, running, libraries, dict(calls), wrapped, steps)


def summarize(shares: Sequence[Share], overhead: float) -> dict[str, Any]:
    """Means over the middle half of the attaches, so that the parts add up to the
    whole and what disturbed a few does not count; in microseconds, less what the
    measuring itself cost. The steps are medians, of the usual sequence of calls."""
    ordered = sorted(shares, key=lambda share: share.whole)
    quarter = len(ordered) // 4
    middle = ordered[quarter : len(ordered) - quarter]

    def mean(value: Callable[[Share], float]) -> float:
        return sum(map(value, middle)) / len(middle) * 1e6

    def of_calls(word: str) -> float:
        return mean(lambda share: share.calls.get(word, 0.0))

    cost = mean(lambda share: share.wrapped * overhead)
    whole = mean(lambda share: share.whole) - cost
    own = mean(lambda share: share.client + share.broker) - cost
    libraries = mean(lambda share: share.libraries)
    words = sorted({word for share in middle for word in share.calls})
    sequences = Counter(tuple(step[0] for step in share.steps) for share in shares)
    names, seen = sequences.most_common(1)[0]
    alike = [s.steps for s in shares if tuple(step[0] for step in s.steps) == names]
    return {
        "attaches": len(shares),
        "whole_us": round(whole, 1),
        "outside_us": round(own, 1),
        "libraries_us": round(libraries, 1),
        "client_us": round(mean(lambda share: share.client), 1),
        "broker_us": round(mean(lambda share: share.broker), 1),
        "calls_us": {word: round(of_calls(word), 1) for word in words},
        "measuring_us": round(cost, 1),
        "share": round(own / whole, 3),
        "share_with_libraries": round((own + libraries) / whole, 3),
        "steps_seen": seen,
        "steps_us": [
            {
                "call": name,
                "before": round(median(steps[i][1] for steps in alike) * 1e6, 1),
                "in": round(median(steps[i][2] for steps in alike) * 1e6, 1),
            }
            for i, name in enumerate(names)
        ],
    }
