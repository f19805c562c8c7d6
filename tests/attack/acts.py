# SPDX-License-Identifier: LGPL-2.1-or-later
"""What an attacker's process does: system calls and requests, as the user it is.

Nothing here judges. What fails returns its errno, or the name of the error; 0 is
success. Descriptors are numbers of the process that runs this (agent.py).
"""

from __future__ import annotations

import errno
import fcntl
import json
import os
import resource
import signal
import socket
import struct
import subprocess
import threading
import time
from collections.abc import Sequence
from contextlib import suppress
from typing import Any

from tapster.client import attach as client
from tapster.client.connection import Connection, open_socket
from tapster.errors import TapsterError
from tapster.kernel import tun

WATCH = {"method": "io.tapster.Broker.Watch", "more": True}
BROKER = "/run/tapster/io.tapster.Broker"

TUNSETPERSIST, TUNSETOWNER, TUNSETGROUP = 0x400454CB, 0x400454CC, 0x400454CE
TUNSETLINK, TUNSETOFFLOAD, TUNSETTXFILTER = 0x400454CD, 0x400454D0, 0x400454D1
TUNSETSNDBUF, TUNATTACHFILTER, TUNSETVNETHDRSZ = 0x400454D4, 0x401054D5, 0x400454D8
TUNSETQUEUE, TUNSETSTEERINGEBPF, TUNSETFILTEREBPF = 0x400454D9, 0x800454E0, 0x800454E1
TUNSETCARRIER = 0x400454E2
SIOCSIFFLAGS, SIOCSIFMTU, SIOCSIFHWADDR = 0x8914, 0x8922, 0x8924
SIOCSIFNAME = 0x8923
IFF_MULTI_QUEUE, IFF_ATTACH_QUEUE, IFF_DETACH_QUEUE = 0x0100, 0x0200, 0x0400
_BPF_PROG_LOAD, _SYS_BPF = 5, 321


def attach(**what: Any) -> tuple[int, dict[str, Any]]:
    """A tap from the broker: its descriptor, and what was told."""
    with Connection(connected(), 15) as broker:
        reply, fds = broker.call("Attach", {"vnet_hdr": False, **what}, fds=True)
    return fds[0], reply["nic"]


def attach_many(count: int, at_a_time: int = 1, **what: Any) -> dict[str, int]:
    """How often each answer came; what was granted stays open."""
    answers: dict[str, int] = {}
    lock = threading.Lock()

    def work() -> None:
        while True:
            with lock:
                if sum(answers.values()) >= count:
                    return
                answers["asked"] = answers.get("asked", 0) + 1
            answer = "granted"
            try:
                attach(**what)
            except TapsterError as error:
                answer = type(error).__name__
            with lock:
                answers["asked"] -= 1
                answers[answer] = answers.get(answer, 0) + 1

    threads = [threading.Thread(target=work) for _ in range(at_a_time)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    answers.pop("asked", None)
    return answers


def helper(
    program: str, bridge: str | bytes, *, vnet: bool = False, cwd: str = "/"
) -> tuple[int, str]:
    """A tap from QEMU's helper, as QEMU asks for it: descriptor, or -1 and why."""
    ours, theirs = socket.socketpair()
    name = bridge if isinstance(bridge, bytes) else os.fsencode(bridge)
    with ours, theirs:
        number = theirs.fileno()
        command = [program, *(["--use-vnet"] if vnet else [])]
        done = subprocess.run(
            [*command, b"--br=" + name, f"--fd={number}"],
            pass_fds=[number], stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE, env={}, timeout=10, cwd=cwd,
        )  # fmt: skip
        if done.returncode:
            return -1, done.stderr.decode(errors="replace").strip().splitlines()[-1]
        _, fds, _, _ = socket.recv_fds(ours, 1, 1)
        return fds[0], tun.name_and_flags(fds[0])[0]


def ask(method: str, parameters: dict[str, Any] | None = None) -> dict[str, Any]:
    """The broker's reply; of an error its name and words. Descriptors are closed."""
    try:
        with Connection(connected(), 15) as broker:
            return broker.call(method, parameters or {})[0]
    except TapsterError as error:
        return {"error": type(error).__name__, "message": error.oneline()}


def start_asking(parameters: dict[str, Any]) -> None:
    """Ask for a tap, and do not wait for what is said."""
    call = {"method": "io.tapster.Broker.Attach", "parameters": parameters}
    sock = connected()
    sock.sendall(json.dumps(call).encode() + b"\0")
    sock.detach()


def change_directory(path: str) -> None:
    os.chdir(path)


def took(method: str, parameters: dict[str, Any] | None = None) -> float:
    """Seconds until there is an answer, whatever it is."""
    start = time.monotonic()
    ask(method, parameters)
    return time.monotonic() - start


def listed() -> list[dict[str, Any]]:
    return client.list_nics(socket=BROKER)


def connected() -> socket.socket:
    """A connection, waited for where many others are before it."""
    sock = open_socket(BROKER, time.monotonic() + 15)
    sock.settimeout(15)
    return sock


def raw_call(data: bytes, fds: Sequence[int] = (), *, wait: float = 5) -> bytes:
    """What the broker says to these bytes, until it hangs up or the time is over."""
    with connected() as sock:
        sock.settimeout(wait)
        answer = b""
        try:
            if fds:
                socket.send_fds(sock, [data], fds)
            else:
                sock.sendall(data)
            while chunk := sock.recv(65536):
                answer += chunk
                if answer.endswith(b"\0"):
                    break
        except OSError:
            pass  # it hung up
        return answer


def pour(chunk: bytes, times: int) -> int:
    """Say it again and again on one connection; MiB until it is cut off."""
    taken = 0
    with connected() as sock:
        sock.settimeout(3)
        try:
            for _ in range(times):
                taken += sock.send(chunk)
        except OSError:
            pass
    return taken >> 20


def send_descriptors(data: bytes, count: int) -> None:
    """Send so many along, all of one file."""
    with open("/dev/null") as file:
        try:
            raw_call(data, [file.fileno()] * count, wait=1)
        except OSError:
            pass  # it hung up


def say_and_leave(data: bytes) -> None:
    with connected() as sock:
        sock.sendall(data)


def connections(count: int, data: bytes = b"") -> list[int]:
    """Open so many and say that on each; those that could be. They stay open."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = min(hard, max(soft, count + 100))
    resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
    made = []
    for _ in range(count):
        sock = socket.socket(socket.AF_UNIX)
        sock.setblocking(False)
        try:
            sock.connect(BROKER)
            if data:
                sock.send(data)
        except OSError:
            sock.close()
        else:
            made.append(sock.detach())
    return made


def still_open(fds: Sequence[int]) -> int:
    """How many of these connections the other side has not closed."""
    count = 0
    for fd in fds:
        sock = socket.socket(fileno=os.dup(fd))
        with sock:
            sock.setblocking(False)
            try:
                while sock.recv(65536):
                    pass
            except BlockingIOError:
                count += 1
            except OSError:
                pass
    return count


def start_watch() -> int:
    """A connection on which events come, for `events`; -1: it is refused."""
    with connected() as sock:
        sock.sendall(json.dumps(WATCH).encode() + b"\0")
        granted = b'"watching"' in sock.recv(65536)
        return sock.detach() if granted else -1


def events(fd: int, seconds: float) -> list[dict[str, Any]]:
    """Those that come within the time. The connection is closed."""
    with socket.socket(fileno=fd) as sock:
        deadline, data = time.monotonic() + seconds, b""
        while (left := deadline - time.monotonic()) > 0:
            sock.settimeout(left)
            try:
                chunk = sock.recv(65536)
            except TimeoutError:
                break
            if not chunk:
                break
            data += chunk
    parts = data.split(b"\0")[:-1]
    return [json.loads(part)["parameters"]["event"] for part in parts]


# The tap's own ioctls


def _did(function: Any, *arguments: Any) -> int:
    try:
        function(*arguments)
    except OSError as error:
        return error.errno or errno.EIO
    return 0


def ioctl(fd: int, number: int, argument: int | bytes = 0) -> int:
    return _did(fcntl.ioctl, fd, number, argument)


def host_mac(fd: int, mac: bytes) -> int:
    """SIOCSIFHWADDR on the tap: the MAC of the host's side."""
    return ioctl(fd, SIOCSIFHWADDR, struct.pack("16sH6s16x", b"", 1, mac))


def host_macs(fd: int, macs: Sequence[bytes], times: int) -> int:
    """The same, so many times, one after the other; how many were taken."""
    return sum(host_mac(fd, macs[n % len(macs)]) == 0 for n in range(times))


def persist(fd: int, on: bool = True) -> int:
    return ioctl(fd, TUNSETPERSIST, int(on))


def persist_often(fd: int, times: int) -> None:
    """Off and on; it ends persistent."""
    for _ in range(times):
        persist(fd, False)
        persist(fd)


def flap(fd: int, number: int, times: int) -> int:
    """An ioctl that takes a pointer to 0 or 1, with both; how often it was taken."""
    values = [struct.pack("i", n) for n in (0, 1)]
    return sum(ioctl(fd, number, values[n % 2]) == 0 for n in range(times))


def reattach(name: str, flags: int = 0) -> tuple[int, int]:
    """Open a tap by its name: its descriptor, or -1 and the errno."""
    fd = os.open(tun.TUN_DEVICE, os.O_RDWR | os.O_NONBLOCK)
    wanted = flags | tun.IFF_TAP | tun.IFF_NO_PI
    failed = ioctl(fd, tun.TUNSETIFF, struct.pack("16sH22x", name.encode(), wanted))
    if failed:
        os.close(fd)
        return -1, failed
    return fd, 0


def reattach_soon(name: str, seconds: float) -> tuple[float, int]:
    """Try for so long, as fast as can be: after what time it worked (-1: never),
    and the descriptor."""
    start = time.monotonic()
    while (passed := time.monotonic() - start) < seconds:
        fd, failed = reattach(name)
        if not failed:
            return passed, fd
    return -1, -1


def filter_program(fd: int) -> int:
    """TUNATTACHFILTER: a classic BPF program that drops every frame."""
    import ctypes

    code = ctypes.create_string_buffer(struct.pack("HBBI", 6, 0, 0, 0))
    program = struct.pack("H6xQ", 1, ctypes.addressof(code))
    return ioctl(fd, TUNATTACHFILTER, program)


def load_ebpf() -> int:
    """bpf(2): load a socket filter of two instructions."""
    import ctypes

    libc = ctypes.CDLL(None, use_errno=True)
    code = ctypes.create_string_buffer(
        struct.pack("BBhi", 0xB7, 0, 0, 0) + struct.pack("BBhi", 0x95, 0, 0, 0)
    )
    licence = ctypes.create_string_buffer(b"GPL")
    attributes = ctypes.create_string_buffer(
        struct.pack("IIQQ", 1, 2, ctypes.addressof(code), ctypes.addressof(licence))
        + bytes(100)
    )
    fd = libc.syscall(_SYS_BPF, _BPF_PROG_LOAD, attributes, 124)
    return ctypes.get_errno() if fd < 0 else 0


def device_ioctl(name: str, number: int, payload: bytes) -> int:
    """One of netdevice(7)'s, on a plain socket."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        request = struct.pack("16s24s", name.encode(), payload)
        return ioctl(sock.fileno(), number, request)


def packet_socket(kind: int = socket.SOCK_RAW) -> int:
    def opened() -> None:
        socket.socket(socket.AF_PACKET, kind, 0).close()

    return _did(opened)


# Frames


def send(fd: int, frame: bytes) -> int:
    return _did(os.write, fd, frame)


def send_all(fd: int, frames: Sequence[bytes], times: int = 1) -> int:
    """How many the kernel took."""
    return sum(send(fd, frame) == 0 for _ in range(times) for frame in frames)


# The rest of the system


def run(*command: str, own_namespace: bool = False, text: str = "") -> tuple[int, str]:
    """A command's status and output, errors included; with `own_namespace` as root
    of a user namespace of one's own."""
    before = ["unshare", "--user", "--map-root-user"] if own_namespace else []
    done = subprocess.run(
        [*before, *command], capture_output=True, text=True, timeout=20, input=text
    )
    return done.returncode, (done.stdout + done.stderr).strip()


def write(path: str, text: str) -> int:
    def act() -> None:
        with open(path, "w") as file:
            file.write(text)

    return _did(act)


def kill(pid: int) -> int:
    return _did(os.kill, pid, signal.SIGKILL)


def swap_and_ask(
    path: str, targets: Sequence[str], seconds: float, bridge: str, program: str = ""
) -> tuple[int, int]:
    """Let a symbolic link lead to one file and another, as fast as can be, and ask
    for a bridge meanwhile: how often it was asked, and granted."""
    deadline, asked, granted = time.monotonic() + seconds, 0, 0

    def swap() -> None:
        turn = 0
        while time.monotonic() < deadline:
            turn += 1
            os.symlink(targets[turn % len(targets)], path + ".new")
            os.rename(path + ".new", path)

    def question() -> None:
        nonlocal asked, granted
        while time.monotonic() < deadline:
            if program:
                good = helper(program, bridge)[0] >= 0
            else:
                good = "error" not in ask("Attach", {"bridge": bridge})
            asked, granted = asked + 1, granted + good

    threads = [threading.Thread(target=swap)]
    threads += [threading.Thread(target=question) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return asked, granted


def replace(path: str, kind: str) -> None:
    """Put a thing of that kind there that whoever reads it waits for."""
    with suppress(FileNotFoundError):
        os.unlink(path)
    if kind == "fifo":
        os.mkfifo(path)
    elif kind == "loop":
        write(path, f"include {path}\n" * 50)
    elif kind == "huge":
        with open(path, "wb") as file:
            file.truncate(1 << 34)
    elif kind == "lines":
        write(path, "allow x\n" * 2_000_000)
    else:
        os.symlink(kind, path)


def remove(path: str) -> int:
    return _did(os.unlink, path)


def bind_unix(path: str) -> int:
    with socket.socket(socket.AF_UNIX) as sock:
        return _did(sock.bind, path)


def readable(top: str) -> list[str]:
    """Files below a directory that this user can read."""
    found = []
    for path, _, names in os.walk(top):
        for name in names:
            full = os.path.join(path, name)
            try:
                with open(full, "rb") as file:
                    file.read(1)
                found.append(full)
            except OSError:
                continue
    return found
