# SPDX-License-Identifier: LGPL-2.1-or-later
"""A host and the world beyond its uplink, in namespaces that leave nothing.

For tests, the demo and the curious: `Lab` is a network namespace that stands
for a host, with its own mounts, and another one on the far side of a veth.
What runs in there runs as root or as any throw-away user id. The namespaces
have no names: they end with the last process in them, and all processes are
ended with the lab. The machine's own namespace is never touched.
"""

from __future__ import annotations

import ctypes
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

CHECKOUT = Path(__file__).resolve().parent.parent
USER, OTHER = 23001, 23002  # user ids that nobody has
SOCKET = "/run/tapster/io.tapster.Broker"

_PR_SET_PDEATHSIG = 1
_SETUP = """
set -e
mount --make-rprivate / 2>/dev/null || true
mount -t tmpfs -o mode=0755 lab /run
if [ ! -d /etc/qemu ]; then
    mkdir /run/etc /run/etc.work
    mount -t overlay lab /etc \
        -o lowerdir=/etc,upperdir=/run/etc,workdir=/run/etc.work 2>/dev/null || true
    mkdir /etc/qemu
fi
mkdir -p /run/checkout /run/dev /run/user /run/state
chmod 0700 /run/state
mount --bind "$CHECKOUT" /run/checkout
if mknod -m 0666 /run/dev/tun c 10 200 2>/dev/null; then
    mkdir -p /dev/net
    [ -e /dev/net/tun ] || : > /dev/net/tun
    mount --bind /run/dev/tun /dev/net/tun
fi
mount -t tmpfs -o mode=0755 lab /etc/qemu
mount -t sysfs lab /sys 2>/dev/null || true
printf 'nameserver 192.0.2.1\\n' > /run/resolv.conf
mount --bind /run/resolv.conf /etc/resolv.conf
ip link set lo up
"""


def why_not() -> str | None:
    """What keeps a lab from being made here; None if nothing does."""
    if os.geteuid() != 0:
        return "a lab needs root: namespaces with mounts of their own, other users' ids"
    for program in ("unshare", "nsenter", "setpriv", "ip"):
        if not any(os.access(f"{d}/{program}", os.X_OK) for d in os.get_exec_path()):
            return f"{program} is not installed"
    probe = subprocess.run(["unshare", "--net", "--mount", "true"], capture_output=True)
    return (
        None if probe.returncode == 0 else probe.stderr.decode(errors="replace").strip()
    )


def _die_with_us() -> None:
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)


# Of the spaces that are open: what runs in one is of this session, and no other's.
MOUNT_NAMESPACES: set[int] = set()


class Space:
    """One network and mount namespace, held by a process that only waits."""

    def __init__(self, setup: str = "ip link set lo up") -> None:
        self._holder = subprocess.Popen(
            [
                "unshare",
                "--net",
                "--mount",
                "sh",
                "-c",
                f"{setup}\necho ready\nexec sleep 86400",
            ],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            env={**os.environ, "CHECKOUT": str(CHECKOUT)},
            preexec_fn=_die_with_us,
        )
        assert self._holder.stdout is not None
        self._children: list[subprocess.Popen[Any]] = []
        lines = []
        for line in self._holder.stdout:
            lines.append(line.decode(errors="replace"))
            if line == b"ready\n":
                break
        else:
            self._holder.wait()
            raise RuntimeError(f"no namespace: {''.join(lines)}")
        self._namespace = os.stat(f"/proc/{self.pid}/ns/net").st_ino
        self._mounts = os.stat(f"/proc/{self.pid}/ns/mnt").st_ino
        MOUNT_NAMESPACES.add(self._mounts)

    @property
    def pid(self) -> int:
        return self._holder.pid

    def prefix(
        self,
        user: int | None = None,
        *,
        groups: Sequence[int] = (),
        env: Mapping[str, str] | None = None,
    ) -> list[str]:
        """What to put before a command for it to run in here, as root or `user`."""
        command = ["nsenter", "-t", str(self.pid), "--net", "--mount", "--root"]
        # An editable install leads to where the checkout is, which may be closed
        # to others (/root); /run/checkout is not.
        settings = {"LC_ALL": "C.UTF-8", "PYTHONPATH": "/run/checkout/src"}
        if user is None:
            settings |= {"XDG_RUNTIME_DIR": "/run/user/0", "HOME": "/run/user/0"}
        if user is not None:
            command += ["setpriv", f"--reuid={user}", f"--regid={user}"]
            command += (
                [f"--groups={','.join(map(str, groups))}"]
                if groups
                else ["--clear-groups"]
            )
            settings |= {
                "HOME": f"/run/user/{user}",
                "XDG_RUNTIME_DIR": f"/run/user/{user}",
            }
        settings |= env or {}
        command += ["env", "-u", "PYTHONDONTWRITEBYTECODE", "-u", "XDG_STATE_HOME"]
        return command + [f"{name}={value}" for name, value in settings.items()]

    def run(
        self,
        *command: str,
        user: int | None = None,
        check: bool = True,
        timeout: float = 30,
        env: Mapping[str, str] | None = None,
        **options: Any,
    ) -> subprocess.CompletedProcess[str]:
        """Run a command in here to its end; its output is kept."""
        done = subprocess.run(
            [*self.prefix(user, env=env), *command],
            text=True,
            capture_output=True,
            timeout=timeout,
            **options,
        )
        if check and done.returncode:
            raise RuntimeError(
                f"{' '.join(command)}: status {done.returncode}\n"
                f"{done.stdout}{done.stderr}"
            )
        return done

    def popen(
        self,
        *command: str,
        user: int | None = None,
        env: Mapping[str, str] | None = None,
        **options: Any,
    ) -> subprocess.Popen[Any]:
        """Start a command in here. It is killed when this process ends."""
        options.setdefault("stdin", subprocess.DEVNULL)
        child = subprocess.Popen(
            [*self.prefix(user, env=env), *command], preexec_fn=_die_with_us, **options
        )
        self._children.append(child)
        return child

    def processes(self) -> list[int]:
        """Who is in this network namespace, the holder left out."""
        found = []
        for name in os.listdir("/proc"):
            if name.isdecimal() and int(name) != self.pid:
                try:
                    if os.stat(f"/proc/{name}/ns/net").st_ino == self._namespace:
                        found.append(int(name))
                except OSError:
                    continue
        return found

    def close(self) -> None:
        """End every process in here, and so the namespaces."""
        if self._holder.returncode is None:
            try:
                for pid in self.processes():
                    try:
                        os.kill(pid, signal.SIGKILL)
                    except ProcessLookupError:
                        pass
            finally:
                self._holder.kill()
                self._holder.wait()
                for child in self._children:
                    child.wait()
        MOUNT_NAMESPACES.discard(self._mounts)
        if self._holder.stdout is not None:
            self._holder.stdout.close()


class Daemon:
    """A running tapsterd of the lab's host."""

    def __init__(self, process: subprocess.Popen[Any], log: Path) -> None:
        self.process = process
        self.log_path = log

    @property
    def log(self) -> str:
        return self.log_path.read_text(errors="replace")

    def stop(self, number: signal.Signals = signal.SIGTERM) -> int:
        """Signal it and wait for its end; its exit status."""
        if self.process.poll() is None:
            self.process.send_signal(number)
        return self.process.wait(20)


class Lab:
    """A host (192.0.2.2, 2001:db8::2) and the world (192.0.2.1, 2001:db8::1).

    On the host /run, /etc/qemu and /etc/resolv.conf are its own, /dev/net/tun
    is open to all as udev has it, and the checkout is at /run/checkout.
    """

    def __init__(self, directory: Path, *, nested: bool = False) -> None:
        """
        :param directory: for logs; must exist.
        :param nested: in a user namespace where root is the only user there is.
        """
        self.directory = directory
        self.host = Space(_SETUP)
        try:
            self.world = Space()
        except BaseException:
            self.host.close()
            raise
        self._daemons: list[Daemon] = []
        self._connect()
        if nested:
            self.host.run("install", "-d", "-m0700", "/run/user/0")
        for user in () if nested else (USER, OTHER):
            self.host.run(
                "install", "-d", "-m0700", f"-o{user}", f"-g{user}", f"/run/user/{user}"
            )

    def _connect(self) -> None:
        self.host.run(
            "ip", "link", "add", "eth0", "type", "veth",
            "peer", "name", "eth0", "netns", str(self.world.pid),
        )  # fmt: skip
        for space, number, other in ((self.host, 2, 1), (self.world, 1, 2)):
            space.run("ip", "addr", "add", f"192.0.2.{number}/24", "dev", "eth0")
            space.run(
                "ip", "addr", "add", f"2001:db8::{number}/64", "dev", "eth0", "nodad"
            )
            space.run("ip", "link", "set", "eth0", "up")
            if other == 1:
                space.run("ip", "route", "add", "default", "via", "192.0.2.1")
                space.run("ip", "-6", "route", "add", "default", "via", "2001:db8::1")

    @property
    def python(self) -> str:
        """The checkout's Python, as seen from the host and by any user."""
        return "/run/checkout/.venv/bin/python"

    def tapster(self, *arguments: str) -> list[str]:
        """The command `tapster`, in a form that any user of the host can run."""
        return [self.python, "-m", "tapster.cli.main", *arguments]

    @property
    def helper(self) -> str:
        return "/run/checkout/.venv/bin/tapster-bridge-helper"

    def bridge_conf(self, text: str) -> None:
        """Write the host's /etc/qemu/bridge.conf."""
        self.host.run("sh", "-c", "cat > /etc/qemu/bridge.conf", input=text)

    def config(self, text: str) -> None:
        """Write the host's tapster.toml; give --config /run/config to the daemon."""
        self.host.run(
            "sh",
            "-c",
            "mkdir -p /run/config; cat > /run/config/tapster.toml",
            input=text,
        )

    def daemon(
        self, *arguments: str, prefix: Sequence[str] = (), script: str = ""
    ) -> Daemon:
        """Start tapsterd as root on the host and wait until it serves.

        :param prefix: what to run it under, e.g. setpriv.
        :param script: Python to run in its process before it starts.
        """
        log = self.directory / f"tapsterd-{len(self._daemons)}.log"
        ready = self.directory / f"ready-{len(self._daemons)}"
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as notify:
            notify.bind(str(ready))
            os.chmod(ready, 0o666)
            notify.settimeout(15)
            start = ["-m", "tapster.daemon.main"]
            if script:
                end = "from tapster.daemon.main import main\nraise SystemExit(main())"
                start = ["-c", f"{script}\n{end}"]
            with log.open("w") as output:
                process = self.host.popen(
                    *(*prefix, self.python, *start, "--state-dir", "/run/state"),
                    *arguments,
                    env={"NOTIFY_SOCKET": str(ready)},
                    stdout=output,
                    stderr=output,
                )
            daemon = Daemon(process, log)
            self._daemons.append(daemon)
            deadline = time.monotonic() + 15
            notify.settimeout(0.1)
            while time.monotonic() < deadline:
                try:
                    if b"READY=1" in notify.recv(4096):
                        return daemon
                except TimeoutError:
                    if process.poll() is not None:
                        break
            raise RuntimeError(f"tapsterd did not start:\n{daemon.log}")

    def end_rootless(self) -> None:
        """Tell the users' own brokers to end, as `kill` would."""
        for pid in self.host.processes():
            try:
                words = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
                if b"--rootless" in words:
                    os.kill(pid, signal.SIGTERM)
            except (FileNotFoundError, ProcessLookupError):
                continue

    def rootless_log(self, user: int) -> str:
        """What a user's own broker has said so far."""
        path = f"/run/user/{user}/tapster/broker.log"
        return self.host.run("cat", path, check=False).stdout

    def __enter__(self) -> Lab:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """End everything in the lab; of it nothing is left."""
        for daemon in self._daemons:
            if daemon.process.poll() is None:
                daemon.process.kill()
            daemon.process.wait()
        self.host.close()
        self.world.close()


def until(what: str, condition: Any, seconds: float = 10) -> Any:
    """Look at a condition again and again until it holds; its value.

    :raises TimeoutError: it never did.
    """
    deadline = time.monotonic() + seconds
    while True:
        value = condition()
        if value:
            return value
        if time.monotonic() > deadline:
            raise TimeoutError(f"still waiting: {what}")
        time.sleep(0.01)


if __name__ == "__main__":
    print(why_not() or "a lab can be made here")
    sys.exit(0)
