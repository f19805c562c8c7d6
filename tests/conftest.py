# SPDX-License-Identifier: LGPL-2.1-or-later
"""A test that leaves something behind fails, and is the one that is named.

Looked at around each test: descriptors, child processes and threads of this
process; around tests in kernel/ and guest/ also what outlives it: devices and
nftables tables in the machine's own namespace, and daemons. What was there
before is nobody's fault: a broker of the machine's own may run, and a fixture
of a whole module may hold things.
"""

from __future__ import annotations

import gc
import os
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import pytest
from hypothesis import settings

import lab
from tapster.policy.foreign import mounts

# `make check` tries a tenth of the examples that `make test` does. Whoever asks for
# more or fewer than usual says so as a multiple: `4 * settings().max_examples`.
settings.register_profile("check", max_examples=10, deadline=None)

# A shell's background job ignores SIGINT; the programs that tests interrupt would
# inherit that.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

gc.disable()  # until all tests are known: nothing of that is garbage

PATIENCE = 2.0  # seconds for the kernel and for threads to finish with something
_POLL = 0.005
_OURS = ("tapster", "tapbr")
_HERE = Path(__file__).parent
# Descendants have it in their environment, whoever their parent is by then.
_MARK = ("TAPSTER_TEST_SESSION", f"{os.getpid()}.{time.time_ns()}")
os.environ.update([_MARK])

# What the threads that close taps are called; they stay for the next tap.
_STAYING_THREADS = ("close",)

Look = Callable[[], dict[object, str]]


def descriptors() -> dict[object, str]:
    """Open descriptors: number and target."""
    found: dict[object, str] = {}
    for name in os.listdir("/proc/self/fd"):
        try:
            target = os.readlink(f"/proc/self/fd/{name}")
        except OSError:
            continue  # listdir's own
        found[name, target] = f"fd {name}: {target}"
    return found


def children() -> dict[object, str]:
    """Child processes, zombies among them."""
    found: dict[object, str] = {}
    for thread in os.listdir("/proc/self/task"):
        try:
            text = Path(f"/proc/self/task/{thread}/children").read_text()
        except OSError:
            continue  # the thread ended
        for pid in text.split():
            found[pid] = f"child {pid}: {command_line(pid)}"
    return found


def command_line(pid: str) -> str:
    try:
        raw = Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return "gone"
    return raw.replace(b"\0", b" ").decode(errors="replace").strip() or "a zombie"


def threads() -> dict[object, str]:
    """Running threads, save those that are meant to stay."""
    return {
        thread.ident: f"thread {thread.name}"
        for thread in threading.enumerate()
        if not thread.name.startswith(_STAYING_THREADS)
    }


def devices() -> dict[object, str]:
    """Our devices in the machine's own network namespace."""
    return {
        name: f"device {name}"
        for name in os.listdir("/sys/class/net")
        if name.startswith(_OURS)
    }


class Tables:
    """Our nftables tables in the machine's own namespace: one context for all."""

    def __init__(self) -> None:
        self._nft = None
        try:
            from nftables import Nftables

            self._nft = Nftables()
        except (ImportError, OSError):
            pass  # without libnftables there are none of ours

    def __call__(self) -> dict[object, str]:
        if self._nft is None:
            return {}
        status, output, _ = self._nft.cmd("list tables")
        lines = output.splitlines() if status == 0 else []
        return {line: line for line in lines if line.split()[-1] == "tapster"}


class Daemons:
    """Processes that tests of this session started, orphans included; and
    dnsmasq, which a broker starts with an environment of its own."""

    def __init__(self) -> None:
        self._before = set(os.listdir("/proc"))

    def __call__(self) -> dict[object, str]:
        new = set(os.listdir("/proc")) - self._before
        return {
            pid: f"process {pid}: {command_line(pid)}"
            for pid in new
            if pid.isdecimal() and self._is_ours(Path("/proc", pid))
        }

    @staticmethod
    def _is_ours(process: Path) -> bool:
        try:
            if "=".join(_MARK).encode() in (process / "environ").read_bytes().split(
                b"\0"
            ):
                return True
            orphan = b"PPid:\t1\n" in (process / "status").read_bytes()
            if not orphan or (process / "ns/mnt").stat().st_ino not in (
                lab.MOUNT_NAMESPACES
            ):
                return False  # another session's, or the machine's own
            return b"/networks/tapbr" in (process / "cmdline").read_bytes()
        except OSError:
            return False  # it ended


def leaks(looks: dict[Look, dict[object, str]]) -> list[str]:
    return [
        text
        for look, before in looks.items()
        for key, text in look().items()
        if key not in before
    ]


def watch(*looks: Look) -> Iterator[None]:
    """Fail if, some time after the test, there is more than before it."""
    before = {look: look() for look in looks}
    yield
    found = leaks(before)
    if not found:
        return
    gc.collect()  # what only an object's end closes
    subprocess._cleanup()  # type: ignore[attr-defined]  # reaps forgotten Popens
    deadline = time.monotonic() + PATIENCE
    while (found := leaks(before)) and time.monotonic() < deadline:
        time.sleep(_POLL)
    assert not found, "left behind: " + "; ".join(sorted(found))


def pytest_collection_finish() -> None:
    """Have garbage collections pass over what the modules hold: a tenth of a second
    for each, and some tests look twice for what only an object's end closes."""
    gc.collect()
    gc.freeze()
    gc.enable()


_tables = Tables()


@pytest.fixture(autouse=True)
def _nothing_left_in_process() -> Iterator[None]:
    """No descriptor, child process or thread; but one list of mounts stays open."""
    with suppress(OSError):
        mounts.why_not(0)
    yield from watch(descriptors, children, threads)


@pytest.fixture(autouse=True)
def _nothing_left_on_host(request: pytest.FixtureRequest) -> Iterator[None]:
    """No device, nftables table or daemon; where a test can make such things."""
    part = request.path.relative_to(_HERE).parts[0]
    if part in ("kernel", "guest"):
        yield from watch(devices, _tables, Daemons())
    else:
        yield
