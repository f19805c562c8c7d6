# SPDX-License-Identifier: LGPL-2.1-or-later
"""A machine to measure on: namespaces of our own, a bridge, and a broker.

What is measured must be the same everywhere, and nothing of it may stay or
touch the host. The process that comes in here has network, mount and pid
namespaces of its own, which end with it and take all it started with them.
"""

from __future__ import annotations

import fcntl
import os
import signal
import socket
import stat
import struct
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

CHECKOUT = Path(__file__).resolve().parent.parent
SOURCE = CHECKOUT / "src"
INSIDE = "--inside"
BRIDGE = "br0"
RUNTIME = "/run/tapster"
RECORDS = f"{RUNTIME}/nics"
BROKER_SOCKET = f"{RUNTIME}/io.tapster.Broker"
PEER = "/usr/lib/qemu/qemu-bridge-helper"

_CONFIG = "/run/tapster-config"
_LOG = "/run/tapsterd.log"
_PATIENCE = 20.0  # seconds for anything that should take milliseconds
_SIOCGIFFLAGS, _SIOCSIFFLAGS = 0x8913, 0x8914
_IFREQ = struct.Struct("16sH22x")
_NOT_INHERITED = (
    "LISTEN_FDNAMES",
    "LISTEN_FDS",
    "LISTEN_PID",
    "NOTIFY_SOCKET",
    "PYTHONDONTWRITEBYTECODE",  # each start would compile everything again
    "TAPSTER_SOCKET",
)


class Failed(Exception):
    """The measuring itself went wrong; the text is for the user."""


def environment() -> dict[str, str]:
    """Ours for child processes, which import tapster from this checkout."""
    result = {k: v for k, v in os.environ.items() if k not in _NOT_INHERITED}
    result["PYTHONPATH"] = str(SOURCE)
    return result


def why_not() -> str | None:
    """What keeps the benchmarks from running here; None if nothing does."""
    if os.geteuid() != 0:
        return "the benchmarks need root, for namespaces of their own"
    try:
        if not stat.S_ISCHR(os.stat("/dev/net/tun").st_mode):
            return "/dev/net/tun is no device"
    except FileNotFoundError:
        return "there is no /dev/net/tun: modprobe tun"
    if not os.access(PEER, os.X_OK):
        return f"the peer, {PEER}, is missing: apt install qemu-system-common"
    return None


def enter(command: Sequence[str]) -> None:
    """Become `command` in new namespaces; returns only by raising OSError."""
    words = ["--net", "--mount", "--pid", "--fork", "--kill-child", "--mount-proc"]
    os.execvpe(  # noqa: S606 - no shell is what we want
        "unshare",
        ["unshare", *words, "--propagation", "private", "--", *command],
        environment(),
    )


def run(program: str, arguments: list[str], work: Callable[[], None]) -> int:
    """Do the work of a program in namespaces of its own: the first time here it is
    started again in there, with INSIDE as an argument more.

    :param program: its file.
    :returns: the exit status; what went wrong is told on stderr.
    """
    try:
        if INSIDE not in arguments:
            if reason := why_not():
                raise Failed(reason)
            enter([sys.executable, str(Path(program).resolve()), *arguments, INSIDE])
        stop_on_sigterm()
        furnish()
        work()
    except Failed as error:
        print(f"benchmarks: {error}", file=sys.stderr)
        return 1
    except OSError as error:
        if INSIDE in arguments:
            raise
        print(f"benchmarks: unshare: {error.strerror}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130
    return 0


def furnish() -> None:
    """Private mounts, lo and the bridge, in the namespaces we are in.

    :raise Failed: this is not such a namespace, or the kernel refuses.
    """
    if os.getpid() != 1:
        raise Failed("not in a pid namespace of its own: start benchmarks/run.py")
    _run("mount", "-t", "tmpfs", "-o", "mode=0755", "bench", "/run")
    os.mknod("/run/tun", stat.S_IFCHR | 0o666, os.makedev(10, 200))
    os.chmod("/run/tun", 0o666)  # noqa: S103 - as everywhere
    _run("mount", "--bind", "/run/tun", "/dev/net/tun")
    if not os.path.isdir("/etc/qemu"):  # and the machine is not to get one
        _run("mkdir", "/run/etc", "/run/etc.work")
        options = "lowerdir=/etc,upperdir=/run/etc,workdir=/run/etc.work"
        _run("mount", "-t", "overlay", "-o", options, "bench", "/etc")
        os.mkdir("/etc/qemu")
    _run("mount", "-t", "tmpfs", "-o", "mode=0755", "bench", "/etc/qemu")
    Path("/etc/qemu/bridge.conf").write_text(f"allow {BRIDGE}\n", encoding="ascii")
    # sysfs shows the devices of the namespace it was mounted in.
    _run("mount", "-t", "sysfs", "bench", "/sys")
    os.mkdir(_CONFIG)
    Path(_CONFIG, "tapster.toml").write_text(
        '[authorization]\nbridge_conf = "/etc/qemu/bridge.conf"\n', encoding="ascii"
    )
    _run("ip", "link", "set", "lo", "up")
    _run("ip", "link", "add", BRIDGE, "type", "bridge")
    _run("ip", "link", "set", BRIDGE, "up")


def _run(*command: str) -> None:
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        raise Failed(f"{' '.join(command)}: {done.stderr.strip()}")


def is_there(ifname: str) -> bool:
    try:
        socket.if_nametoindex(ifname)
    except OSError:
        return False
    return True


class Barrier:
    """Waits for what the kernel still does behind the lock of all devices.

    A tap's name is gone before its removal is: that holds rtnl for some 20 ms,
    and whoever wants the lock next would be timed with it.
    """

    def __init__(self) -> None:
        self._socket = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        asked = fcntl.ioctl(self._socket, _SIOCGIFFLAGS, _IFREQ.pack(b"lo", 0))
        self._flags = bytes(asked)

    def wait(self) -> None:
        """Set lo's flags to what they are, which takes the lock."""
        fcntl.ioctl(self._socket, _SIOCSIFFLAGS, self._flags)


class Daemon:
    """One tapsterd of this checkout. `stop()` ends it, and nothing else does."""

    def __init__(self, *prefix: str, processors: set[int] | None = None) -> None:
        """:param prefix: arguments of Python in place of `-m tapster.daemon.main`.
        :param processors: those it may use, and what it starts; all if None.

        :raise Failed: it does not come up; the text has its log.
        """
        self._barrier = Barrier()
        module = prefix or ("-m", "tapster.daemon.main")
        with open(_LOG, "ab") as log:
            self._process = subprocess.Popen(
                [
                    sys.executable,
                    *module,
                    f"--runtime-dir={RUNTIME}",
                    "--state-dir=/run/tapster-state",
                    f"--config={_CONFIG}",
                ],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env=environment(),
                cwd=CHECKOUT,
                start_new_session=True,  # Ctrl-C is ours to handle
            )
        self.pid = self._process.pid
        if processors is not None:
            os.sched_setaffinity(self.pid, processors)  # before it has threads
        deadline = time.monotonic() + _PATIENCE
        while not self._answers():
            if self._process.poll() is not None or time.monotonic() > deadline:
                self._process.kill()
                raise Failed(f"tapsterd does not start:\n{log_tail()}")
            time.sleep(0.01)
        self.rest()

    @staticmethod
    def _answers() -> bool:
        with socket.socket(socket.AF_UNIX) as probe:
            return probe.connect_ex(BROKER_SOCKET) == 0

    def stop(self) -> None:
        if self._process.poll() is None:
            self._process.terminate()
            try:
                self._process.wait(_PATIENCE)
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.wait()

    def settle(self, ifname: str) -> None:
        """Wait, without sleeping, until a closed tap is forgotten by everyone.

        :raise Failed: it stays.
        """
        deadline = time.monotonic() + _PATIENCE
        record = f"{RECORDS}/{ifname}"
        while is_there(ifname) or os.path.lexists(record):
            if time.monotonic() > deadline:
                raise Failed(f"{ifname} does not go away:\n{log_tail()}")
        self._barrier.wait()
        self.rest()

    def rest(self) -> None:
        """Wait, without sleeping, until the broker has nothing more to do.

        :raise Failed: it died, or is busy for ever.
        """
        deadline = time.monotonic() + _PATIENCE
        quiet = 0
        while quiet < 3:
            if time.monotonic() > deadline or self._process.poll() is not None:
                raise Failed(f"tapsterd died or never rests:\n{log_tail()}")
            text = Path(f"/proc/{self.pid}/stat").read_text(encoding="utf-8")
            quiet = quiet + 1 if text.rpartition(")")[2].split()[0] == "S" else 0

    def wait_for_records(self, count: int) -> None:
        """Wait until the broker has written down so many NICs.

        :raise Failed: it never has.
        """
        deadline = time.monotonic() + 3 * _PATIENCE
        while len(os.listdir(RECORDS)) != count:
            if time.monotonic() > deadline:
                raise Failed(f"there are not {count} records:\n{log_tail()}")
            time.sleep(0.01)
        self._barrier.wait()
        self.rest()

    def resident_kib(self) -> int:
        """VmRSS, half a second after the last work: what was freed is freed."""
        self.rest()
        time.sleep(0.5)
        text = Path(f"/proc/{self.pid}/status").read_text(encoding="utf-8")
        return int(text.partition("VmRSS:")[2].split()[0])

    def processor_time(self) -> tuple[float, float, float]:
        """Seconds so far, of all threads: in user mode, in the kernel, and exactly
        how much in all. The first two are told in hundredths of a second."""
        text = Path(f"/proc/{self.pid}/stat").read_text(encoding="utf-8")
        fields = text.rpartition(")")[2].split()
        ticks = os.sysconf("SC_CLK_TCK")
        exact = 0
        for task in Path(f"/proc/{self.pid}/task").iterdir():
            exact += int((task / "schedstat").read_text(encoding="ascii").split()[0])
        return int(fields[11]) / ticks, int(fields[12]) / ticks, exact / 1e9


def log_tail() -> str:
    try:
        return "".join(Path(_LOG).read_text(encoding="utf-8").splitlines(True)[-15:])
    except OSError:
        return "(no log)"


def raise_descriptor_limit() -> None:
    """Room for a thousand taps."""
    import resource

    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(4096, hard), hard))


def divide_processors() -> set[int]:
    """Keep to one processor from now on, and children too; return the others.

    :raise Failed: there is only one.
    """
    mine, *others = sorted(os.sched_getaffinity(0))
    if not others:
        raise Failed("--pin needs two processors")
    os.sched_setaffinity(0, {mine})
    return set(others)


def stop_on_sigterm() -> None:
    """Let a polite kill end us as Ctrl-C does; pid 1 would not even notice it."""

    def interrupt(_number: int, _frame: object) -> None:
        raise KeyboardInterrupt

    signal.signal(signal.SIGTERM, interrupt)
    signal.signal(signal.SIGHUP, interrupt)
