# SPDX-License-Identifier: LGPL-2.1-or-later
"""docs/networks.md: each configuration in it is taken by a broker, which then
has these networks, and each command in it is run."""

from __future__ import annotations

import json
import re
import tomllib
from pathlib import Path

import pytest

from lab import USER, Lab
from support.host import (
    as_user,
    attach,
    leftovers,
    ruleset,
    until_nothing_is_left,
)
from tapster.client import manage
from tapster.policy.config.load import parse

PAGE = Path(__file__).resolve().parents[2] / "docs" / "networks.md"
SOCKET = "io.tapster.Broker"


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```$", PAGE.read_text(), re.M | re.S)


def commands() -> list[str]:
    lines = [line for text in blocks("console") for line in text.splitlines()]
    words = [line.removeprefix("$ ") for line in lines if line.startswith("$ ")]
    return [w for w in words if " -- " not in w]  # VMMs are tests/guest's


@pytest.mark.parametrize("text", blocks("toml"), ids=lambda t: t.split("\n")[0][:40])
def test_each_configuration_works(lab: Lab, text: str) -> None:
    wanted = tomllib.loads(text)
    lab.config("[broker]\nnetwork_grace_seconds = 0.1\n" + text)
    lab.host.run("ip", "link", "add", "br0", "type", "bridge")
    daemon = lab.daemon("--config", "/run/config")
    try:
        with as_user(lab, 0):
            have = {n["name"]: n for n in manage.list_networks(socket=SOCKET)}
        for name, table in wanted["networks"].items():
            definition = parse([("f", text)]).networks[name]
            groups = [g for r in parse([("f", text)]).rules for g in r.groups or ()]
            with attach(lab, USER, groups, network=name) as nic:
                assert nic.network == name
                with as_user(lab, USER, groups):
                    (shown,) = [
                        n
                        for n in manage.list_networks(socket=SOCKET)
                        if n["name"] == name
                    ]
            assert shown["mode"] == table.get("mode", "nat")
            assert shown["state"] == "up"
            assert shown["bridge"] == nic.bridge
            assert shown["egress_rate"] == definition.rate.egress
            assert shown["host_access"] == table.get("host_access", [])
            if "subnet" in table:
                assert shown["subnet4"] == table["subnet"]
            assert name in have or groups  # root is a user like any other
    finally:
        lab.host.run("ip", "link", "del", "br0")
        until_nothing_is_left(lab, networks=True)
        assert daemon.stop() == 0
    assert leftovers(lab) == [] and ruleset(lab.host) == []
    assert "ERROR" not in daemon.log and "Traceback" not in daemon.log, daemon.log


def test_each_command_works(lab: Lab) -> None:
    lab.config("")
    daemon = lab.daemon("--config", "/run/config")
    asked = commands()
    assert len(asked) >= 8
    with attach(lab, USER, name="web"):
        for command in asked:
            words = command.split()
            user = USER
            if words[0] == "sudo":
                words, user = words[1:], 0
            assert words[0] == "tapster", command
            done = lab.host.run(
                *lab.tapster(*words[1:]), user=None if user == 0 else user
            )
            assert (
                done.stderr == ""
                or "note" in done.stderr
                or "changed" in (done.stdout + done.stderr)
            ), (command, done.stderr)
            if "--json" in words:
                assert json.loads(done.stdout)
    assert daemon.stop() == 0
    assert "Traceback" not in daemon.log, daemon.log


def test_every_property_is_in_the_table() -> None:
    """And no other: the table has what the configuration takes."""
    table = PAGE.read_text().partition("## Every property")[2].partition("\n## ")[0]
    rows = re.findall(r"^\| `(\w+)` \|", table, re.M)
    from tapster.model import NetworkDefinition

    fields = set(NetworkDefinition.__dataclass_fields__) - {"name", "ipv6"}
    assert set(rows) == fields and len(rows) == len(fields)
