# SPDX-License-Identifier: LGPL-2.1-or-later
"""nftables: our tables are what nft(8) shows, all of a transaction or nothing."""

from __future__ import annotations

import json
import subprocess
from ipaddress import IPv4Network, IPv6Network
from typing import Any

import pytest

from tapster.kernel.nft import Nft, NftError
from tapster.networks import elements, ruleset

pytestmark = pytest.mark.own_network

SUBNET4, SUBNET6 = IPv4Network("10.64.1.0/24"), IPv6Network("fd00:1::/64")
NETWORK = elements.Network(
    "tapbr0",
    SUBNET4,
    SUBNET6,
    routed=True,
    internet_only=False,
    isolating=False,
    host_access=(),
)
GUEST = elements.of_port(
    elements.Guest("tapstern0", 0, "n", "02:00:00:00:00:01", "10.64.1.7")
)


def make_port() -> None:
    """Text has the name of a port, and nft looks it up."""
    subprocess.run(["ip", "link", "add", "tapstern0", "type", "bridge"], check=True)


def shown() -> list[dict[str, Any]]:
    output = subprocess.run(
        ["nft", "-j", "list", "ruleset"], capture_output=True, check=True
    ).stdout
    return [e for e in json.loads(output)["nftables"] if "metainfo" not in e]


def in_sets() -> dict[str, Any]:
    found = {}
    for entry in shown():
        inner = entry.get("set") or entry.get("map")
        if inner and "elem" in inner and not inner["name"].startswith("__"):
            found[inner["name"]] = inner["elem"]
    return found


def test_tables_are_made_and_go_without_a_trace() -> None:
    nft = Nft()
    nft.run("make tables", ruleset.tables())
    tables = {
        (e["table"]["family"], e["table"]["name"]) for e in shown() if "table" in e
    }
    assert tables == {("bridge", "tapster"), ("inet", "tapster")}
    nft.run("delete tables", ruleset.no_tables())
    assert shown() == []
    nft.run("delete tables that are not there", ruleset.no_tables())
    assert shown() == []


def test_tables_are_made_anew_without_elements_and_others_stay() -> None:
    make_port()
    other = "table inet other {\n set s { type ipv4_addr; elements = { 192.0.2.9 } }\n}"
    nft = Nft()
    nft.run("somebody else's", other)
    before = shown()
    nft.run("make tables", ruleset.tables())
    nft.run("add", elements.added(GUEST))
    assert set(in_sets()) == {"s", *(entry.set for entry in GUEST)}
    nft.run("make tables", ruleset.tables())
    assert set(in_sets()) == {"s"}
    nft.run("delete tables", ruleset.no_tables())
    assert [e for e in shown() if "table" not in e] == [
        e for e in before if "table" not in e
    ]


def test_port_and_network_come_and_go() -> None:
    make_port()
    nft = Nft()
    nft.run("make tables", ruleset.tables())
    nft.run("add network", elements.add_network(NETWORK))
    nft.run("add port", elements.added(GUEST))
    found = in_sets()
    assert found["guests"] == [{"concat": ["tapstern0", "10.64.1.7"]}]
    assert found["bridges"] == ["tapbr0"]
    assert found["nat4"] == [{"prefix": {"addr": "10.64.1.0", "len": 24}}]
    nft.run(
        "delete port",
        "".join(
            f"delete element bridge tapster {e.set} {{ {e.text()} }}\n" for e in GUEST
        ),
    )
    nft.run("delete network", elements.delete_network(NETWORK))
    assert in_sets() == {}


def test_masquerade_never_takes_a_privileged_port() -> None:
    """Each rule that masquerades TCP or UDP says from which port on."""
    Nft().run("make tables", ruleset.tables())
    rules = [e["rule"] for e in shown() if "rule" in e]
    rules = [r for r in rules if any("masquerade" in x for x in r["expr"])]
    # What the host's own programs send to a forwarded port at 127.0.0.1 is theirs.
    rules = [r for r in rules if '"@nat' in json.dumps(r)]
    assert len(rules) == 4
    for family in ("ip", "ip6"):
        texts = [json.dumps(r["expr"]) for r in rules]
        own = [t for t in texts if f'"protocol": "{family}"' in t]
        assert len(own) == 2
        assert '{"masquerade": {"port": {"range": [1024, 65535]}}}' in own[0]
        # In numbers where there is no /etc/protocols.
        assert '["tcp", "udp"]' in own[0] or "[6, 17]" in own[0]


def test_refused_statement_undoes_its_whole_transaction() -> None:
    make_port()
    nft = Nft()
    nft.run("make tables", ruleset.tables())
    text = elements.added(GUEST) + "delete element bridge tapster checked4 { x }\n"
    with pytest.raises(NftError) as raised:
        nft.run("add port tapstern0", text)
    assert raised.value.operation == "add port tapstern0"
    assert str(raised.value).startswith("add port tapstern0: ")
    assert "\n" not in str(raised.value)
    assert in_sets() == {}


def test_listing_of_what_is_not_there_is_an_error() -> None:
    make_port()
    nft = Nft()
    with pytest.raises(NftError, match="look"):
        nft.listing("look", "list map bridge tapster first")
    nft.run("make tables", ruleset.tables())
    (entry,) = nft.listing("look", "list map bridge tapster first")
    assert entry["map"]["name"] == "first" and "elem" not in entry["map"]
    nft.run("still text", elements.added(GUEST))


def test_context_stays_in_the_namespace_it_was_made_in() -> None:
    from tapster.kernel import namespaces

    nft = Nft()
    with open("/proc/thread-self/ns/net") as home:
        namespaces.unshare(namespaces.CLONE_NEWNET)
        nft.run("make tables", ruleset.tables())
        elsewhere = shown()
        namespaces.setns(home.fileno(), namespaces.CLONE_NEWNET)
    assert elsewhere == []
    assert shown() != []
