# SPDX-License-Identifier: LGPL-2.1-or-later
"""`tapster.daemon.api.doctor.firewalls`: what is told of other people's rules, and
with which remedy."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from support.nft_listing import ACCEPT, meta, table
from tapster.daemon.api.doctor.finding import Finding
from tapster.daemon.api.doctor.findings import diagnose
from tapster.daemon.api.doctor.host_facts import HostFacts

V4 = HostFacts({"ipv6/conf/all/disable_ipv6": "1"}, ("eth0",))


def codes(listing: Any, *bridges: str, host: HostFacts = V4) -> list[str]:
    return [f"{f.code} {f.severity}" for f in diagnose(listing, bridges, host)
            if f.code != "no-ipv6"]  # fmt: skip


def first(listing: Any, *bridges: str) -> Finding:
    return diagnose(listing, bridges, V4)[0]


def test_without_bridges_one_is_imagined() -> None:
    (found, _) = diagnose(table({"FORWARD": []}), [], V4)
    assert found == Finding(
        "forward-drop",
        "error",
        "nftables: ip filter FORWARD drops what guests send outside,"
        " the answers to guests",
        "iptables -I FORWARD -i tapbr+ -j ACCEPT"
        " && iptables -I FORWARD -o tapbr+ -j ACCEPT",
    )


def test_a_chain_is_told_once_however_many_bridges_there_are() -> None:
    many = [f"tapbr{n}" for n in range(5)]
    assert codes(table({"FORWARD": []}), *many) == ["forward-drop error"]


def test_a_chain_that_only_may_drop_is_a_warning() -> None:
    rules = table({"FORWARD": [[meta("mark", 1), ACCEPT]]})
    assert codes(rules) == ["forward-drop warning"]
    assert "may drop" in first(rules).message


@pytest.mark.parametrize(
    ("listing", "remedy"),
    [
        (table({"INPUT": []}), "iptables -I INPUT -i tapbr+ -j ACCEPT"),
        (table({"INPUT": []}, name="mangle"),
         "iptables -t mangle -I INPUT -i tapbr+ -j ACCEPT"),
        (table({"INPUT": [], "ufw-user-input": []}), "ufw allow in on tapbr+"),
        (table({"FORWARD": [], "ufw-user-forward": []}),
         "ufw route allow in on tapbr+ && ufw route allow out on tapbr+"),
        (table({"FORWARD": [], "DOCKER-USER": [], "ufw-user-forward": []}),
         ("iptables -I DOCKER-USER -i tapbr+ -j ACCEPT"
          " && iptables -I DOCKER-USER -o tapbr+ -j ACCEPT")),
        (table({"INPUT": []}, family="inet", name="firewalld"),
         ("firewall-cmd --zone=trusted --add-interface=tapbr+"
          " && firewall-cmd --permanent --zone=trusted --add-interface=tapbr+")),
        (table({"INPUT": []}, family="inet"),
         "nft insert rule inet filter INPUT 'iifname \"tapbr*\" accept'"),
    ],
)  # fmt: skip
def test_the_remedy_is_in_the_words_of_the_program_that_made_the_chain(
    listing: Any, remedy: str
) -> None:
    assert first(listing).remedy == remedy


def test_both_families_are_tried_where_there_is_ipv6() -> None:
    both = HostFacts({"ipv6/conf/all/disable_ipv6": "0"}, ("eth0",))
    rules = table({"FORWARD": []}, family="ip6")
    assert codes(rules) == []
    (found,) = diagnose(rules, [], both)
    assert str(found.remedy).startswith("ip6tables -I FORWARD")


def test_without_an_uplink_rules_for_one_may_let_packets_through() -> None:
    to = [meta("iifname", "tapbr*"), meta("oifname", "eth0"), ACCEPT]
    back = [meta("oifname", "tapbr*"), ACCEPT]
    rules = table({"FORWARD": [to, back]})
    assert codes(rules) == []
    assert codes(rules, host=replace(V4, uplinks=())) == ["forward-drop warning"]


def test_bridged_frames_count_only_if_they_are_filtered() -> None:
    out = [meta("oifname", "eth0"), ACCEPT]
    back = [meta("iifname", "eth0"), ACCEPT]
    rules = table({"FORWARD": [out, back]})
    assert codes(rules, "tapbr1", "br0") == []
    on = replace(V4, sysctls={**V4.sysctls, "bridge/bridge-nf-call-iptables": "1"})
    assert codes(rules, "tapbr1", host=on) == ["bridge-nf-call error"]
    (found, _) = diagnose(rules, ["br0"], on)
    assert str(found.remedy).startswith("iptables -I FORWARD -i br0 -j ACCEPT")
