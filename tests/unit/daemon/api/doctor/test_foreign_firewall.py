# SPDX-License-Identifier: LGPL-2.1-or-later
"""What other people's rules do with packets of ours, and what doctor makes of
it and of the host's files. Rules are as libnftables lists them."""

from __future__ import annotations

import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tapster.daemon.api.doctor import findings as doctor
from tapster.daemon.api.doctor.findings import Finding, Host, diagnose
from tapster.daemon.api.doctor.foreign_firewall import Firewall, Packet, packet

ROOT = Path(__file__).resolve().parents[5]
V4 = Host({"ipv6/conf/all/disable_ipv6": "1"}, ("eth0",))
ACCEPT, DROP, RETURN = {"accept": None}, {"drop": None}, {"return": None}
COUNTER = {"counter": {"packets": 0, "bytes": 0}}
REJECT = {"reject": {"type": "icmpx", "expr": "admin-prohibited"}}
LIMIT = {"limit": {"rate": 3, "burst": 10, "per": "minute"}}

OUT = packet("out", "forward", "ip", "tcp", iifname="tapbr1", oifname="eth0")
BACK = packet(
    "back", "forward", "ip", "tcp", iifname="eth0", oifname="tapbr1",
    state="established",
)  # fmt: skip
DNS = packet("DNS", "input", "ip", "udp", iifname="tapbr1", dport=53)


def jump(chain: str, how: str = "jump") -> dict[str, Any]:
    return {how: {"target": chain}}


def match(left: Any, right: Any, op: str = "==") -> dict[str, Any]:
    return {"match": {"op": op, "left": left, "right": right}}


def meta(key: str, right: Any, op: str = "==") -> dict[str, Any]:
    return match({"meta": {"key": key}}, right, op)


def payload(protocol: str, name: str, right: Any, op: str = "==") -> dict[str, Any]:
    return match({"payload": {"protocol": protocol, "field": name}}, right, op)


def xt(name: str, kind: str = "match") -> dict[str, Any]:
    return {"xt": {"type": kind, "name": name}}


def table(
    chains: Mapping[str, Sequence[Sequence[Any]]],
    *,
    policy: str = "drop",
    family: str = "ip",
    name: str = "filter",
) -> list[dict[str, Any]]:
    """A listing; the chains FORWARD and INPUT are base chains."""
    where = {"family": family, "table": name}
    listing: list[dict[str, Any]] = [{"table": {"family": family, "name": name}}]
    for chain, rules in chains.items():
        base = {"type": "filter", "hook": chain.lower(), "prio": 0, "policy": policy}
        extra = base if chain in ("FORWARD", "INPUT") else {}
        listing.append({"chain": {**where, "name": chain, **extra}})
        listing += [{"rule": {**where, "chain": chain, "expr": r}} for r in rules]
    return listing


def forward(*rules: Sequence[Any], policy: str = "drop", **chains: Any) -> Firewall:
    return Firewall(table({"FORWARD": rules, **chains}, policy=policy))


def fate(rules: Firewall, what: Packet = OUT) -> str:
    obstacles = rules.obstacles(what)
    if not obstacles:
        return "accepted"
    return "dropped" if all(o.certain for o in obstacles) else "maybe"


class TestChains:
    def test_policy_is_what_is_left(self) -> None:
        assert fate(forward()) == "dropped"
        assert fate(forward(policy="accept")) == "accepted"
        assert fate(forward([COUNTER], [{"log": {}}])) == "dropped"

    def test_the_first_verdict_counts(self) -> None:
        assert fate(forward([ACCEPT], [DROP])) == "accepted"
        assert fate(forward([DROP], [ACCEPT], policy="accept")) == "dropped"
        assert fate(forward([REJECT], policy="accept")) == "dropped"
        assert fate(forward([xt("REJECT", "target")], policy="accept")) == "dropped"

    def test_jump_comes_back_and_goto_does_not(self) -> None:
        assert fate(forward([jump("c")], [ACCEPT], c=[[RETURN], [DROP]])) == "accepted"
        assert fate(forward([jump("c", "goto")], [ACCEPT], c=[[RETURN]])) == "dropped"
        # goto in a chain that was jumped to returns to who jumped
        rules = forward([jump("a")], [ACCEPT], a=[[jump("b", "goto")], [DROP]], b=[])
        assert fate(rules) == "accepted"

    def test_a_drop_anywhere_is_final(self) -> None:
        rules = table({"FORWARD": [[ACCEPT]]}) + table(
            {"FORWARD": [[DROP]]}, family="inet", name="theirs", policy="accept"
        )
        (obstacle,) = Firewall(rules).obstacles(OUT)
        assert (obstacle.family, obstacle.table) == ("inet", "theirs")
        assert obstacle.chain == "FORWARD" and obstacle.certain

    def test_what_does_not_concern_it_is_left_out(self) -> None:
        dormant: list[dict[str, Any]] = table({"FORWARD": []}, name="asleep")
        dormant[0]["table"]["flags"] = ["dormant"]
        for rules in (
            table({"FORWARD": []}, family="inet", name="tapster"),
            table({"FORWARD": []}, family="ip6"),
            table({"FORWARD": []}, family="bridge"),
            table({"INPUT": []}),
            dormant,
        ):
            assert fate(Firewall(rules)) == "accepted"

    def test_unknown_goes_both_ways(self) -> None:
        mark = meta("mark", 5)
        assert fate(forward([mark, ACCEPT])) == "maybe"
        assert fate(forward([mark, ACCEPT], [ACCEPT])) == "accepted"
        assert fate(forward([mark, DROP])) == "dropped"
        assert fate(forward([LIMIT, ACCEPT])) == "maybe"
        assert fate(forward([{"queue": {"num": 0}}])) == "maybe"
        assert fate(forward([mark, jump("c")], [ACCEPT], c=[[DROP]])) == "maybe"
        assert fate(forward([None, ACCEPT])) == "maybe"
        assert fate(forward([{"what is this": 1}, ACCEPT])) == "maybe"

    def test_maybe_is_nothing_where_to_accept_is_the_policy(self) -> None:
        assert fate(forward([meta("mark", 5), DROP], policy="accept")) == "accepted"


class TestMatches:
    @pytest.mark.parametrize(
        ("statement", "hit"),
        [
            (meta("iifname", "tapbr*"), True),
            (meta("iifname", "tapbr1"), True),
            (meta("iifname", "tapbr"), False),
            (meta("iifname", "docker0", "!="), True),
            (meta("iifname", {"set": ["lo", "tapbr*"]}), True),
            (meta("oifname", {"set": ["lo", "eth1"]}), False),
            (meta("oifname", "@uplinks"), None),
            (meta("l4proto", 6), True),
            (meta("l4proto", {"set": ["icmp", "ipv6-icmp"]}), False),
            (meta("nfproto", "ipv6"), False),
            (meta("mark", 1), None),
            (payload("udp", "dport", 53), False),
            (payload("udp", "dport", 53, "!="), False),
            (payload("tcp", "dport", 80), None),
            (payload("ip6", "daddr", "::1"), False),
            (payload("ip", "saddr", "10.0.0.1"), None),
            (match({"ct": {"key": "state"}}, ["established", "related"], "in"), False),
            (match({"ct": {"key": "state"}}, ["new"], "in"), True),
            (match({"ct": {"key": "state"}}, "invalid", "in"), False),
            (match({"ct": {"key": "status"}}, "dnat", "in"), False),
            (meta("iifname", 5, "<"), None),
            (match({"&": [{"meta": {"key": "mark"}}, 1]}, 1), None),
            (xt("comment"), True),
            (xt("multiport"), None),
            (xt("conntrack"), False),
            (xt("rt"), False),
        ],
    )
    def test_of_a_new_packet(self, statement: Any, hit: bool | None) -> None:
        said = {True: "accepted", False: "dropped", None: "maybe"}[hit]
        assert fate(forward([statement, ACCEPT])) == said

    def test_of_ports_and_addresses(self) -> None:
        dhcp = packet("DHCP", "input", "ip", "udp", iifname="tapbr1", sport=68,
                      dport=67, daddr="255.255.255.255")  # fmt: skip
        kind = {"fib": {"result": "type", "flags": ["daddr"]}}
        for statement, one, other in (
            (payload("udp", "dport", 67), True, False),
            (payload("th", "dport", {"range": [60, 70]}), True, False),
            (payload("udp", "dport", {"set": [53, {"range": [1, 9]}]}), False, True),
            (match(kind, "broadcast"), True, False),
            (match(kind, "local"), False, True),
            (payload("ip", "daddr", {"prefix": {"addr": "255.255.255.0", "len": 24}}),
             True, None),
        ):  # fmt: skip
            rules = Firewall(table({"INPUT": [[statement, ACCEPT]]}))
            said = {True: "accepted", False: "dropped", None: "maybe"}
            assert fate(rules, dhcp) == said[one], statement
            assert fate(rules, DNS) == said[other], statement

    def test_named_sets_and_elements_with_more(self) -> None:
        for elements, said in (
            (["eth0"], "accepted"),
            ([{"elem": {"val": "eth0", "timeout": 5}}], "accepted"),
            (["eth1"], "dropped"),
        ):
            listing = table({"FORWARD": [[meta("oifname", "@uplinks"), ACCEPT]]})
            named = {"family": "ip", "table": "filter", "name": "uplinks"}
            listing.insert(1, {"set": {**named, "elem": elements}})
            assert fate(Firewall(listing)) == said

    def test_concatenations(self) -> None:
        pair = {"concat": [{"meta": {"key": "iifname"}}, {"meta": {"key": "oifname"}}]}
        for second, said in (("eth0", "accepted"), ("eth1", "dropped")):
            right = {"set": [{"concat": ["tapbr1", second]}]}
            assert fate(forward([match(pair, right), ACCEPT])) == said

    def test_verdict_maps(self) -> None:
        def by(key: str, *pairs: Any) -> dict[str, Any]:
            data = {"set": [list(pair) for pair in pairs]}
            return {"vmap": {"key": {"meta": {"key": key}}, "data": data}}

        ours = ("tapbr1", jump("ours", "goto"))
        assert fate(forward([by("iifname", ("lo", DROP), ours)], ours=[[ACCEPT]])) == (
            "accepted"
        )
        assert fate(forward([by("iifname", ("lo", ACCEPT))])) == "dropped"
        assert fate(forward([by("mark", (1, ACCEPT))])) == "maybe"
        assert (
            fate(forward([by("mark", (1, ACCEPT)), ACCEPT], policy="drop")) == "maybe"
        )

    def test_conntrack_of_iptables(self) -> None:
        known = forward([meta("oifname", "tapbr*"), xt("conntrack"), ACCEPT])
        assert fate(known, BACK) == "accepted" and fate(known) == "dropped"
        assert fate(forward([xt("conntrack"), ACCEPT]), BACK) == "accepted"
        # Alone and with a drop it is about invalid packets; with more, who knows?
        assert fate(forward([xt("conntrack"), DROP], [ACCEPT])) == "accepted"
        some = [meta("iifname", "tapbr*"), xt("conntrack"), ACCEPT]
        assert fate(forward(some)) == "maybe"
        some[2] = DROP
        assert fate(forward(some, [ACCEPT])) == "maybe"

    def test_targets_of_iptables(self) -> None:
        assert fate(forward([xt("LOG", "target")], [ACCEPT])) == "accepted"
        assert fate(forward([xt("NFQUEUE", "target")], [ACCEPT])) == "maybe"

    def test_not_local_of_ufw(self) -> None:
        """Three matches that can't be read, and a drop; all of it is not for us."""
        local = [[xt("addrtype"), RETURN]] * 3 + [[LIMIT, jump("log")], [DROP]]
        ours = [meta("iifname", "tapbr*"), ACCEPT]
        chains = {"INPUT": [[jump("local")], ours], "local": local, "log": []}
        assert fate(Firewall(table(chains)), DNS) == "accepted"


class TestFindings:
    def codes(self, listing: Any, *bridges: str, host: Host = V4) -> list[str]:
        return [f"{f.code} {f.severity}" for f in diagnose(listing, bridges, host)
                if f.code != "no-ipv6"]  # fmt: skip

    def first(self, listing: Any, *bridges: str) -> Finding:
        return diagnose(listing, bridges, V4)[0]

    def test_without_bridges_one_is_imagined(self) -> None:
        (found, _) = diagnose(table({"FORWARD": []}), [], V4)
        assert found == Finding(
            "forward-drop",
            "error",
            "nftables: ip filter FORWARD drops what guests send outside,"
            " the answers to guests",
            "iptables -I FORWARD -i tapbr+ -j ACCEPT"
            " && iptables -I FORWARD -o tapbr+ -j ACCEPT",
        )

    def test_one_per_chain_however_many_bridges(self) -> None:
        many = [f"tapbr{n}" for n in range(5)]
        assert self.codes(table({"FORWARD": []}), *many) == ["forward-drop error"]

    def test_what_only_may_drop_is_a_warning(self) -> None:
        rules = table({"FORWARD": [[meta("mark", 1), ACCEPT]]})
        assert self.codes(rules) == ["forward-drop warning"]
        assert "may drop" in self.first(rules).message

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
    def test_remedies(self, listing: Any, remedy: str) -> None:
        assert self.first(listing).remedy == remedy

    def test_both_families(self) -> None:
        both = Host({"ipv6/conf/all/disable_ipv6": "0"}, ("eth0",))
        rules = table({"FORWARD": []}, family="ip6")
        assert self.codes(rules) == []
        (found,) = diagnose(rules, [], both)
        assert str(found.remedy).startswith("ip6tables -I FORWARD")

    def test_without_an_uplink_its_rules_may_let_through(self) -> None:
        to = [meta("iifname", "tapbr*"), meta("oifname", "eth0"), ACCEPT]
        back = [meta("oifname", "tapbr*"), ACCEPT]
        rules = table({"FORWARD": [to, back]})
        assert self.codes(rules) == []
        assert self.codes(rules, host=replace(V4, uplinks=())) == [
            "forward-drop warning"
        ]

    def test_bridged_frames_count_only_if_they_are_filtered(self) -> None:
        out = [meta("oifname", "eth0"), ACCEPT]
        back = [meta("iifname", "eth0"), ACCEPT]
        rules = table({"FORWARD": [out, back]})
        assert self.codes(rules, "tapbr1", "br0") == []
        on = replace(V4, sysctls={**V4.sysctls, "bridge/bridge-nf-call-iptables": "1"})
        assert self.codes(rules, "tapbr1", host=on) == ["bridge-nf-call error"]
        (found, _) = diagnose(rules, ["br0"], on)
        assert str(found.remedy).startswith("iptables -I FORWARD -i br0 -j ACCEPT")

    def test_ipv6(self) -> None:
        (none,) = diagnose([], [], Host())
        assert (none.code, none.severity, none.remedy) == ("no-ipv6", "info", None)
        (off,) = diagnose([], [], V4)
        assert off.remedy == "sysctl -w net/ipv6/conf/all/disable_ipv6=0"

    def test_worst_comes_first(self) -> None:
        host = replace(V4, networkmanager=False, rivals=[("tapbr1", "a", "b")])
        assert [f.severity for f in diagnose([], [], host)] == [
            "error", "warning", "info",
        ]  # fmt: skip


def write(root: Path, files: dict[str, str]) -> str:
    for name, text in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return str(root)


OURS = "[keyfile]\nunmanaged-devices+=interface-name:tapster*;interface-name:tapbr*\n"


class TestNetworkManager:
    CONF = "NetworkManager/conf.d"

    @pytest.mark.parametrize(
        ("files", "covered"),
        [
            ({}, False),
            ({f"etc/{CONF}/tapster.conf": OURS}, True),
            ({f"usr/lib/{CONF}/tapster.conf": OURS}, True),
            ({f"run/{CONF}/tapster.conf": OURS}, True),
            ({"etc/NetworkManager/NetworkManager.conf": OURS}, True),
            ({f"etc/{CONF}/a.conf": "[keyfile]\nunmanaged-devices=*\n"}, True),
            ({f"etc/{CONF}/a.conf": "[main]\nunmanaged-devices=*\n"}, False),
            ({f"etc/{CONF}/a.conf":
              "[keyfile]\nunmanaged-devices=interface-name:tap*\n"}, True),
            ({f"etc/{CONF}/a.conf":
              "[keyfile]\nunmanaged-devices=interface-name:tapbr*\n"}, False),
            ({f"etc/{CONF}/a.conf":
              "[keyfile]\nunmanaged-devices=type:tun,type:bridge\n"}, True),
            ({f"etc/{CONF}/a.conf":
              "[keyfile]\nunmanaged-devices=*;except:type:bridge\n"}, False),
            # what is set later, and without a plus, is all there is
            ({f"usr/lib/{CONF}/tapster.conf": OURS, f"etc/{CONF}/b.conf":
              "[keyfile]\nunmanaged-devices=mac:00:00:00:00:00:01\n"}, False),
            ({f"usr/lib/{CONF}/tapster.conf": OURS, f"etc/{CONF}/b.conf":
              "[keyfile]\nunmanaged-devices+=mac:00:00:00:00:00:01\n"}, True),
            # a file of the same name in /etc hides the other
            ({f"usr/lib/{CONF}/tapster.conf": OURS,
              f"etc/{CONF}/tapster.conf": "# nothing\n"}, False),
        ],
    )  # fmt: skip
    def test_files(self, tmp_path: Path, files: dict[str, str], covered: bool) -> None:
        root = write(tmp_path, files)
        assert doctor._networkmanager_leaves_us(root) is covered

    def test_our_file_and_the_remedy_are_enough(self, tmp_path: Path) -> None:
        text = (ROOT / "data/NetworkManager/tapster.conf").read_text()
        root = write(tmp_path, {f"usr/lib/{self.CONF}/tapster.conf": text})
        assert doctor._networkmanager_leaves_us(root)
        (found, _) = diagnose([], [], replace(V4, networkmanager=False))
        assert found.code == "networkmanager"
        _run_remedy(tmp_path / "b", found, "nmcli")
        assert doctor._networkmanager_leaves_us(str(tmp_path / "b"))
        assert [f.code for f in diagnose([], [], replace(V4, networkmanager=True))] == [
            "no-ipv6"
        ]


class TestNetworkd:
    @pytest.mark.parametrize(
        ("files", "by"),
        [
            ({}, None),
            ({"etc/systemd/network/80-all.network": "[Match]\nName=*\n"}, "80-all"),
            ({"usr/lib/systemd/network/80-t.network": "[Match]\nName=tap*\n"}, "80-t"),
            ({"run/systemd/network/80-b.network": "[Match]\nType=bridge\n"}, "80-b"),
            ({"run/systemd/network/80-e.network": "[Match]\nType=ether\n"}, "80-e"),
            ({"run/systemd/network/80-k.network": "[Match]\nKind=tun\n"}, "80-k"),
            ({"run/systemd/network/80-n.network": "[Match]\nName=!eth0\n"}, "80-n"),
            ({"run/systemd/network/80-n.network": "[Match]\nName=!tap*\n"}, None),
            ({"run/systemd/network/80-p.network":
              "[Match]\nType=ether\nPath=pci-*\n"}, None),
            ({"etc/systemd/network/80-e.network": "[Match]\nName=en* eth*\n"}, None),
            ({"etc/systemd/network/80-v.network":
              "[Match]\nKind=veth\nName=*\n"}, None),
            ({"etc/systemd/network/80-a.network":
              "[Match]\nName=*\n[Link]\nUnmanaged=yes\n"}, None),
            ({"etc/systemd/network/80-a.network":
              "[Match]\nName=*\n[Link]\nUnmanaged=no\n"}, "80-a"),
            # an empty file of the same name hides it
            ({"usr/lib/systemd/network/80-a.network": "[Match]\nName=*\n",
              "etc/systemd/network/80-a.network": ""}, None),
        ],
    )  # fmt: skip
    def test_files(self, tmp_path: Path, files: dict[str, str], by: str | None) -> None:
        found = doctor._networkd_file(write(tmp_path, files))
        assert (found and Path(found).stem) == by

    @pytest.mark.parametrize("name", ["80-all", "00-all", "0-all"])
    def test_the_remedy_is_sorted_before(self, tmp_path: Path, name: str) -> None:
        path = f"etc/systemd/network/{name}.network"
        root = write(tmp_path, {path: "[Match]\nName=*\n"})
        culprit = doctor._networkd_file(root)
        found = diagnose([], [], replace(V4, networkd=culprit))[0]
        assert found.code == "networkd" and path in found.message
        _run_remedy(tmp_path, found, "networkctl")
        assert doctor._networkd_file(root) is None

    def test_our_file_is_enough(self, tmp_path: Path) -> None:
        text = (ROOT / "data/networkd/00-tapster.network").read_text()
        root = write(tmp_path, {
            "usr/lib/systemd/network/00-tapster.network": text,
            "etc/systemd/network/10-all.network": "[Match]\nName=*\n",
        })  # fmt: skip
        assert doctor._networkd_file(root) is None


def _run_remedy(root: Path, finding: Finding, last: str) -> None:
    """The remedy's files, below a root of the test's; its last command is for a
    program that does not run here."""
    assert finding.remedy is not None
    command, _, reload = finding.remedy.rpartition(" && ")
    assert reload.startswith(last)
    command = command.replace("/etc/", f"{root}/etc/")
    subprocess.run(["sh", "-e", "-c", command], check=True)
