# SPDX-License-Identifier: LGPL-2.1-or-later
"""What the documents tell a reader to type is what the programs understand.

In a ```console block, a line that starts with `$ ` is a command.
"""

from __future__ import annotations

import ast
import dataclasses
import importlib
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import tapster
from support.command import tapster as run_tapster
from tapster import bridge_helper
from tapster.cli import main as cli
from tapster.daemon.process import options
from tapster.policy.config.load import SECTIONS, Config, parse
from tapster.vmm import qemu

ROOT = Path(__file__).resolve().parents[2]
DOCUMENTS = [ROOT / "README.md", ROOT / "HACKING.md", *sorted(ROOT.glob("docs/*.md"))]
MAN = sorted(ROOT.glob("docs/man/*"))
MAN_COMMAND = re.compile(r"^\.Dl (?:\$ )?(.+)$", re.M)


def blocks(language: str) -> list[tuple[str, str]]:
    """(place, text) of each block of that language."""
    found = []
    for path in DOCUMENTS:
        text = path.read_text()
        for match in re.finditer(rf"^```{language}\n(.*?)^```$", text, re.M | re.S):
            line = text.count("\n", 0, match.start(1)) + 1
            found.append((f"{path.relative_to(ROOT)}:{line}", match[1]))
    return found


def commands() -> list[str]:
    found = {
        line.removeprefix("$ ")
        for _, text in blocks("console")
        for line in text.splitlines()
        if line.startswith("$ ")
    }
    for path in MAN:
        text = path.read_text()
        lines = MAN_COMMAND.findall(text)
        found |= {m for m in lines if m.removeprefix("sudo ").startswith("tapster")}
    return sorted(found)


def understand_tapster(arguments: list[str]) -> None:
    name, *rest = arguments
    assert name in cli.COMMANDS
    module = importlib.import_module(f"tapster.cli.{name}")
    parsed = module.parse(rest)
    if name == "run" and qemu.is_qemu(parsed.vmm[0]):
        requests = qemu.parse(parsed.vmm).requests
        assert module.make_plan(parsed, requests, None)


def understand_qemu(words: list[str]) -> None:
    """An unmodified QEMU: its helper gets what QEMU would pass to it."""
    helpers = [h for word in words for h in re.findall(r"helper=([^,]+)", word)]
    assert helpers
    for helper in helpers:
        program, *given = helper.split()
        assert program.endswith("/tapster-bridge-helper")
        given = given or ["--br=br0"]
        arguments = [*given, "--use-vnet", "--fd=8"]
        parsed = bridge_helper.parse_arguments([a.encode() for a in arguments])
        assert parsed == (True, b"br0", 8)


@pytest.mark.parametrize("line", commands())
def test_command_of_a_document_is_understood(line: str) -> None:
    program, *arguments = shlex.split(line.removeprefix("sudo "))
    if program == "tapster":
        understand_tapster(arguments)
    elif program == "tapsterd":
        options.parse(arguments)
    elif program == "make":
        text = (ROOT / "Makefile").read_text()
        assert re.search(rf"^{re.escape(arguments[0])}:.* ## ", text, re.M)
        assert all(word.startswith("ARGS=") for word in arguments[1:])
    else:
        assert program == "qemu-system-x86_64"
        understand_qemu([program, *arguments])


def test_documents_have_commands_of_every_program() -> None:
    programs = {shlex.split(line.removeprefix("sudo "))[0] for line in commands()}
    assert programs == {"make", "tapster", "tapsterd", "qemu-system-x86_64"}


@pytest.mark.parametrize("arguments", [["--version"], ["--help"], ["run", "--help"]])
def test_help_and_version_run_without_a_broker(arguments: list[str]) -> None:
    done = run_tapster(*arguments, broker=None)
    assert done.returncode == 0
    assert done.stdout
    assert not done.stderr


def test_ls_without_a_broker_is_as_the_readme_starts(runtime: str) -> None:
    done = run_tapster("ls", broker=None, env={"XDG_RUNTIME_DIR": runtime})
    assert (done.returncode, done.stdout) == (0, "")
    assert "no broker is running" in done.stderr


def test_daemon_has_the_packages_version() -> None:
    command = [sys.executable, "-m", "tapster.daemon.main", "--version"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert done.stdout == f"tapsterd {tapster.__version__}\n"


@pytest.mark.parametrize(("place", "text"), blocks("python"))
def test_python_of_a_document_uses_public_names(place: str, text: str) -> None:
    tree = ast.parse(text, place)
    used = {
        node.attr
        for node in ast.walk(tree)
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name)
        if node.value.id in ("tapster", "nic")
    }
    assert used
    known = {*tapster.__all__, *dir(tapster.Nic), *tapster.Nic.__slots__}
    assert used <= known


def test_links_of_documents_lead_somewhere() -> None:
    for path in DOCUMENTS:
        for target in re.findall(r"\]\(([^)#:]+)\)", path.read_text()):
            assert (path.parent / target).exists(), f"{path}: {target}"


def test_news_begin_with_this_version() -> None:
    headings = re.findall(r"^## (\S+)", (ROOT / "NEWS.md").read_text(), re.M)
    assert headings[0] == tapster.__version__


# --- man pages


@pytest.mark.skipif(not shutil.which("mandoc"), reason="mandoc is not installed")
@pytest.mark.parametrize("path", MAN, ids=lambda p: str(p.name))
def test_man_page_has_no_warning_of_mandoc(path: Path) -> None:
    done = subprocess.run(
        ["mandoc", "-T", "lint", "-W", "warning", path], capture_output=True, text=True
    )
    assert (done.returncode, done.stdout) == (0, "")


def told_options(name: str) -> set[str]:
    """The long options that a page has (mdoc writes `Fl -name`)."""
    return set(
        re.findall(r"Fl -([a-z][a-z-]+)", (ROOT / "docs/man" / name).read_text())
    )


def test_every_option_is_in_the_man_page() -> None:
    ours = set()
    for name in ("main", *cli.COMMANDS):
        module = importlib.import_module(f"tapster.cli.{name}")
        # A family of commands has a parser for each.
        for maker in re.findall(r"\bmake_(?:\w+_)?parser\b", " ".join(vars(module))):
            usage = getattr(module, maker)().format_usage()
            ours |= set(re.findall(r"--([a-z][a-z-]+)", usage))
    assert told_options("tapster.1") == ours | {"help"}


def test_every_option_of_the_daemon_is_in_its_page(
    capsys: pytest.CaptureFixture[str],
) -> None:
    with pytest.raises(SystemExit):
        options.parse(["--help"])
    usage = capsys.readouterr().out.partition("\n\n")[0]
    ours = set(re.findall(r"--([a-z][a-z-]+)", usage))
    assert told_options("tapsterd.8") == ours


def test_every_option_of_the_helper_is_in_its_page() -> None:
    ours = set(re.findall(r"--([a-z][a-z-]+)", bridge_helper.HELP))
    assert told_options("tapster-bridge-helper.1") == ours


def test_every_setting_is_in_its_page() -> None:
    text = (ROOT / "docs/man/tapster.toml.5").read_text()
    text = re.sub(r"\bQ[oq] (\S+)(?: Qc)?", r'"\1"', text)
    text = re.sub(r"\bQq$", '""', text, flags=re.M)
    text = re.sub(r"\bBq (.+)", r"[\1]", text).replace('" , "', '", "')
    told: dict[str, str] = {}
    section = ""
    for line in text.splitlines():
        if line.startswith(".Ss ["):
            section = line.removeprefix(".Ss ")
            told[section] = section
        elif match := re.match(r"\.It Cm (\S+) No = (.+)", line):
            told[section] += f"\n{match[1]} = {match[2]}"
    # Networks and rules have their keys looked at in tests of their own.
    del told["[networks.NAME]"], told["[[rules]]"]
    assert parse([("f.toml", "\n".join(told.values()))]) == Config()
    ours = {
        f"[{section}]": {
            key.name for key in dataclasses.fields(getattr(Config(), section))
        }
        for section in SECTIONS
    }
    assert ours == {
        name: set(re.findall(r"^(\w+) = ", part, re.M)) for name, part in told.items()
    }
