# SPDX-License-Identifier: LGPL-2.1-or-later
"""`tapster.daemon.process.spawned.dnsmasq`: what dnsmasq may be told, line by line,
and which dnsmasq it is."""

from __future__ import annotations

import os
import socket
import subprocess
from ipaddress import IPv4Network, IPv6Network
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from support.spawned import Spawned
from tapster.daemon.process.spawned import Refused
from tapster.daemon.process.spawned.dnsmasq import (
    _WORDS,
    Account,
    check_configuration,
)
from tapster.networks import dnsmasq

BRIDGE = "tapbr0a1b2c3d"
SIX = IPv6Network("fd12:3456:789a:1::/64")
DIRECTORY = f"/run/tapster/networks/{BRIDGE}"


def configuration(**changes: object) -> str:
    made = dnsmasq.Settings(
        bridge=BRIDGE,
        subnet4=IPv4Network("10.70.1.0/24"),
        subnet6=SIX,
        domain="default.internal",
        mtu=1500,
        directory=DIRECTORY,
        upstream=("192.0.2.1", "2001:db8::1"),
        user=None,
    )
    return dnsmasq.configuration(made._replace(**changes))  # type: ignore[arg-type]


def check(text: str, user: str = "") -> None:
    check_configuration(text, BRIDGE, DIRECTORY, Account(user, user))


@pytest.mark.parametrize("changes", [
    {}, {"subnet6": None}, {"upstream": None}, {"upstream": ()}, {"dhcp": False},
    {"slaac": False}, {"routed": False}, {"domain": "a-b.c_d.example"},
])  # fmt: skip
def test_our_own_configuration_is_accepted(changes: dict[str, object]) -> None:
    check(configuration(**changes))


@pytest.mark.parametrize("line", [
    "dhcp-script=/bin/sh", "dhcp-luascript=/tmp/x.lua", "conf-file=/tmp/x",
    "conf-dir=/tmp", "conf-script=/bin/sh", "servers-file=/etc/shadow",
    "addn-hosts=/etc/shadow", "resolv-file=/etc/shadow", "enable-tftp",
    "tftp-root=/", "log-facility=/etc/cron.d/x", "dumpfile=/etc/x",
    "pid-file=/etc/x", "dhcp-leasefile=/etc/x", "hostsdir=/etc", "user=root",
    "dhcp-hostsdir=/etc", "interface=eth0", "no-daemon", "group=root",
    " dhcp-script=/bin/sh", "dhcp-script /bin/sh", "domain=x\rdhcp-script=/bin/sh",
    'domain="a\\ndhcp-script=/bin/sh"', "#", "local=/x/#", "dbus", "ubus",
    f"pid-file={DIRECTORY}/../x", f"hostsdir={DIRECTORY}/hosts/",
])  # fmt: skip
def test_a_line_that_is_not_ours_is_refused(line: str) -> None:
    with pytest.raises(Refused):
        check(configuration() + line + "\n")


@pytest.mark.parametrize("word", ["interface", "user", "group"])
def test_a_configuration_without_interface_user_or_group_is_refused(word: str) -> None:
    lines = configuration().split("\n")
    with pytest.raises(Refused, match="without"):
        check("\n".join(x for x in lines if not x.startswith(f"{word}=")))


def test_a_configuration_for_another_user_is_refused() -> None:
    with pytest.raises(Refused):
        check(configuration(), user="dnsmasq")


@given(st.text(max_size=60))
def test_no_accepted_line_names_a_program_or_a_file(line: str) -> None:
    try:
        check(configuration() + line)
    except Refused:
        return
    known = set(configuration().split("\n")) | set(_WORDS)
    for part in line.split("\n"):
        word = part.partition("=")[0]
        assert part in known or word in (
            *("domain", "local", "dhcp-option", "dhcp-range", "ra-param"),
            "server",
        )


@pytest.mark.parametrize("bridge", [
    "eth0", "../networks/tapbr0", "tapbr0/../../x", "", "tapbr", "tapbr0\n",
])  # fmt: skip
def test_dnsmasq_is_not_started_for_a_bridge_that_is_not_ours(
    spawned: Spawned, bridge: str
) -> None:
    assert spawned.ask("dnsmasq", "1", bridge)[0] == "refused"


def test_dnsmasq_is_not_started_on_a_symbolic_link(
    spawned: Spawned, tmp_path: Path
) -> None:
    directory = tmp_path / "networks" / BRIDGE
    directory.mkdir()
    (directory / "dnsmasq.conf").symlink_to("/etc/hostname")
    assert spawned.ask("dnsmasq", "1", BRIDGE)[0] == "refused"


def test_no_program_but_dnsmasq_is_signalled(spawned: Spawned) -> None:
    other = subprocess.Popen(["sleep", "99"])
    pidfd = os.pidfd_open(other.pid)
    try:
        word = b"signal\0\0SIGKILL"
        socket.send_fds(spawned.control, [word], [pidfd])
    finally:
        os.close(pidfd)
    assert spawned.ask("x", "1")[0] == "refused"  # it has seen both
    assert other.poll() is None
    other.kill()
    other.wait()
