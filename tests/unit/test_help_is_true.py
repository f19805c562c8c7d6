# SPDX-License-Identifier: LGPL-2.1-or-later
"""Every example in a --help is a command line that its command understands."""

from __future__ import annotations

import importlib
import shlex

import pytest

from tapster.cli import main as cli
from tapster.vmm import qemu


def examples() -> list[str]:
    found = []
    for name in ("main", *cli.COMMANDS):
        parser = importlib.import_module(f"tapster.cli.{name}").make_parser()
        title, *lines = parser.epilog.splitlines()
        assert title == "examples:"
        assert lines
        found += [line.strip() for line in lines]
    return found


@pytest.mark.parametrize("line", examples())
def test_example_of_a_help_is_understood(line: str) -> None:
    program, command, *arguments = shlex.split(line)
    assert program == "tapster"
    module = importlib.import_module(f"tapster.cli.{command}")
    if arguments == ["--help"]:
        with pytest.raises(SystemExit) as caught:
            module.parse(arguments)
        assert caught.value.code == 0
        return
    options = module.parse(arguments)
    if command == "run" and qemu.is_qemu(options.vmm[0]):
        assert module.make_plan(options, qemu.parse(options.vmm).requests, None)


def test_every_command_has_examples() -> None:
    commands = {shlex.split(line)[1] for line in examples()}
    assert commands == set(cli.COMMANDS)
