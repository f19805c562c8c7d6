# SPDX-License-Identifier: LGPL-2.1-or-later
"""A broker that is killed at a chosen point, and what has to be afterwards.

A point is each call by which the broker changes something outside of itself: a
netlink message, a transaction of nftables, a sysctl, a device, a file, a signal,
a program that is started. A kill before one is a kill after the one before, so
that all of an operation's points are all that a kill can leave behind.
"""

from __future__ import annotations

import signal
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from lab import Daemon, Lab
from support.host import (
    RUNTIME,
    inside,
    leftovers,
    nics,
    ruleset,
    tool,
    until_nothing_is_left,
)
from support.state import Live, Net, State, changed, take, wrong
from tapster.errors import TapsterError

ARMED, POINTS = "/run/armed", "/run/points"

KILLER = f"""
import os, signal
from tapster.daemon.process import programs
from tapster.kernel import netlink, nft, nftelem, process, sysctl, tun

class Points:
    armed, count = "", 0

    def __call__(self, name):
        try:
            with open({ARMED!r}) as file:
                armed = file.read()
        except FileNotFoundError:
            return
        if armed != Points.armed:
            Points.armed, Points.count = armed, 0
        with open({POINTS!r}, "a") as file:
            file.write(name + "\\n")
        if Points.count == int(armed.split()[0]):
            os.kill(os.getpid(), signal.SIGKILL)
        Points.count += 1

point = Points()

def before(owner, *names):
    def put(name):
        inner = getattr(owner, name)
        def outer(*arguments, **more):
            what = [repr(a)[:60] for a in arguments if isinstance(a, (str, bytes, int))]
            point(" ".join([name, *what]))
            return inner(*arguments, **more)
        setattr(owner, name, outer)
    for name in names:
        put(name)

before(netlink.NetlinkSocket, "transact")
before(nft.Nft, "run")
before(nftelem.ElementSocket, "add", "delete", "change")
before(sysctl, "write")
before(tun, "create")
before(process.Process, "send_signal")
before(programs.Programs, "_ask")
before(os, "replace", "unlink", "mkdir", "rmdir", "write", "chown", "chmod")
"""


def arm(lab: Lab, number: int) -> None:
    """The broker is killed at the point of that number, from now on."""
    Path(inside(lab, POINTS)).write_text("")
    path = Path(inside(lab, ARMED))
    made = path.with_suffix(".new")
    made.write_text(f"{number} {path.stat().st_mtime_ns if path.exists() else 0}")
    made.rename(path)


def disarm(lab: Lab) -> list[str]:
    """No kill any more; the points that were passed."""
    Path(inside(lab, ARMED)).unlink(missing_ok=True)
    points = Path(inside(lab, POINTS))
    return points.read_text().splitlines() if points.exists() else []


class Host:
    """One lab's host, whose broker dies again and again."""

    def __init__(self, lab: Lab, nets: Mapping[str, Net], script: str = KILLER) -> None:
        self.lab = lab
        self.bare = take(lab)
        self._nets, self._script = nets, script
        self.daemon: Daemon
        self.daemons: list[Daemon] = []

    def start(self) -> None:
        self.daemon = self.lab.daemon("--config", "/run/config", script=self._script)
        self.daemons.append(self.daemon)

    def kill(self) -> None:
        self.daemon.stop(signal.SIGKILL)

    def settle(self) -> None:
        """Until it has answered, or has died of what it was about to do."""
        if not self.is_dead:
            try:
                nics(self.lab)
            except TapsterError:
                self.daemon.process.wait(10)

    def end(self) -> None:
        """Stop the last one in order, and see that nothing is left."""
        disarm(self.lab)
        try:
            if self.is_dead:
                self.start()
            until_nothing_is_left(self.lab, networks=True)
            assert self.daemon.stop() == 0, self.daemon.log
            assert leftovers(self.lab) == [] and ruleset(self.lab.host) == []
            for daemon in self.daemons:
                assert "Traceback" not in daemon.log, daemon.log
        finally:
            self.kill()
            self.daemons.clear()

    @property
    def is_dead(self) -> bool:
        return self.daemon.process.poll() is not None

    def wrong(
        self,
        live: Iterable[Live],
        *,
        forwards: Mapping[tuple[str, int], tuple[Live, int]] | None = None,
        nets: Mapping[str, Net] | None = None,
        **more: Any,
    ) -> list[str]:
        """What is not as it should be, for these NICs and open forwards."""
        return wrong(
            take(self.lab),
            self.bare,
            list(live),
            {**self._nets, **(nets or {})},
            forwards=forwards,
            broker=None if self.is_dead else self.daemon.process.pid,
            **more,
        )

    def is_quiet(self, bridge: str) -> bool:
        """Whether a network that has no NIC any more has been taken down."""
        used = {row["master"] for row in tool(self.lab.host, *["bridge", "-j", "link"])}
        return bridge in used or not self.files("networks", bridge).exists()

    def changed(self, before: State) -> list[str]:
        return changed(before, take(self.lab))

    def files(self, *parts: str) -> Path:
        """A path of the runtime directory, as the test can open it."""
        return Path(inside(self.lab, "/".join([RUNTIME, *parts])))
