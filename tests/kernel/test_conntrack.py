# SPDX-License-Identifier: LGPL-2.1-or-later
"""What `tapster.kernel.conntrack` lists is what /proc shows, and is forgotten."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from typing import Any

import pytest

from lab import Lab, Space
from support.host import in_network
from support.pump import TCP, UDP, V4, V6, bound
from tapster.kernel import conntrack
from tapster.kernel.conntrack import ConntrackSocket, Flow, _flow

HOST: dict[int, str] = {V4: "192.0.2.2", V6: "2001:db8::2"}
_RULES = """
table inet t {
    chain c {
        type filter hook input priority filter;
        ct state new counter
    }
}
"""


@pytest.fixture(scope="module")
def host(lab: Lab) -> Space:
    """Flows are only remembered where a rule asks about them."""
    lab.host.run("nft", "-f", "-", input=_RULES)
    return lab.host


@pytest.fixture
def flows(host: Space) -> Iterator[ConntrackSocket]:
    with in_network(host, ConntrackSocket) as made:
        yield made


def shown(host: Space) -> str:
    return host.run("cat", "/proc/net/nf_conntrack").stdout


@pytest.mark.parametrize("family", [V4, V6], ids=["ipv4", "ipv6"])
def test_flow_is_listed_and_forgotten(
    lab: Lab, host: Space, flows: ConntrackSocket, family: int
) -> None:
    address = HOST[family]
    with (
        bound(host, UDP, 7001, family),
        bound(host, UDP, 7002, family),
        bound(lab.world, UDP, 0, family) as client,
    ):
        for number in (7001, 7002):
            client.sendto(b"x", (address, number))
            assert f"dport={number}" in shown(host)
            (flow,) = flows.flows(family, socket.IPPROTO_UDP, number)
            assert flow[:4] == (family, socket.IPPROTO_UDP, address, number)
        asked: list[str] = []

        def spare(flow: Flow) -> bool:
            asked.append(flow.address)
            return False

        assert flows.forget(socket.IPPROTO_UDP, 7001, spare) == 0
        assert asked == [address]
        assert flows.forget(socket.IPPROTO_TCP, 7001, lambda _: True) == 0
        assert "dport=7001" in shown(host)
        assert flows.forget(socket.IPPROTO_UDP, 7001, lambda _: True) == 1
        assert "dport=7001" not in shown(host)
        assert "dport=7002" in shown(host)
        assert flows.forget(socket.IPPROTO_UDP, 7002, lambda _: True) == 1


def test_only_what_is_asked_for_leaves_the_kernel(
    lab: Lab, host: Space, flows: ConntrackSocket, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of many flows, those of a protocol without ports among them."""
    with (
        bound(host, UDP, 7003),
        bound(lab.world, UDP) as client,
        in_network(
            lab.world, socket.socket, V4, socket.SOCK_RAW, socket.IPPROTO_ICMP
        ) as ping,
    ):
        ping.settimeout(5)
        ping.sendto(b"\x08\x00\xf7\xff" + bytes(4), (HOST[V4], 0))
        ping.recv(100)
        for number in (7003, *range(10000, 10100)):
            client.sendto(b"x", (HOST[V4], number))
            client.sendto(b"x", (HOST[V4], number))
        assert "icmp" in shown(host) and shown(host).count("udp") >= 1
        parsed = []

        def counted(*what: Any) -> Any:
            parsed.append(what)
            return _flow(*what)

        monkeypatch.setattr(conntrack, "_flow", counted)
        assert len(flows.flows(V4, socket.IPPROTO_UDP, 7003)) == 1
        assert len(parsed) == 1


def test_no_connection_is_no_error(host: Space, flows: ConntrackSocket) -> None:
    assert flows.forget(socket.IPPROTO_TCP, 9, lambda _: True) == 0
    with bound(host, TCP, 7004):
        assert flows.forget(socket.IPPROTO_TCP, 7004, lambda _: True) == 0
