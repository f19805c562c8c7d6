# SPDX-License-Identifier: LGPL-2.1-or-later
"""Ask the real qemu-bridge-helper, setuid root, without touching the host.

Everything happens in a forked child with its own mount and network namespaces:
a private /etc with nothing but /etc/qemu, a setuid copy of the helper, a
/dev/net/tun open to all, a few bridges. All of it goes when the child ends.
"""

from __future__ import annotations

import ctypes
import os
import pickle
import shutil
import signal
import socket
import subprocess
import traceback
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, NamedTuple

from tapster.policy.foreign.permissions import Reader

HELPER = "/usr/lib/qemu/qemu-bridge-helper"
CONF = "/etc/qemu/bridge.conf"

_CLONE_NEWNS = 0x00020000
_CLONE_NEWNET = 0x40000000
_MS_BIND = 0x1000
_MS_REC_PRIVATE = 0x4000 | 0x40000
_PR_SET_PDEATHSIG = 1

_libc = ctypes.CDLL(None, use_errno=True)


def _check(result: int, what: str) -> None:
    if result < 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number), what)


def _mount(source: str, target: str, kind: str | None, flags: int, data: str) -> None:
    _check(
        _libc.mount(
            source.encode(),
            target.encode(),
            kind.encode() if kind else None,
            ctypes.c_ulong(flags),
            data.encode(),
        ),
        f"mount {target}",
    )


def mount(source: str, target: str, kind: str, options: str) -> None:
    """mount(2); only inside `in_private_namespaces`."""
    _mount(source, target, kind, 0, options)


def _tmpfs(target: str) -> None:
    _mount("tmpfs", target, "tmpfs", 0, "mode=0755")


def _isolate() -> None:
    _check(_libc.unshare(_CLONE_NEWNS | _CLONE_NEWNET), "unshare")
    _mount("none", "/", None, _MS_REC_PRIVATE, "")
    _tmpfs("/etc")
    os.mkdir("/etc/qemu")


def in_private_namespaces(job: Callable[[], Any]) -> Any:
    """The result of `job`, run in a child with an /etc and a network of its own."""
    reading, writing = os.pipe()
    pid = os.fork()
    if pid == 0:
        _libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
        os.close(reading)
        outcome: tuple[Any, str | None]
        try:
            os.umask(0)
            _isolate()
            outcome = (job(), None)
        except BaseException:  # noqa: BLE001 - the parent raises it
            outcome = (None, traceback.format_exc())
        with open(writing, "wb") as pipe:
            pickle.dump(outcome, pipe)
        os._exit(0)
    os.close(writing)
    try:
        with open(reading, "rb") as pipe:
            result, failure = pickle.load(pipe)  # noqa: S301 - our own child's
    finally:
        os.waitpid(pid, 0)
    if failure:
        raise AssertionError(failure)
    return result


def why_not() -> str | None:
    """Why these tests cannot run here, by trying; None if they can."""
    if not os.path.exists(HELPER):
        return f"no {HELPER} (Debian: qemu-system-common)"
    try:
        in_private_namespaces(lambda: PeerHelper().close())
    except AssertionError as error:
        return str(error).strip().splitlines()[-1]
    return None


class Answer(NamedTuple):
    granted: bool
    kind: str  # fd | acl | parse | name | gone | hang | other
    text: str


class PeerHelper:
    """The helper, ready to be asked; only inside `in_private_namespaces`."""

    def __init__(self, bridges: Iterable[str] = ()) -> None:
        self.place = "/etc/.peer"
        os.mkdir(self.place)
        _tmpfs(self.place)
        copy = f"{self.place}/helper"
        shutil.copyfile(HELPER, copy)
        os.chown(copy, 0, 0)
        os.chmod(copy, 0o4755)
        _mount(copy, HELPER, None, _MS_BIND, "")
        tun = f"{self.place}/tun"
        os.mknod(tun, 0o020666, os.makedev(10, 200))
        _mount(tun, "/dev/net/tun", None, _MS_BIND, "")
        os.mkdir(f"{self.place}/empty")
        for bridge in bridges:
            subprocess.run(
                ["ip", "link", "add", "name", bridge, "type", "bridge"], check=True
            )

    def close(self) -> None:
        """Nothing to do: the namespaces take everything with them."""

    def ask(
        self,
        bridge: str | bytes,
        reader: Reader,
        *,
        cwd: str | None = None,
        timeout: float = 10,
        preexec: Callable[[], None] | None = None,
    ) -> Answer:
        """Ask for a port of `bridge` as `reader`, from an empty directory."""
        ours, theirs = socket.socketpair()
        with ours, theirs:
            number = theirs.fileno()
            name = bridge if isinstance(bridge, bytes) else os.fsencode(bridge)
            try:
                done = subprocess.run(
                    [HELPER, "--use-vnet", b"--br=" + name, f"--fd={number}"],
                    stdin=subprocess.DEVNULL,
                    stdout=subprocess.DEVNULL,
                    stderr=subprocess.PIPE,
                    pass_fds=[number],
                    user=reader.uid,
                    group=reader.gid,
                    extra_groups=sorted(reader.groups),
                    cwd=cwd or f"{self.place}/empty",
                    env={},
                    timeout=timeout,
                    preexec_fn=preexec,
                    check=False,
                )
            except subprocess.TimeoutExpired:
                return Answer(False, "hang", "")
            text = done.stderr.decode(errors="backslashreplace").strip()
            if done.returncode == 0:
                _, fds, _, _ = socket.recv_fds(ours, 1, 1, socket.MSG_DONTWAIT)
                for fd in fds:
                    os.close(fd)
                return Answer(len(fds) == 1, "fd", text)
        return Answer(False, _kind(text), text)


def set_alternative_name(device: str, name: str) -> None:
    command = ["ip", "link", "property", "add", "dev", device, "altname", name]
    subprocess.run(command, check=True)


def _kind(text: str) -> str:
    last = text.splitlines()[-1] if text else ""
    if last == "access denied by acl file":
        return "acl"
    if last == f"failed to parse default acl file `{CONF}'":
        return "parse"
    if last.startswith("name `"):
        return "name"
    if last.startswith("failed to get mtu of bridge"):
        return "gone"  # the rules let it pass
    return "other"


class Node(NamedTuple):
    """One thing in the file system."""

    path: str
    content: bytes | None = b""  # None: a directory
    mode: int = 0o644
    uid: int = 0
    gid: int = 0
    acl: str = ""  # as setfacl -m takes it
    link: str = ""  # a symbolic link to this instead

    def make(self) -> None:
        if self.link:
            os.symlink(self.link, self.path)
            os.chown(self.path, self.uid, self.gid, follow_symlinks=False)
            return
        if self.content is None:
            os.makedirs(self.path, exist_ok=True)
        else:
            Path(self.path).write_bytes(self.content)
        os.chown(self.path, self.uid, self.gid)
        os.chmod(self.path, self.mode)
        if self.acl:
            subprocess.run(["setfacl", "-m", self.acl, "--", self.path], check=True)


def make_tree(nodes: Iterable[Node]) -> None:
    """Empty /etc/qemu and put these there, main file and all."""
    for entry in list(os.scandir("/etc/qemu")):
        if entry.is_dir(follow_symlinks=False):
            shutil.rmtree(entry.path)
        else:
            os.unlink(entry.path)
    os.chmod("/etc/qemu", 0o755)
    os.chown("/etc/qemu", 0, 0)
    for node in nodes:
        node.make()


def open_as(paths: Iterable[str], reader: Reader) -> list[bytes | int]:
    """What the kernel gives `reader`: contents (a directory's are empty) or errno."""
    reading, writing = os.pipe()
    pid = os.fork()
    if pid == 0:
        os.close(reading)
        found: list[bytes | int] = []
        os.setgroups(sorted(reader.groups))
        os.setresgid(reader.gid, reader.gid, reader.gid)
        os.setresuid(reader.uid, reader.uid, reader.uid)
        for path in paths:
            try:
                fd = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
            except OSError as error:
                found.append(error.errno or 0)
                continue
            try:
                found.append(os.read(fd, 100))
            except IsADirectoryError:
                found.append(b"")
            os.close(fd)
        with open(writing, "wb") as pipe:
            pickle.dump(found, pipe)
        os._exit(0)
    os.close(writing)
    try:
        with open(reading, "rb") as pipe:
            result: list[bytes | int] = pickle.load(pipe)  # noqa: S301 - our own child's
    finally:
        os.waitpid(pid, 0)
    return result
