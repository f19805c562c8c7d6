# SPDX-License-Identifier: LGPL-2.1-or-later
"""`tapster.daemon.process.syscalls`: what the filters decide, run by an interpreter of
BPF for each architecture."""

from __future__ import annotations

import errno
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from support.bpf import ARCHITECTURES, run
from tapster.daemon.process import syscalls
from tapster.kernel import seccomp
from tapster.kernel.seccomp import ALLOW, KILL_PROCESS, error

PID = 4711
Decide = Callable[..., int]


@pytest.fixture(params=ARCHITECTURES)
def names(request: pytest.FixtureRequest) -> seccomp.Names:
    return seccomp.Names(request.param)


@pytest.fixture
def decide(names: seccomp.Names) -> Decide:
    code = seccomp.program(syscalls.broker(PID), KILL_PROCESS, names.token, names)

    def decided(name: str, *args: int) -> int:
        number = names(name)
        if number is None:
            return KILL_PROCESS  # there is nothing to call
        return run(code, names.token, number, *args)

    return decided


def test_a_call_is_decided_as_its_list_says(names: seccomp.Names) -> None:
    code = seccomp.program(syscalls.broker(PID), KILL_PROCESS, names.token, names)
    for rule in syscalls.broker(PID):
        if rule.cases:
            continue
        for name in rule.names:
            number = names(name)
            if number is not None:
                assert run(code, names.token, number) == rule.otherwise, name


@pytest.mark.parametrize("name", [
    *("execve", "execveat", "fork", "vfork", "ptrace", "process_vm_readv"),
    *("process_vm_writev", "mount", "umount2", "setns", "unshare", "pivot_root"),
    *("chroot", "bpf", "keyctl", "add_key", "request_key", "init_module"),
    *("finit_module", "delete_module", "kexec_load", "reboot", "setuid", "setgid"),
    *("setreuid", "setresuid", "setresgid", "setgroups", "setfsuid", "capset"),
    *("seccomp", "io_uring_setup", "userfaultfd", "perf_event_open", "swapon"),
    *("open_by_handle_at", "pidfd_getfd", "iopl", "settimeofday", "sethostname"),
    *("acct", "quotactl", "fsopen", "open_tree", "move_mount", "process_madvise"),
])  # fmt: skip
def test_what_no_honest_code_comes_to_is_fatal(decide: Decide, name: str) -> None:
    assert decide(name) == KILL_PROCESS


@given(st.integers(0, 2**32 - 1), st.lists(st.integers(0, 2**64 - 1), max_size=6))
def test_what_is_on_no_list_is_never_allowed(number: int, args: list[int]) -> None:
    for architecture in ARCHITECTURES:
        names = seccomp.Names(architecture)
        rules = syscalls.broker(PID)
        code = seccomp.program(rules, KILL_PROCESS, names.token, names)
        listed = {names(name) for rule in rules for name in rule.names}
        if number not in listed:
            answer = run(code, names.token, number, *args)
            assert answer in (KILL_PROCESS, error(errno.ENOSYS))


def test_another_architecture_s_calls_are_fatal(names: seccomp.Names) -> None:
    code = seccomp.program(syscalls.broker(PID), KILL_PROCESS, names.token, names)
    i386 = 0x40000003
    for number in range(500):
        assert run(code, i386, number) == KILL_PROCESS


def test_x32_calls_are_fatal() -> None:
    names = seccomp.Names("x86_64")
    code = seccomp.program(syscalls.broker(PID), KILL_PROCESS, names.token, names)
    for number in range(600):
        assert run(code, names.token, number | 0x40000000) == KILL_PROCESS


def test_a_call_newer_than_the_lists_does_not_exist(
    names: seccomp.Names,
) -> None:
    code = seccomp.program(syscalls.broker(PID), KILL_PROCESS, names.token, names)
    for number in (seccomp.NEWEST + 1, 9999):
        assert run(code, names.token, number) == error(errno.ENOSYS)


def test_threads_are_made_but_no_processes(decide: Decide) -> None:
    of_glibc, of_musl = 0x3D0F00, 0x7D0F00
    assert decide("clone", of_glibc) == decide("clone", of_musl) == ALLOW
    assert decide("clone", 17) == KILL_PROCESS  # fork
    assert decide("clone", 0x4111) == KILL_PROCESS  # vfork
    for namespace in (0x20000, 0x02000000, *(0x04000000 << n for n in range(5))):
        assert decide("clone", of_glibc | namespace) == KILL_PROCESS
    assert decide("clone3") == error(errno.ENOSYS)


@given(st.integers(0, 2**64 - 1))
def test_nothing_becomes_executable(protection: int) -> None:
    names = seccomp.Names("x86_64")
    code = seccomp.program(syscalls.broker(PID), KILL_PROCESS, names.token, names)
    for name in ("mmap", "mprotect"):
        number = names(name)
        assert number is not None
        allowed = run(code, names.token, number, 0, 4096, protection) == ALLOW
        assert allowed == (not protection & 4)


@pytest.mark.parametrize(("name", "argument"), [
    ("chmod", 1), ("fchmod", 1), ("mkdir", 1), ("creat", 1), ("mknod", 1),
    ("fchmodat", 2), ("fchmodat2", 2), ("mkdirat", 2), ("mknodat", 2),
])  # fmt: skip
def test_no_file_becomes_setuid(
    decide: Decide, names: seccomp.Names, name: str, argument: int
) -> None:
    if names(name) is None:
        return  # there it is called by its younger name

    def made(mode: int) -> int:
        return decide(name, *([0] * argument), mode)

    assert made(0o640) == made(0o777) == ALLOW
    for bits in (0o4755, 0o2755, 0o6000):
        assert made(bits) == error(errno.EPERM)


def test_no_opened_file_becomes_setuid(decide: Decide) -> None:
    creat, tmpfile = 0o100, 0o20200000
    assert decide("openat", 0, 0, creat, 0o640) == ALLOW
    assert decide("openat", 0, 0, 0, 0o7777) == ALLOW  # not made: no mode
    for flags in (creat, tmpfile):
        assert decide("openat", 0, 0, flags, 0o4755) == error(errno.EPERM)
        assert decide("openat", 0, 0, flags, 0o2755) == error(errno.EPERM)


def test_devices_are_not_made(decide: Decide) -> None:
    for kind in (0o020000, 0o060000):  # character, block
        assert decide("mknodat", 0, 0, kind | 0o666) == error(errno.EPERM)
    assert decide("mknodat", 0, 0, 0o010600) == ALLOW  # a FIFO


def test_sockets_are_of_four_families(decide: Decide) -> None:
    allowed = [f for f in range(64) if decide("socket", f, 1, 0) == ALLOW]
    assert allowed == [1, 2, 10, 16]
    assert decide("socket", 17) == error(errno.EAFNOSUPPORT)  # AF_PACKET
    assert decide("socketpair", 1) == ALLOW
    assert decide("socketpair", 2) == error(errno.EAFNOSUPPORT)


def test_no_ioctl_but_those_of_taps_is_made(decide: Decide) -> None:
    tunsetiff, tiocsti, siocsifhwaddr = 0x400454CA, 0x5412, 0x8924
    assert decide("ioctl", 3, tunsetiff) == ALLOW
    for request in (tiocsti, siocsifhwaddr, 0x541C):
        assert decide("ioctl", 3, request) == error(errno.EPERM)


def test_only_itself_is_signalled(decide: Decide) -> None:
    assert decide("tgkill", PID, PID + 1, 6) == decide("kill", PID, 9) == ALLOW
    for other in (1, 0, -1 & 0xFFFFFFFFFFFFFFFF, PID + 1):
        assert decide("kill", other, 9) == error(errno.EPERM)
        assert decide("tgkill", other, other, 9) == error(errno.EPERM)
    assert decide("pidfd_send_signal", 3, 9) == error(errno.EPERM)


def test_nothing_of_its_own_confinement_is_undone(decide: Decide) -> None:
    dumpable, ambient, no_new_privs, seccomp_mode = 4, 47, 38, 22
    for option in (dumpable, ambient, no_new_privs, seccomp_mode):
        assert decide("prctl", option, 1) == error(errno.EPERM)
    assert decide("prctl", 15) == ALLOW  # a thread's name


def test_upper_halves_of_arguments_hide_nothing(decide: Decide) -> None:
    assert decide("socket", 1 << 32 | 17) == error(errno.EAFNOSUPPORT)
    assert decide("fchmod", 0, 1 << 32 | 0o4755) == error(errno.EPERM)


class TestPrograms:
    """What the broker starts."""

    @pytest.fixture
    def decide(self, names: seccomp.Names) -> Decide:
        code = seccomp.program(syscalls.programs(), ALLOW, names.token, names)

        def decided(name: str, *args: int) -> int:
            number = names(name)
            assert number is not None
            return run(code, names.token, number, *args)

        return decided

    @pytest.mark.parametrize("name", [
        *("ptrace", "mount", "setns", "unshare", "bpf", "keyctl", "init_module"),
        *("io_uring_setup", "process_vm_readv", "open_by_handle_at", "chroot"),
    ])  # fmt: skip
    def test_have_no_business_with(self, decide: Decide, name: str) -> None:
        assert decide(name) == error(errno.EPERM)

    @pytest.mark.parametrize("name", ["execve", "clone", "clone3", "socket", "openat"])
    def test_go_on_with(self, decide: Decide, name: str) -> None:
        assert decide(name) == ALLOW

    def test_make_nothing_setuid(self, decide: Decide) -> None:
        assert decide("fchmodat", 0, 0, 0o4755) == error(errno.EPERM)
        assert decide("fchmod", 0, 0o4755) == error(errno.EPERM)
        assert decide("fchmodat", 0, 0, 0o2755) == ALLOW
