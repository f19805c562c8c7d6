# SPDX-License-Identifier: LGPL-2.1-or-later
"""`tapster.networks.ruleset`: the text. Whether nftables takes it, and what it
then does to frames, is for tests/kernel."""

from __future__ import annotations

import re
from ipaddress import IPv4Network, IPv6Network

import pytest

from tapster.networks import ruleset

MAC, IP = "02:00:00:00:00:01", "10.70.1.5"
FOUR, SIX = IPv4Network("10.70.1.0/24"), IPv6Network("fd00:1::/64")
LINE = re.compile(r"(add|delete) element (bridge|inet) tapster (\w+) \{ [^{}]+ \}")


def elements(text: str) -> list[tuple[str, str, str]]:
    """(verb, set, value) of each line."""
    found = []
    for line in text.splitlines():
        assert LINE.fullmatch(line), line
        verb, _, _, _, name, value = line.split(" ", 5)
        found.append((verb, name, value.strip("{} ")))
    return found


def test_only_tables_of_ours() -> None:
    tables = set(re.findall(r"table (\w+ \w+)", ruleset.tables()))
    assert tables == {ruleset.BRIDGE_TABLE, ruleset.INET_TABLE}
    assert re.findall(r"(?:flush|destroy)", ruleset.tables()) == []


def test_making_tables_removes_them_first() -> None:
    assert ruleset.tables().startswith(ruleset.no_tables())
    for table in (ruleset.BRIDGE_TABLE, ruleset.INET_TABLE):
        gone = f"add table {table}\ndelete table {table}\n"
        assert gone in ruleset.no_tables()


@pytest.mark.parametrize("mac", [MAC, None])
@pytest.mark.parametrize("ipv4", [IP, None])
@pytest.mark.parametrize("refused", [True, False])
def test_a_port(mac: str | None, ipv4: str | None, refused: bool) -> None:
    text = ruleset.add_port("tapster1", mac, ipv4, refused=refused)
    found = {name: value for _, name, value in elements(text)}
    assert ("waiting" in found) == (mac is None and not refused)
    assert ("guests" in found) == (mac is not None and ipv4 is not None)
    assert all(value.split(" ")[0] == "tapster1" for value in found.values())


def test_the_mac_check_stands_before_what_accepts() -> None:
    nat = ruleset._BRIDGE.partition("chain nat {")[2].partition("}\n")[0]
    lines = [line.strip() for line in nat.splitlines()]
    ip = next(n for n, line in enumerate(lines) if "@guests accept" in line)
    assert all("accept" not in line for line in lines[:ip])
    assert lines[-2] == "drop" or "drop" in nat.rsplit("accept", 1)[1]


def test_the_first_mac_replaces_the_waiting() -> None:
    assert elements(ruleset.first_mac("tapster1", MAC, IP)) == [
        ("delete", "waiting", "tapster1"),
        ("add", "guests", f"tapster1 . {MAC} . {IP}"),
    ]
    assert len(elements(ruleset.first_mac("tapster1", MAC, None))) == 1


@pytest.mark.parametrize("six", [SIX, None])
def test_a_network_is_taken_away_as_it_was_added(six: IPv6Network | None) -> None:
    added = elements(ruleset.add_network("tapbr1", FOUR, six))
    deleted = elements(ruleset.delete_network("tapbr1", FOUR, six))
    assert [e[1:] for e in added] == [e[1:] for e in deleted]
    assert {verb for verb, _, _ in added} == {"add"}
    assert {verb for verb, _, _ in deleted} == {"delete"}
    assert ("add", "gateways4", "tapbr1 . 10.70.1.1") in added
    assert (("add", "nat6", "fd00:1::/64") in added) == (six is not None)


def test_source_ports_of_guests_are_high() -> None:
    for line in ruleset.tables().splitlines():
        if "masquerade" in line and "l4proto" in line:
            assert line.endswith("masquerade to :1024-65535")
