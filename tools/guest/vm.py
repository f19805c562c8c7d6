# SPDX-License-Identifier: LGPL-2.1-or-later
"""Runs a guest and talks to it, as whoever and wherever the caller likes.

Everything goes through the three standard descriptors, so that any wrapper
that starts QEMU in the end (`tapster run --`, setpriv, ip netns exec, sudo)
passes it on, whatever it does with other descriptors, and no path has to be
reachable for QEMU's user save the image:

    fd 0      a socket: the agent's virtio port
    fd 1, 2   one unnamed file: the guest's console and QEMU's own words

A guest dies with its host process: the agent powers off when its port closes.

    with Guest("a", nics=["user"]) as guest:
        guest.wait_for_address(4)
        assert guest.run("ping -c1 10.0.2.2").status == 0
"""

from __future__ import annotations

import base64
import contextlib
import functools
import ipaddress
import os
import select
import signal
import socket
import subprocess
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

from guest.build import Image, build, default_cache

QEMU = "qemu-system-x86_64"
KERNEL_WORDS = (
    "console=ttyS0 quiet panic=-1 tsc=reliable no_timer_check mitigations=off "
    # what takes long under emulation and serves nobody here
    "nokaslr cryptomgr.notests "
    "initcall_blacklist=init_kprobe_trace,load_system_certificate_list"
)
CONSOLE_LINES = 25
GRACE_SECONDS = 15.0  # for an answer, on top of the time a command may take


class GuestError(Exception):
    """The guest did not do what was asked; ends with its last console lines."""


class GuestDied(GuestError):
    """QEMU has exited, or was never started."""


class GuestTimeout(GuestError):
    """It took too long; a command's output so far is in the message."""


@dataclass(frozen=True, slots=True)
class Result:
    """What a command in the guest left: exit status, stdout and stderr."""

    status: int
    output: str


class Guest:
    """One virtual machine. A context manager that leaves no process behind.

    :param name: QEMU's -name and the guest's hostname.
    :param nics: values for -nic; virtio-net-pci unless they say `model=`.
    :param prefix: what stands before QEMU's command line.
    :param memory: MiB.
    :param words: more words for the kernel's command line (see init.sh).
    :param extra: more arguments for QEMU.
    :param popen: for `subprocess.Popen`: user=, env=, preexec_fn= and so on,
        but not the standard descriptors.
    :param image: built if None.
    """

    def __init__(
        self,
        name: str,
        *,
        nics: Sequence[str] = (),
        prefix: Sequence[str] = (),
        memory: int = 128,
        words: Sequence[str] = (),
        extra: Sequence[str] = (),
        popen: Mapping[str, Any] | None = None,
        image: Image | None = None,
    ) -> None:
        self.name = name
        self.command = [
            *prefix,
            *self.argv(
                name, nics, memory=memory, words=words, extra=extra, image=image
            ),
        ]
        #: from exec to the agent's first answer; None until then
        self.boot_seconds: float | None = None
        self._popen = dict(popen or {})
        self._process: subprocess.Popen[bytes] | None = None
        self._agent: socket.socket | None = None
        self._pidfd = self._console = -1
        self._started = 0.0
        self._received = bytearray()
        self._requests = 0
        self._lock = threading.Lock()

    @staticmethod
    def argv(
        name: str,
        nics: Sequence[str] = (),
        *,
        memory: int = 128,
        words: Sequence[str] = (),
        extra: Sequence[str] = (),
        image: Image | None = None,
    ) -> list[str]:
        """QEMU's command line; it expects fd 0 and fd 1 as said above."""
        image = build() if image is None else image
        append = [KERNEL_WORDS, f"tapster.hostname={name}", *words]
        command = _machine(image, memory, " ".join(append))
        command[1:1] = ["-name", name.replace(",", ",,")]
        command += ["-chardev", "file,id=console,path=/proc/self/fd/1,append=on"]
        command += ["-serial", "chardev:console"]
        command += ["-chardev", "socket,id=agent,fd=0", "-device", "virtio-serial-pci"]
        command += ["-device", "virtserialport,chardev=agent,name=tapster.agent"]
        # no boot ROM: it may not be installed, and takes time
        command += ["-global", "virtio-net-pci.romfile="]
        for nic in nics:
            virtio = nic != "none" and "model=" not in nic
            command += ["-nic", f"{nic},model=virtio-net-pci" if virtio else nic]
        return command + list(extra)

    # --- life

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def start(self) -> None:
        """Start QEMU; does not wait for the guest.

        :raise OSError: the program cannot be started.
        """
        assert self._process is None, "a guest is started once"
        self._console = os.memfd_create(f"console-{self.name}", os.MFD_CLOEXEC)
        # QEMU's user opens it again, through /proc
        os.fchmod(self._console, 0o666)
        log = os.open(f"/proc/self/fd/{self._console}", os.O_WRONLY | os.O_APPEND)
        ours, theirs = socket.socketpair()
        ours.setblocking(False)
        self._agent = ours
        self._started = time.monotonic()
        options: dict[str, Any] = {"start_new_session": True} | self._popen
        try:
            self._process = subprocess.Popen(
                self.command, stdin=theirs.fileno(), stdout=log, stderr=log, **options
            )
        except BaseException:
            self.close()
            raise
        finally:
            theirs.close()
            os.close(log)
        self._pidfd = os.pidfd_open(self._process.pid)
        # Waits in the socket until the agent is there: its answer says so.
        self._requests = 1
        ours.send(b"1 60 " + base64.b64encode(b"true") + b"\n")

    def kill(self) -> None:
        """End the guest at once, as a power cut would."""
        process = self._process
        if process is None or process.poll() is not None:
            return
        try:
            if os.getpgid(process.pid) == process.pid:
                os.killpg(process.pid, signal.SIGKILL)  # with a wrapper's children
        except ProcessLookupError:
            pass  # exited meanwhile
        process.kill()
        process.wait()

    def shutdown(self, timeout: float = 10.0) -> int:
        """Power off from inside, so that QEMU exits by itself; its exit status."""
        with self._lock:
            self._request("poweroff -f", timeout, time.monotonic() + timeout)
        return self.wait(timeout)

    def wait(self, timeout: float | None = None) -> int:
        """Wait until QEMU has exited; its exit status.

        :raise GuestTimeout: it runs on.
        """
        try:
            return self._running().wait(timeout)
        except subprocess.TimeoutExpired:
            raise GuestTimeout(self._words(f"runs on after {timeout} s")) from None

    def close(self) -> None:
        """Kill it and release everything; the console can still be read."""
        if self._agent is not None:
            self._agent.close()
        self.kill()
        if self._pidfd >= 0:
            os.close(self._pidfd)
            self._pidfd = -1

    def __del__(self) -> None:
        if getattr(self, "_console", -1) >= 0:
            os.close(self._console)

    @property
    def pid(self) -> int:
        """The process that was started: QEMU's, if the prefix execs."""
        return self._running().pid

    def console(self) -> str:
        """All that kernel, init, QEMU and the prefix have said so far."""
        if self._console < 0:
            return ""
        size = os.fstat(self._console).st_size
        return os.pread(self._console, size, 0).decode(errors="replace")

    # --- the agent

    def wait_ready(self, timeout: float = 60.0) -> None:
        """Wait for the agent.

        :raise GuestDied: QEMU has exited.
        :raise GuestTimeout: no answer in time.
        """
        with self._lock:
            self._wait_ready(timeout)

    def run(
        self, command: str, timeout: float = 10.0, *, check: bool = False
    ) -> Result:
        """Run a shell command in the guest; one at a time, others queue.

        What it starts in the background keeps running. It has no input.

        :param timeout: seconds; then the command is killed.
        :param check: an exit status other than 0 is an error.
        :raise GuestTimeout: killed, or the guest does not answer.
        :raise GuestDied: QEMU has exited.
        :raise GuestError: `check` was asked for, and it failed.
        """
        with self._lock:
            self._wait_ready(60.0)
            deadline = time.monotonic() + timeout + GRACE_SECONDS
            request = self._request(command, timeout, deadline)
            status, late, output = self._answer(request, deadline, command)
        text = output.decode(errors="replace")
        if late:
            took = f"{command!r} took more than {timeout} s; output: {text!r}"
            raise GuestTimeout(self._words(took))
        if check and status != 0:
            raise GuestError(self._words(f"{command!r}: status {status}: {text!r}"))
        return Result(status, text)

    def addresses(
        self,
    ) -> dict[str, list[ipaddress.IPv4Interface | ipaddress.IPv6Interface]]:
        """The usable addresses of each NIC, link-local ones included."""
        nics: dict[str, list[ipaddress.IPv4Interface | ipaddress.IPv6Interface]] = {}
        for line in self.run("ip -o addr show", check=True).output.splitlines():
            # 2: eth0    inet 10.0.2.15/24 brd 10.0.2.255 scope global eth0\ ...
            words = line.split()
            if len(words) < 4 or words[2] not in ("inet", "inet6"):
                continue
            if words[1] != "lo" and not {"tentative", "dadfailed"} & set(words):
                nics.setdefault(words[1], []).append(ipaddress.ip_interface(words[3]))
        return nics

    def wait_for_address(
        self, family: int = 4, nic: str = "eth0", timeout: float = 30.0
    ) -> ipaddress.IPv4Interface | ipaddress.IPv6Interface:
        """Wait until the NIC has a global address of that family (4 or 6).

        :raise GuestTimeout: none in time; the message has what there is.
        """
        # The guest looks, ten times a second: one answer instead of many.
        inet = {4: "inet", 6: "inet6"}[family]
        look = (
            f"until ip -o addr show dev {nic} scope global 2>/dev/null"
            f" | grep -v -e tentative -e dadfailed | grep ' {inet} ';"
            " do usleep 100000; done"
        )
        try:
            line = self.run(look, timeout).output.splitlines()[-1]
        except GuestTimeout:
            show = f"ip addr show; ip route; cat /run/tapster/nic/{nic}/log"
            found = self.run(show).output
            text = f"no IPv{family} address on {nic} after {timeout} s\n{found}"
            raise GuestTimeout(self._words(text)) from None
        return ipaddress.ip_interface(line.split()[3])

    # --- below: the agent's protocol (see init.sh); the lock is held

    def _wait_ready(self, timeout: float) -> None:
        if self.boot_seconds is None:
            self._answer(1, time.monotonic() + timeout, "starting")
            self.boot_seconds = time.monotonic() - self._started

    def _request(self, command: str, timeout: float, deadline: float) -> int:
        self._requests += 1
        body = base64.b64encode(command.encode()).decode()
        seconds = max(1, round(timeout + 0.499))
        data = f"{self._requests} {seconds} {body}\n".encode()
        while data:
            self._wait_for(select.POLLOUT, deadline, command)
            try:
                data = data[self._socket().send(data) :]
            except (BrokenPipeError, ConnectionResetError):
                raise self._died() from None
        return self._requests

    def _answer(
        self, request: int, deadline: float, command: str
    ) -> tuple[int, bool, bytes]:
        """Status, whether it was killed, and output of that request.

        Anything else, such as the answer to a request that was given up, is
        passed over.
        """
        body: list[bytes] | None = None
        while True:
            words = self._line(deadline, command).split()
            if len(words) == 2 and words[0] == b"begin":
                body = [] if int(words[1]) == request else None
            elif len(words) == 4 and words[0] == b"end":
                if body is not None and int(words[1]) == request:
                    return int(words[2]), words[3] == b"1", b64lines(body)
            elif len(words) == 1 and body is not None:
                body.append(words[0])

    def _line(self, deadline: float, command: str) -> bytes:
        while (end := self._received.find(b"\n")) < 0:
            self._wait_for(select.POLLIN, deadline, command)
            try:
                data = self._socket().recv(1 << 16)
            except ConnectionResetError:
                data = b""  # QEMU left something unread
            if not data:
                raise self._died()
            self._received += data
        line = bytes(self._received[:end])
        del self._received[: end + 1]
        return line

    def _wait_for(self, event: int, deadline: float, command: str) -> None:
        """Until the socket is ready for that; the guest's end is an error too."""
        poll = select.poll()
        poll.register(self._socket(), event)
        poll.register(self._pidfd, select.POLLIN)
        rest = max(0.0, deadline - time.monotonic())
        ready = dict(poll.poll(rest * 1000))
        if not ready:
            raise GuestTimeout(self._words(f"does not answer: {command!r}"))
        if self._socket().fileno() not in ready:
            raise self._died()

    def _socket(self) -> socket.socket:
        self._running()
        assert self._agent is not None
        if self._agent.fileno() < 0:
            raise GuestDied(self._words("is closed"))
        return self._agent

    def _running(self) -> subprocess.Popen[bytes]:
        if self._process is None:
            raise GuestDied(self._words("is not started"))
        return self._process

    def _died(self) -> GuestDied:
        try:
            status = str(self._running().wait(5))
        except subprocess.TimeoutExpired:
            status = "unknown: it has closed the agent's port, but runs"
        return GuestDied(self._words(f"is gone, exit status {status}"))

    def _words(self, text: str) -> str:
        lines = self.console().splitlines()[-CONSOLE_LINES:]
        head = f"guest {self.name} {text}"
        return "\n".join([head, "--- last console lines ---", *lines])


def b64lines(lines: Sequence[bytes]) -> bytes:
    """The bytes that these lines of base64 stand for."""
    return base64.b64decode(b"".join(lines))


# --- the machine


def _machine(
    image: Image, memory: int, append: str, accel: str | None = None
) -> list[str]:
    command = [QEMU, "-M", "q35", "-cpu", "max", "-m", str(memory)]
    for name in [accel] if accel else accelerators():
        command += ["-accel", name]
    command += ["-nodefaults", "-no-user-config", "-display", "none", "-no-reboot"]
    command += ["-kernel", str(image.kernel), "-initrd", str(image.initramfs)]
    return [*command, "-append", append]


@functools.cache
def accelerators() -> tuple[str, ...]:
    """What to give as -accel: KVM only where a guest has been seen to run on it.

    Nested KVM may be there and hang for ever, so a child process tries it with
    two seconds to go; the answer is kept until the next boot. TAPSTER_GUEST_ACCEL
    overrides it.
    """
    forced = os.environ.get("TAPSTER_GUEST_ACCEL")
    if forced:
        return (forced,)
    if not os.access("/dev/kvm", os.R_OK | os.W_OK):
        return ("tcg",)
    boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    note = default_cache() / "kvm"
    try:
        noted, answer = note.read_text().split()
    except (OSError, ValueError):
        noted = answer = ""
    if noted != boot:
        answer = "works" if _kvm_works() else "fails"
        with contextlib.suppress(OSError):  # not ours to write: probe again
            new = note.with_name(f"kvm.{os.getpid()}")
            new.write_text(f"{boot} {answer}\n")
            new.rename(note)
    # The second is for a guest whose user may not open /dev/kvm.
    return ("kvm", "tcg") if answer == "works" else ("tcg",)


def _kvm_works(seconds: float = 2.0) -> bool:
    command = _machine(build(), 128, f"{KERNEL_WORDS} tapster.probe", "kvm")
    quiet = subprocess.DEVNULL
    probe = subprocess.Popen(command, stdin=quiet, stdout=quiet, stderr=quiet)
    try:
        return probe.wait(seconds) == 0
    except subprocess.TimeoutExpired:
        return False
    finally:
        probe.kill()
        with contextlib.suppress(subprocess.TimeoutExpired):
            probe.wait(seconds)
