# SPDX-License-Identifier: LGPL-2.1-or-later
"""System call filters: which calls there are for a process, and with what.

seccomp(2). The filter program is our own, a search by number. libseccomp could not make
it: for a call's arguments it has no other "else" than the filter's default, and it
can't tell calls that nobody knew yet from calls that nobody is to make. The numbers of
calls are looked up in libseccomp, which knows them on every architecture.
"""

from __future__ import annotations

import ctypes
import errno
import os
import struct
import sys
from collections.abc import Callable, Iterable
from typing import NamedTuple

from .libc import libc, oserror

ALLOW = 0x7FFF0000
KILL_PROCESS = 0x80000000
_ERRNO = 0x00050000

# The last call that there was when this was written, of Linux 6.18. A number beyond it
# is answered as by a kernel that has no such call: a libc that tries it goes on with an
# older one.
NEWEST = 470
# Calls that some libseccomp in use does not know. Their numbers are the same on every
# architecture.
_YOUNG = {
    "cachestat": 451,
    "fchmodat2": 452,
    "futex_wake": 454,
    "futex_wait": 455,
    "futex_requeue": 456,
    "mseal": 462,
}

_SET_MODE_FILTER = 1
_FLAG_TSYNC = 1
_X32 = 0x40000000  # calls of x86's third ABI, which has the architecture of the first
_ARCH_X86_64 = 0xC000003E

# Classic BPF, bpf(4) of the BSDs: loads, jumps, and the end.
_LOAD, _AND, _JUMP, _EQUAL, _GREATER, _AT_LEAST = 0x20, 0x54, 0x05, 0x15, 0x25, 0x35
_RETURN = 0x06
_NUMBER, _ARCHITECTURE, _ARGUMENTS = 0, 4, 16  # struct seccomp_data
_LIMIT = 4096  # instructions
_FEW = 4  # calls that are looked at one by one

Instruction = tuple[int, int, int, int]  # code, jump if true, jump if false, operand


def error(number: int) -> int:
    """The action that answers a call with an errno."""
    return _ERRNO | number


class Condition(NamedTuple):
    """The bits of an argument that are in `mask` must be `value`. Only the lower 32
    bits of an argument count, as they do for the calls in question."""

    argument: int  # from 0
    mask: int
    value: int


class Case(NamedTuple):
    """An action for when all conditions hold."""

    action: int
    conditions: tuple[Condition, ...]


class Rule(NamedTuple):
    """What is done with some calls: the action of the first case that holds, or else
    `otherwise`."""

    names: tuple[str, ...]
    otherwise: int
    cases: tuple[Case, ...] = ()


class Names:
    """System calls' numbers on one architecture."""

    def __init__(self, architecture: str | None = None) -> None:
        """
        :param architecture: such as "aarch64"; None: this machine's.
        :raises OSError: libseccomp is not installed, or does not know the
            architecture.
        """
        library = ctypes.CDLL("libseccomp.so.2")
        self._find = library.seccomp_syscall_resolve_name_arch
        self._find.argtypes = [ctypes.c_uint32, ctypes.c_char_p]
        library.seccomp_arch_native.restype = ctypes.c_uint32
        library.seccomp_arch_resolve_name.restype = ctypes.c_uint32
        library.seccomp_arch_resolve_name.argtypes = [ctypes.c_char_p]
        if architecture is None:
            self.token = int(library.seccomp_arch_native())
        else:
            self.token = int(library.seccomp_arch_resolve_name(architecture.encode()))
        if not self.token:
            raise OSError(errno.EINVAL, f"no such architecture: {architecture}")

    def __call__(self, name: str) -> int | None:
        """The number of a call; None: the architecture has no such call."""
        found = int(self._find(self.token, name.encode()))
        return found if found >= 0 else _YOUNG.get(name)


def program(
    rules: Iterable[Rule], default: int, token: int, names: Callable[[str], int | None]
) -> list[Instruction]:
    """Make the BPF program of rules. Pure.

    :param rules: each about other calls.
    :param default: the action for calls that no rule is about.
    :param token: AUDIT_ARCH_* of the architecture; calls of any other are fatal.
    :param names: the number of each call; None: there is no such call.
    :raises ValueError: two rules are about one call, or the program is too long.
    """
    code: list[Instruction] = [
        (_LOAD, 0, 0, _ARCHITECTURE),
        (_EQUAL, 1, 0, token),
        (_RETURN, 0, 0, KILL_PROCESS),
        (_LOAD, 0, 0, _NUMBER),
    ]
    if token == _ARCH_X86_64:
        code += [(_AT_LEAST, 0, 1, _X32), (_RETURN, 0, 0, KILL_PROCESS)]
    code += [(_GREATER, 0, 1, NEWEST), (_RETURN, 0, 0, error(errno.ENOSYS))]
    bodies: dict[int, list[Instruction]] = {}
    for rule in rules:
        body = _body(rule)
        for name in rule.names:
            number = names(name)
            if number is None:
                continue
            if number in bodies:
                raise ValueError(f"two rules for {name}")
            bodies[number] = body
    code += _search(sorted(bodies.items()), default)
    if len(code) > _LIMIT:
        raise ValueError("too long a filter")
    return code


def _search(
    calls: list[tuple[int, list[Instruction]]], default: int
) -> list[Instruction]:
    """Instructions that search for the number that is loaded, by halves. Each way
    through them ends the program."""
    if len(calls) <= _FEW:
        code: list[Instruction] = []
        for number, body in calls:
            code += [(_EQUAL, 0, len(body), number), *body]
        return [*code, (_RETURN, 0, 0, default)]
    half = len(calls) // 2
    low, high = _search(calls[:half], default), _search(calls[half:], default)
    # A conditional jump reaches 255 instructions: hence the second jump.
    first = calls[half][0]
    return [(_AT_LEAST, 0, 1, first), (_JUMP, 0, 0, len(low)), *low, *high]


def _body(rule: Rule) -> list[Instruction]:
    """Instructions that decide one call. Each way through them ends the program. So
    the number is still loaded where the search goes on."""
    body: list[Instruction] = []
    for case in rule.cases:
        rest = 3 * len(case.conditions) + 1
        for argument, mask, value in case.conditions:
            rest -= 3
            offset = _ARGUMENTS + 8 * argument
            if sys.byteorder == "big":
                offset += 4
            body += [
                (_LOAD, 0, 0, offset),
                (_AND, 0, 0, mask),
                (_EQUAL, 0, rest, value),
            ]
        body.append((_RETURN, 0, 0, case.action))
    body.append((_RETURN, 0, 0, rule.otherwise))
    if len(body) > 255:  # a jump's reach
        raise ValueError(f"too many cases for {rule.names[0]}")
    return body


def load(rules: Iterable[Rule], default: int) -> None:
    """Filter the calls of every thread of this process and of what it starts, for ever.
    The kernel logs (audit) a call that is fatal.

    :param rules: each about other calls.
    :param default: the action for calls that no rule is about.
    :raises OSError: the kernel refuses the filter, or libseccomp is not installed.
    """
    names = Names()
    instructions = program(rules, default, names.token, names)
    text = b"".join(struct.pack("=HBBI", *each) for each in instructions)
    buffer = ctypes.create_string_buffer(text, len(text))
    descriptor = struct.pack("@HP", len(instructions), ctypes.addressof(buffer))
    number = names("seccomp")
    assert number is not None  # noqa: S101 - for the type checker
    result = libc.syscall(
        ctypes.c_long(number),
        ctypes.c_long(_SET_MODE_FILTER),
        ctypes.c_long(_FLAG_TSYNC),
        descriptor,
    )
    if result < 0:
        raise oserror("seccomp")
    if result > 0:  # the id of a thread that has filters of its own
        raise OSError(errno.EBUSY, os.strerror(errno.EBUSY), "seccomp")
