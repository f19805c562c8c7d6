# SPDX-License-Identifier: LGPL-2.1-or-later
"""What is timed: each way to a tap, from the first call to having it.

A function here returns the seconds that a caller waits, and the tap's name.
The tap is closed outside of that time; `interleave` then waits until nothing
of it is left before it lets the next one start.
"""

from __future__ import annotations

import _socket
import ctypes
import json
import os
import subprocess
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from time import perf_counter

import tapster
from benchmarks import space
from benchmarks.space import Failed
from tapster.kernel import tun

Timed = Callable[[], tuple[float, str | None]]
MAC = "52:54:00:be:ac:01"  # asked for, so that the port is locked to it

# Little, as to build it for each child would be timed.
_ENVIRONMENT = {"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "LC_ALL": "C.UTF-8"}
_ECHO = "/bin/echo"
_MAX_DESCRIPTORS = 1024  # QEMU closes all that its limit allows, one by one
# The C library's, as os.fork() does much for Python's sake that QEMU does not.
# There is one thread, and the child goes no further than execve().
_fork = ctypes.CDLL(None).fork


def attach_to_bridge() -> tuple[float, str | None]:
    """The API's attach() to a Linux bridge, a fresh connection each."""
    start = perf_counter()
    nic = tapster.attach(bridge=space.BRIDGE, mac=MAC)
    elapsed = perf_counter() - start
    nic.close()
    return elapsed, nic.ifname


def attach_to_network() -> tuple[float, str | None]:
    """The API's attach() to the NATed default network, which is up."""
    start = perf_counter()
    nic = tapster.attach()
    elapsed = perf_counter() - start
    nic.close()
    return elapsed, nic.ifname


def _helper(program: str) -> tuple[float, str | None]:
    """A bridge helper from before the socket pair until it is reaped, as QEMU
    does it: fork(), close what the helper is not to have, execv()."""
    start = perf_counter()
    ours, theirs = _socket.socketpair(_socket.AF_UNIX, _socket.SOCK_STREAM)
    number = theirs.fileno()
    os.set_inheritable(number, True)
    arguments = [program, "--use-vnet", f"--fd={number}", f"--br={space.BRIDGE}"]
    child = _fork()
    if child == 0:
        try:
            os.closerange(3, number)
            os.closerange(number + 1, _MAX_DESCRIPTORS)
            os.execve(program, arguments, _ENVIRONMENT)  # noqa: S606 - as QEMU
        finally:
            os._exit(127)
    theirs.close()
    _, ancillary, _, _ = ours.recvmsg(1, _socket.CMSG_SPACE(4))
    ours.close()
    _, status = os.waitpid(child, 0)
    elapsed = perf_counter() - start
    if status or not ancillary:
        raise Failed(f"{program} failed, status {status}")
    tap = int.from_bytes(ancillary[0][2][:4], sys.byteorder)
    ifname, _ = tun.name_and_flags(tap)
    os.close(tap)
    return elapsed, ifname


def peer_helper() -> tuple[float, str | None]:
    """Debian's qemu-bridge-helper."""
    return _helper(space.PEER)


class Qemu:
    """A QEMU that waits for QMP, and runs the peer as it does. `close()` ends it."""

    def __init__(self) -> None:
        import resource

        def limit() -> None:
            # QEMU closes all that its limit allows, one by one: what is usual.
            resource.setrlimit(resource.RLIMIT_NOFILE, (_MAX_DESCRIPTORS,) * 2)

        self._process = subprocess.Popen(
            ["qemu-system-x86_64", "-S", "-machine", "none", "-nodefaults",
             "-display", "none", "-qmp", "stdio"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            bufsize=0,
            env=_ENVIRONMENT,
            preexec_fn=limit,
        )  # fmt: skip
        self._rest = b""
        self._line()
        self._execute("qmp_capabilities")

    def close(self) -> None:
        self._process.kill()
        self._process.communicate()

    def _line(self) -> dict[str, object]:
        assert self._process.stdout is not None
        while b"\n" not in self._rest:
            data = self._process.stdout.read(65536)
            if not data:
                raise Failed("QEMU ended")
            self._rest += data
        line, _, self._rest = self._rest.partition(b"\n")
        found: dict[str, object] = json.loads(line)
        return found

    def _execute(self, command: str, **arguments: object) -> None:
        assert self._process.stdin is not None
        call = {"execute": command, "arguments": arguments}
        self._process.stdin.write(json.dumps(call).encode() + b"\n")
        while "return" not in (answer := self._line()):
            if "error" in answer:
                raise Failed(f"QEMU: {answer['error']}")

    def peer(self) -> tuple[float, str | None]:
        """netdev_add of a bridge, which runs the peer, from call to answer."""
        before = set(os.listdir("/sys/class/net"))
        start = perf_counter()
        self._execute(
            "netdev_add", type="bridge", id="n", br=space.BRIDGE, helper=space.PEER
        )
        elapsed = perf_counter() - start
        (ifname,) = set(os.listdir("/sys/class/net")) - before
        self._execute("netdev_del", id="n")
        return elapsed, ifname

    def without(self) -> tuple[float, str | None]:
        """The same of a backend that needs no helper: what is QMP's own."""
        start = perf_counter()
        self._execute("netdev_add", type="hubport", id="h", hubid=1)
        elapsed = perf_counter() - start
        self._execute("netdev_del", id="h")
        return elapsed, None


def own_helper_path() -> str:
    installed = Path(sys.executable).parent / "tapster-bridge-helper"
    return str(
        installed
        if os.access(installed, os.X_OK)
        else space.SOURCE / "tapster/bridge_helper.py"
    )


def own_helper() -> tuple[float, str | None]:
    """tapster-bridge-helper through its own first lines."""
    return _helper(own_helper_path())


def tapster_command() -> str:
    """The installed `tapster`, or the same that pip would install."""
    installed = Path(sys.executable).parent / "tapster"
    if os.access(installed, os.X_OK):
        return str(installed)
    made = Path("/run/tapster-command")
    made.write_text(
        f"#!{sys.executable}\nimport sys\nfrom tapster.cli.main import main\n"
        'if __name__ == "__main__":\n    sys.exit(main())\n',
        encoding="utf-8",
    )
    made.chmod(0o755)
    return str(made)


def _until_word(
    arguments: list[str], environment: Mapping[str, str]
) -> tuple[float, str]:
    """Seconds from the start of a process to its first output, and that.

    Not to its end: the kernel takes some 20 ms to remove a dead VMM's tap.
    """
    reader, writer = os.pipe()
    try:
        actions = [(os.POSIX_SPAWN_DUP2, writer, 1)]
        start = perf_counter()
        child = os.posix_spawn(
            arguments[0], arguments, environment, file_actions=actions
        )
        os.close(writer)
        writer = -1
        word = os.read(reader, 100)
        elapsed = perf_counter() - start
        _, status = os.waitpid(child, 0)
    finally:
        os.close(reader)
        if writer >= 0:
            os.close(writer)
    if status or not word:
        raise Failed(f"{' '.join(arguments)} failed, status {status}")
    return elapsed, word.decode().strip()


def run_command(command: str) -> Timed:
    """`tapster run` up to a VMM that says one word, on the default network."""
    environment = space.environment()

    def run() -> tuple[float, str | None]:
        return _until_word([command, "run", "--", _ECHO, "{ifname}"], environment)

    return run


def bare_command() -> tuple[float, str | None]:
    """That VMM alone: what `tapster run` is not to be blamed for."""
    elapsed, _ = _until_word([_ECHO, "tapster0"], _ENVIRONMENT)
    return elapsed, None


def interleave(
    kinds: Mapping[str, Timed],
    count: int,
    daemon: space.Daemon,
    *,
    block: int = 20,
    warm_up: int = 3,
    progress: Callable[[str], None],
) -> dict[str, list[float]]:
    """Time each kind `count` times, some of each in turn: drift hits all alike."""
    samples: dict[str, list[float]] = {kind: [] for kind in kinds}
    for timed in kinds.values():
        for _ in range(warm_up):
            _, ifname = timed()
            if ifname is not None:
                daemon.settle(ifname)
    while any(len(times) < count for times in samples.values()):
        for kind, timed in kinds.items():
            for _ in range(min(block, count - len(samples[kind]))):
                elapsed, ifname = timed()
                samples[kind].append(elapsed)
                if ifname is not None:
                    daemon.settle(ifname)
        done = len(next(iter(samples.values())))
        progress(f"{done}/{count} of each of {', '.join(kinds)}")
    return samples
