# SPDX-License-Identifier: LGPL-2.1-or-later
"""The broker's own sandbox, on the real daemon: what is left to it and to what it
starts, what becomes of it when it tries more, and what it makes of what it was
started with. docs/security.md has the table.

Shows daemon/main, daemon/process.
"""

from __future__ import annotations

import errno
import json
import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from lab import OTHER, USER, Daemon, Lab, until
from support.host import SOCKET_NAME, as_user, attach, inside, until_nothing_is_left
from tapster.client import attach as client
from tapster.kernel import seccomp

CONFIG = "[broker]\nnetwork_grace_seconds = 0.1\n"
BROKER = "0000000000001404"  # NET_ADMIN, NET_BIND_SERVICE, DAC_READ_SEARCH
DNSMASQ = "0000000000003400"  # NET_ADMIN, NET_BIND_SERVICE, NET_RAW
# These and CHOWN, DAC_READ_SEARCH, KILL, SETGID, SETUID, SYS_PTRACE
PROGRAMS = "00000000000834e5"

# What runs in the broker once it has entered its sandbox.
INSIDE = """
import asyncio, ctypes, fcntl, json, mmap, os, socket, sys
from tapster.daemon.process import sandbox
from tapster.kernel import seccomp
names = seccomp.Names()
libc = ctypes.CDLL(None, use_errno=True)
def call(name, *arguments):
    number = names(name) if isinstance(name, str) else name
    words = [ctypes.c_long(a) if isinstance(a, int) else a for a in arguments]
    ctypes.set_errno(0)
    libc.syscall(ctypes.c_long(number), *words)
    return ctypes.get_errno()
def spawner():
    return open(f"/proc/self/task/{os.getpid()}/children").read().strip()
def attempt(what):
    try:
        return what()
    except OSError as err:
        return err.errno
    except ImportError:
        return "no such code"
inner = sandbox.enter
def enter(**more):
    inner(**more)
    asyncio.get_running_loop().call_later(0.1, act)
sandbox.enter = enter
def act():
%s
"""


def acting(code: str) -> str:
    return INSIDE % "\n".join(f"    {line}" for line in code.split("\n"))


@pytest.fixture(autouse=True)
def config(lab: Lab) -> Iterator[None]:
    lab.config(CONFIG)
    yield
    for made in lab._daemons:  # of a test that failed
        made.stop(signal.SIGKILL)


def status(pid: int) -> dict[str, str]:
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return {k: v.strip() for k, _, v in (line.partition(":") for line in lines)}


def descriptors(pid: int) -> dict[int, str]:
    fds = f"/proc/{pid}/fd"
    return {int(fd): os.readlink(f"{fds}/{fd}") for fd in os.listdir(fds)}


def words(pid: int) -> list[str]:
    return Path(f"/proc/{pid}/cmdline").read_text().rstrip("\0").split("\0")


def children(pid: int) -> list[int]:
    text = Path(f"/proc/{pid}/task/{pid}/children").read_text()
    return [int(word) for word in text.split()]


def child(daemon: Daemon) -> int:
    """The spawner."""
    (only,) = children(daemon.process.pid)
    return only


def dnsmasq(lab: Lab) -> int:
    (found,) = [p for p in lab.host.processes() if status(p)["Name"] == "dnsmasq"]
    return found


@pytest.fixture
def daemon(lab: Lab) -> Iterator[Daemon]:
    made = lab.daemon("--config", "/run/config")
    yield made
    until_nothing_is_left(lab, networks=True)
    assert made.stop() == 0


class TestLeft:
    """What is left to whom."""

    def test_the_broker_has_three_capabilities_and_no_new_privileges(
        self, lab: Lab, daemon: Daemon
    ) -> None:
        with attach(lab, USER):
            pid = daemon.process.pid
            for task in os.listdir(f"/proc/{pid}/task"):
                of_task = status(int(task))
                assert of_task["NoNewPrivs"] == "1"
                assert of_task["Seccomp"] == "2"
                for kind in ("Eff", "Prm", "Bnd"):
                    assert of_task[f"Cap{kind}"] == BROKER
                assert int(of_task["CapInh"], 16) == int(of_task["CapAmb"], 16) == 0
                assert of_task["Groups"] == ""
                assert of_task["Umask"] == "0027"
            assert os.readlink(f"/proc/{pid}/cwd") == "/"
            limits = Path(f"/proc/{pid}/limits").read_text()
            (core,) = [x for x in limits.splitlines() if x.startswith("Max core")]
            assert core.split()[4:6] == ["0", "0"]

    def test_the_spawner_has_what_programs_need_and_two_sockets(
        self, daemon: Daemon
    ) -> None:
        pid = child(daemon)
        of_spawner = status(pid)
        assert of_spawner["NoNewPrivs"] == "1" and of_spawner["Seccomp"] == "2"
        assert of_spawner["CapBnd"] == of_spawner["CapEff"] == PROGRAMS
        assert of_spawner["Groups"] == ""
        kinds = {f: t.split(":")[0] for f, t in descriptors(pid).items() if f != 2}
        assert kinds == {0: "socket", 1: "socket", 3: "pipe", 4: "pipe"}

    def test_the_spawner_is_small(self, daemon: Daemon) -> None:
        text = Path(f"/proc/{child(daemon)}/smaps_rollup").read_text()
        sizes = {k: v for k, _, v in (x.partition(":") for x in text.splitlines())}
        own = sum(int(sizes[f"Private_{k}"].split()[0]) for k in ("Clean", "Dirty"))
        assert own < 8 * 1024  # KiB

    def test_dnsmasq_has_its_own_user_and_three_capabilities(
        self, lab: Lab, daemon: Daemon
    ) -> None:
        with attach(lab, USER):
            pid = dnsmasq(lab)
            found = status(pid)
            assert found["NoNewPrivs"] == "1" and found["Seccomp"] == "2"
            assert int(found["CapEff"], 16) & ~int(DNSMASQ, 16) == 0
            assert found["CapBnd"] == PROGRAMS
            uid, gid = os.stat(inside(lab, "/run/tapster/networks"))[4:6]
            assert found["Uid"].split()[0] not in ("0", str(uid))
            assert found["Gid"].split()[0] == str(gid)
            held = [descriptors(pid)[fd] for fd in (0, 1, 2)]
            assert held == ["/dev/null"] * 3
            for name in descriptors(pid).values():
                assert name == "/dev/null" or not name.startswith(("/dev", "/tmp")), (
                    name
                )
                assert "lock" not in name

    def test_the_brokers_memory_is_closed_to_its_own_user(
        self, open_directory: Path
    ) -> None:
        """Not even dnsmasq, which talks to guests: both are user tapster."""
        with Lab(open_directory) as own:
            pid = str(unprivileged(own).process.pid)
            got = own.host.run("cat", f"/proc/{pid}/environ", user=OTHER, check=False)
            assert got.returncode and "Permission denied" in got.stderr

    def test_a_broker_that_is_not_root_has_two_capabilities(
        self, open_directory: Path
    ) -> None:
        with Lab(open_directory) as own:
            daemon = unprivileged(own)
            found = status(daemon.process.pid)
            assert found["CapEff"] == found["CapPrm"] == "0000000000001400"
            assert found["CapAmb"] == found["CapInh"] == "0000000000000000"
            assert found["NoNewPrivs"] == "1" and found["Seccomp"] == "2"
            assert status(child(daemon))["CapEff"] == DNSMASQ
            assert daemon.stop() == 0

    def test_a_rootless_broker_has_two_capabilities(self, lab: Lab) -> None:
        runtime = f"/run/user/{USER}/tapster"
        started = lab.host.popen(
            lab.python, "-m", "tapster.daemon.main", "--rootless", user=USER
        )
        path = inside(lab, f"{runtime}/{SOCKET_NAME}")
        until("its socket", lambda: os.path.exists(path))
        with as_user(lab, USER, directory=runtime):
            nic = client.attach(socket=SOCKET_NAME, timeout=15)
        with nic:
            (broker,) = [
                p for p in children(started.pid) if words(p)[-1] == "--rootless"
            ]
            found = status(broker)
            assert found["CapEff"] == found["CapBnd"] == "0000000000001400"
            assert found["NoNewPrivs"] == "1" and found["Seccomp"] == "2"
            (spawner,) = children(broker)
            assert status(spawner)["CapBnd"] == DNSMASQ
        started.send_signal(signal.SIGTERM)
        assert started.wait(15) == 0


def unprivileged(lab: Lab) -> Daemon:
    """As the unit file has it: a user of its own, three ambient capabilities."""
    for path in ("/run/other", "/run/other/state"):
        lab.host.run("install", "-d", f"-o{OTHER}", path)
    lab.config(CONFIG)
    capabilities = "+net_admin,+net_bind_service,+net_raw"
    return lab.daemon(
        *("--config", "/run/config", "--runtime-dir", "/run/other/run"),
        *("--state-dir", "/run/other/state"),
        prefix=(
            *("setpriv", f"--reuid={OTHER}", f"--regid={OTHER}", "--clear-groups"),
            *(f"--inh-caps={capabilities}", f"--ambient-caps={capabilities}"),
        ),
    )


FATAL = [
    "os.fork()", "os.execv('/bin/true', ['true'])", "os.posix_spawn('/x', ['x'], {})",
    "__import__('subprocess').run(['true'])", "os.system('true')",
    *(f"call({name!r}, 0, 0, 0, 0, 0)" for name in (
        *("execveat", "ptrace", "process_vm_readv", "process_vm_writev", "mount"),
        *("umount2", "setns", "unshare", "pivot_root", "bpf", "keyctl", "add_key"),
        *("finit_module", "perf_event_open", "userfaultfd", "io_uring_setup"),
        *("open_by_handle_at", "pidfd_getfd", "seccomp", "capset", "setuid"),
        *("setresuid", "setgroups", "kcmp", "quotactl", "fsopen"),
    )),
]  # fmt: skip


@pytest.mark.parametrize("code", FATAL)
def test_what_no_broker_does_is_fatal(lab: Lab, code: str) -> None:
    made = lab.daemon("--config", "/run/config", script=acting(f"{code}\nos._exit(0)"))
    assert made.process.wait(10) == -signal.SIGSYS
    until_nothing_is_left(lab, networks=True)


DENIED: dict[str, int | str] = {
    "socket.socket(31, 3, 0)": errno.EAFNOSUPPORT,  # AF_BLUETOOTH
    "socket.socket(17, 3, 0)": errno.EAFNOSUPPORT,  # AF_PACKET
    "socket.socket(38, 5, 0)": errno.EAFNOSUPPORT,  # AF_ALG
    "socket.socket(40, 1, 0)": errno.EAFNOSUPPORT,  # AF_VSOCK
    "os.chmod('/run/mine', 0o4755)": errno.EPERM,
    "os.chmod('/run/mine', 0o2755)": errno.EPERM,
    "os.open('/run/new', os.O_CREAT | os.O_WRONLY, 0o4755)": errno.EPERM,
    "os.mkdir('/run/new', 0o2755)": errno.EPERM,
    "os.mknod('/run/new', 0o020666, os.makedev(1, 1))": errno.EPERM,
    "os.symlink('/etc', '/run/new')": errno.EPERM,
    "os.link('/run/mine', '/run/new')": errno.EPERM,
    "os.chown('/run/mine', 1, 1)": errno.EPERM,
    "os.chdir('/tmp')": errno.EPERM,
    "os.memfd_create('x')": errno.EPERM,
    "os.kill(1, 0)": errno.EPERM,
    "os.kill(os.getppid(), 9)": errno.EPERM,
    "fcntl.ioctl(0, 0x5412, b'x')": errno.EPERM,  # TIOCSTI
    "mmap.mmap(-1, 4096, prot=7)": errno.EPERM,
    "call('mprotect', 0, 0, 4)": errno.EPERM,
    "call('prctl', 4, 1)": errno.EPERM,  # PR_SET_DUMPABLE
    "call('prctl', 38, 0)": errno.EPERM,  # PR_SET_NO_NEW_PRIVS
    "call('personality', 0x0400000)": errno.EPERM,  # READ_IMPLIES_EXEC
    "call('clone3', 0, 0)": errno.ENOSYS,
    "call(9999)": errno.ENOSYS,
    f"call({seccomp.NEWEST + 1})": errno.ENOSYS,
    "__import__('_curses')": "no such code",  # a library that is loaded late
    "open(f'/proc/{spawner()}/mem', 'r+b').close()": errno.EACCES,
    "open(f'/proc/{spawner()}/environ').close()": errno.EACCES,
    "open('/proc/1/environ').close()": errno.EACCES,
    "open('/proc/1/mem', 'r+b').close()": errno.EACCES,
}


def test_what_a_library_may_try_is_an_error(lab: Lab) -> None:
    lab.host.run("touch", "/run/mine")
    code = "\n".join((
        "found = {}",
        *(f"found[{code!r}] = attempt(lambda: {code})" for code in DENIED),
        "open('/run/found.new', 'w').write(json.dumps(found))",
        "os.rename('/run/found.new', '/run/found')",
    ))  # fmt: skip
    made = lab.daemon("--config", "/run/config", script=acting(code))
    path = inside(lab, "/run/found")
    until(
        "what it found", lambda: os.path.exists(path) or made.process.poll() is not None
    )
    assert made.process.poll() is None, made.log
    found = json.loads(Path(path).read_text())
    os.unlink(path)
    assert found == DENIED
    with attach(lab, USER) as nic:  # it serves on
        assert nic.ipv4
    until_nothing_is_left(lab, networks=True)
    assert made.stop() == 0
    assert not os.path.exists(inside(lab, "/run/new"))


BEQUEATH = """
import os, signal, sys, socket
sock = socket.socket()
left = [os.open("/etc/shadow", os.O_RDONLY), sock.fileno()]
for fd in left:
    os.dup2(fd, fd + 60)
    os.set_inheritable(fd, True)
{more}
os.execvp(sys.argv[1], sys.argv[1:])
"""


class TestInherited:
    """What it is started with."""

    def start(self, lab: Lab, more: str, *prefix: str, **options: Any) -> Daemon:
        code = BEQUEATH.format(more=more)
        return lab.daemon(
            *("--config", "/run/config"),
            prefix=(*prefix, lab.python, "-c", code),
            **options,
        )

    def serves(self, lab: Lab, daemon: Daemon) -> None:
        with attach(lab, USER) as nic:
            assert nic.ipv4
        until_nothing_is_left(lab, networks=True)
        assert daemon.stop() == 0

    def test_inherited_descriptors_are_closed(self, lab: Lab) -> None:
        made = self.start(lab, "")
        for pid in (made.process.pid, child(made)):
            names = descriptors(pid)
            assert "/etc/shadow" not in names.values()
            assert max(names) < 60
        self.serves(lab, made)

    @pytest.mark.parametrize("which", [(0,), (1,), (2,), (0, 1, 2), (1, 2)])
    def test_missing_standard_descriptors_become_dev_null(
        self, lab: Lab, which: tuple[int, ...]
    ) -> None:
        made = self.start(lab, f"for fd in {which}: os.close(fd)")
        held = descriptors(made.process.pid)
        for fd in which:
            assert held[fd] == "/dev/null"
        self.serves(lab, made)

    def test_ignored_and_blocked_signals_are_reset(self, lab: Lab) -> None:
        more = """
for number in signal.valid_signals() - {signal.SIGKILL, signal.SIGSTOP}:
    signal.signal(number, signal.SIG_IGN)
signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())
"""
        made = self.start(lab, more)
        for pid in (made.process.pid, child(made)):
            assert int(status(pid)["SigBlk"], 16) == 0
            ignored = int(status(pid)["SigIgn"], 16)
            assert not ignored >> (signal.SIGCHLD - 1) & 1
        self.serves(lab, made)  # and is ended by SIGTERM

    def test_umask_directory_groups_and_priority_are_reset(self, lab: Lab) -> None:
        more = "os.umask(0); os.chdir('/tmp'); os.setgroups([4, 27]); os.nice(10)"
        made = self.start(lab, more)
        found = status(made.process.pid)
        assert found["Umask"] == "0027" and found["Groups"] == ""
        assert os.readlink(f"/proc/{made.process.pid}/cwd") == "/"
        assert os.getpriority(os.PRIO_PROCESS, made.process.pid) == 0
        self.serves(lab, made)

    def test_a_working_directory_that_is_gone_does_not_matter(self, lab: Lab) -> None:
        x = "/run/gone"
        made = lab.daemon(
            "--config", "/run/config",
            prefix=("sh", "-c", f'mkdir {x}; cd {x}; rmdir {x}; exec "$@"', "sh"),
        )  # fmt: skip
        self.serves(lab, made)

    def test_inherited_variables_are_not_handed_on(self, lab: Lab) -> None:
        more = "os.environ['LD_LIBRARY_PATH'] = '/tmp'; os.environ['BASH_ENV'] = '/x'"
        made = self.start(lab, more)
        words = Path(f"/proc/{child(made)}/environ").read_bytes().split(b"\0")
        names = {word.partition(b"=")[0] for word in words}
        assert not names & {b"LD_LIBRARY_PATH", b"BASH_ENV", b"PYTHONPATH"}
        self.serves(lab, made)

    @pytest.mark.parametrize(("limit", "hint"), [
        ("ulimit -n 100", "descriptors are too few"),
        ("ulimit -f 100", "bytes in a file are too few"),
    ])  # fmt: skip
    def test_a_limit_that_is_too_low_is_named(
        self, lab: Lab, limit: str, hint: str
    ) -> None:
        with pytest.raises(RuntimeError, match=hint):
            lab.daemon(prefix=("sh", "-c", f'{limit}; exec "$@"', "sh"))

    def test_a_low_soft_limit_is_raised(self, lab: Lab) -> None:
        self.serves(lab, lab.daemon(
            "--config", "/run/config",
            prefix=("sh", "-c", 'ulimit -S -n 64; exec "$@"', "sh"),
        ))  # fmt: skip


class TestSpawnerDies:
    def test_a_broker_without_its_spawner_ends_and_guests_keep_their_network(
        self, lab: Lab
    ) -> None:
        first = lab.daemon("--config", "/run/config")
        with attach(lab, USER) as nic:
            serving = dnsmasq(lab)
            os.kill(child(first), signal.SIGKILL)
            assert first.process.wait(15) == os.EX_SOFTWARE
            assert "the process that starts programs has died" in first.log
            assert dnsmasq(lab) == serving
            second = lab.daemon("--config", "/run/config")
            with attach(lab, USER, name="other") as more:
                assert more.bridge == nic.bridge
            assert dnsmasq(lab) == serving
        until_nothing_is_left(lab, networks=True)
        assert second.stop() == 0

    def test_the_spawner_ends_with_a_broker_that_is_killed(self, lab: Lab) -> None:
        made = lab.daemon("--config", "/run/config")
        spawner = child(made)
        made.stop(signal.SIGKILL)
        until("its end", lambda: not os.path.exists(f"/proc/{spawner}"))
