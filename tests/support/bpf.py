# SPDX-License-Identifier: LGPL-2.1-or-later
"""An interpreter of classic BPF, as far as our system call filters use it."""

from __future__ import annotations

from tapster.kernel import seccomp

ARCHITECTURES = {"x86_64": 0xC000003E, "aarch64": 0xC00000B7}


def run(code: list[seccomp.Instruction], token: int, number: int, *args: int) -> int:
    """What the kernel does with a filter, for the instructions that ours has."""
    words = [number & 0xFFFFFFFF, token, 0, 0]  # the instruction pointer: nobody's
    for value in (*args, *([0] * (6 - len(args)))):
        words += [value & 0xFFFFFFFF, value >> 32 & 0xFFFFFFFF]
    loaded, at = 0, 0
    while True:
        operation, yes, no, operand = code[at]
        at += 1
        match operation:
            case 0x20:
                loaded = words[operand // 4]
            case 0x54:
                loaded &= operand
            case 0x05:
                at += operand
            case 0x15:
                at += yes if loaded == operand else no
            case 0x25:
                at += yes if loaded > operand else no
            case 0x35:
                at += yes if loaded >= operand else no
            case 0x06:
                return operand
            case _:
                raise AssertionError(f"no such instruction: {operation:#x}")
