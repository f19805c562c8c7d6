# SPDX-License-Identifier: LGPL-2.1-or-later
"""`tapster network`: a table, a block with every property, and a reload."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fakes.broker import NETWORK, FakeBroker, encode, error, say
from support.command import tapster
from tapster.cli import network
from tapster.cli.network import rate

pytestmark = pytest.mark.usefixtures("no_leaked_fd")

LAN = {
    **NETWORK,
    "name": "lan",
    "mode": "bridge",
    "scope": "shared",
    "uid": None,
    "user": None,
    "bridge": "br0",
    "subnet4": None,
    "subnet6": None,
    "dhcp": False,
    "address_check": "lease",
    "max_nics": None,
    "nics": 0,
    "egress": None,
}
BUSY = {
    **NETWORK,
    "state": "pending",
    "uid": 1001,
    "user": "b\x1b[31mob",
    "egress_rate": 100_000_000,
    "ingress_rate": 1_500_000_000,
    "host_access": ["tcp/53", "udp/53"],
    "forwards": ["tcp/8080 web:80"],
    "notes": ["changed: subnet", "takes effect\nlater"],
}


def listing(*networks: dict[str, Any]) -> bytes:
    return encode({"networks": list(networks)})


def block(text: str) -> dict[str, str]:
    """What `show` says of each property; a list's words are joined by "|"."""
    told: dict[str, str] = {}
    key = ""
    for line in text.splitlines():
        word, value = line[:15].strip(), line[15:]
        key = word or key
        told[key] = f"{told[key]}|{value}" if not word else value
    return told


# ls ---------------------------------------------------------------------------


def test_network_ls_json_has_exactly_the_fields_of_the_wire(path: str) -> None:
    future = {**LAN, "colour": "red"}
    with FakeBroker(path, say(listing(BUSY, future))) as broker:
        done = tapster("network", "ls", "--json", broker=path)
    assert (done.returncode, done.stderr) == (0, "")
    assert json.loads(done.stdout) == [BUSY, future]
    assert done.stdout.isascii()
    assert broker.requests[0]["method"] == "io.tapster.Broker.ListNetworks"


def test_network_ls_has_a_line_for_each_network(path: str) -> None:
    with FakeBroker(path, say(listing(NETWORK, LAN))):
        done = tapster("network", "ls", broker=path)
    assert (done.returncode, done.stderr) == (0, "")
    head, first, second = done.stdout.splitlines()
    assert head.split() == list(network.HEAD)
    assert first.split() == [
        "default", "nat", "user", "alice", "up", "tapbr1", "10.1.2.0/24",
        "fd00:1::/64", "2/16",
    ]  # fmt: skip
    assert second.split() == [
        "lan",
        "bridge",
        "shared",
        "-",
        "up",
        "br0",
        "-",
        "-",
        "0",
    ]


def test_network_ls_has_a_column_of_notes_if_there_are_any(path: str) -> None:
    with FakeBroker(path, say(listing(NETWORK, BUSY))):
        done = tapster("network", "ls", broker=path)
    head, first, second = done.stdout.splitlines()
    assert head.endswith("NICS  NOTES")
    assert first.endswith("2/16")
    assert second.endswith("changed: subnet; takes effect?later")
    assert "b?[31mob" in second


def test_network_ls_without_a_network_says_so(path: str) -> None:
    with FakeBroker(path, say(listing())):
        done = tapster("network", "ls", broker=path)
        assert (done.returncode, done.stdout) == (0, "")
        assert done.stderr == "tapster: there is no network that you may use\n"
        done = tapster("network", "ls", "--json", broker=path)
        assert (done.returncode, done.stdout, done.stderr) == (0, "[]\n", "")


# show -------------------------------------------------------------------------


def test_network_show_prints_every_property(path: str) -> None:
    with FakeBroker(path, say(listing(LAN, BUSY))):
        done = tapster("network", "show", "default", broker=path)
    assert (done.returncode, done.stderr) == (0, "")
    assert block(done.stdout) == {
        "name": "default",
        "mode": "nat",
        "scope": "user",
        "uid": "1001",
        "user": "b?[31mob",
        "state": "pending",
        "bridge": "tapbr1",
        "subnet4": "10.1.2.0/24",
        "subnet6": "fd00:1::/64",
        "gateway4": "10.1.2.1",
        "gateway6": "fd00:1::1",
        "domain": "default.internal",
        "mtu": "1500",
        "isolation": "no",
        "egress": "any",
        "host_access": "tcp/53|udp/53",
        "egress_rate": "100 Mbit/s",
        "ingress_rate": "1.5 Gbit/s",
        "dns": "-",
        "dhcp": "yes",
        "address_check": "-",
        "forwards": "tcp/8080 web:80",
        "max_nics": "16",
        "nics": "2",
        "notes": "changed: subnet|takes effect?later",
    }


def test_network_show_says_what_has_no_limit(path: str) -> None:
    with FakeBroker(path, say(listing(LAN))):
        told = block(tapster("network", "show", "lan", broker=path).stdout)
    limits = ("max_nics", "egress_rate", "ingress_rate")
    assert {told[key] for key in limits} == {"no limit"}
    assert told["subnet4"] == told["user"] == "-"


def test_network_show_prints_each_instance(path: str) -> None:
    with FakeBroker(path, say(listing(NETWORK, LAN, BUSY))):
        done = tapster("network", "show", "default", broker=path)
        first, second = done.stdout.split("\n\n")
        assert block(first)["user"] == "alice"
        assert block(second)["user"] == "b?[31mob"
        done = tapster("network", "show", "default", "--json", broker=path)
        assert json.loads(done.stdout) == [NETWORK, BUSY]
        done = tapster("network", "show", "lan", "--json", broker=path)
        assert json.loads(done.stdout) == LAN


@pytest.mark.parametrize("more", [[], ["--json"]])
def test_network_show_of_an_unknown_network_is_an_error(
    path: str, more: list[str]
) -> None:
    with FakeBroker(path, say(listing(NETWORK))):
        done = tapster("network", "show", "a\nb", *more, broker=path)
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr == (
        "tapster: you may not use the network 'a\\nb', or it does not exist"
        " (`tapster network ls` lists those that you may use)\n"
    )


@given(
    st.dictionaries(
        st.sampled_from([*NETWORK, "x\n"]),
        st.none() | st.booleans() | st.integers() | st.text() | st.lists(st.text()),
        min_size=1,
    )
)
def test_any_network_is_shown_as_printable_lines(told: dict[str, Any]) -> None:
    lines = network.describe(told).splitlines()
    assert all(line.isprintable() for line in lines)
    count = [max(len(v), 1) if isinstance(v, list) else 1 for v in told.values()]
    assert len(lines) == sum(count)


@pytest.mark.parametrize(
    ("bits", "text"),
    [
        (0, "no limit"),
        (999, "999 bit/s"),
        (1000, "1 kbit/s"),
        (512_000, "512 kbit/s"),
        (2_500_000, "2.5 Mbit/s"),
        (40_000_000_000, "40 Gbit/s"),
    ],
)
def test_rates_are_written_with_the_largest_unit(bits: int, text: str) -> None:
    assert rate(bits) == text


# reload -----------------------------------------------------------------------


def test_network_reload_prints_what_changed(path: str) -> None:
    changes = ["network lan: new", "network\x1b default: subnet"]
    with FakeBroker(path, say(encode({"changes": changes}))) as broker:
        done = tapster("network", "reload", broker=path)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == "network lan: new\nnetwork? default: subnet\n"
    assert broker.requests[0]["method"] == "io.tapster.Broker.Reload"


def test_network_reload_without_a_change_says_so(path: str) -> None:
    with FakeBroker(path, say(encode({"changes": []}))):
        done = tapster("network", "reload", broker=path)
    assert (done.returncode, done.stdout) == (0, "")
    assert done.stderr == "tapster: nothing has changed\n"


def test_network_reload_of_a_wrong_configuration_is_an_error(path: str) -> None:
    name = "io.tapster.Broker.ConfigInvalid"
    wrong = error(name, message="a.toml:3:1: unknown key 'mdoe'", hint="mode?")
    with FakeBroker(path, say(wrong)):
        done = tapster("network", "reload", broker=path)
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr == "tapster: a.toml:3:1: unknown key 'mdoe' (mode?)\n"
