# SPDX-License-Identifier: LGPL-2.1-or-later
"""Parsers, each as a function of bytes that returns if all is as it should be.

What a parser says that it raises is let pass, anything else is a finding; so is
what it returns if that can't be.
"""

from __future__ import annotations

import errno
import json
import os
import socket
import tempfile
from collections.abc import Callable, Mapping

from tapster import jsonutil
from tapster.client.reply import parse_reply
from tapster.daemon.audit import journal, log
from tapster.daemon.decide.polkit import dbus as bus
from tapster.daemon.nics.record import from_json as nic_from_json
from tapster.errors import ConfigError, ProtocolError, RequestError, UsageError
from tapster.kernel import conntrack, netlink, nflog, rtnetlink
from tapster.model import Peer
from tapster.networks import definition_json, leases
from tapster.networks.state_store import StateStore
from tapster.policy.config import load as config
from tapster.policy.config.values import Names
from tapster.policy.foreign import bridge_conf, bridge_conf_lines, lxc_usernet_lines
from tapster.policy.foreign.access import Contents
from tapster.policy.lint import check
from tapster.policy.lint.host import Host
from tapster.vmm import qemu
from tapster.vmm.net_option import Grant

from .wire import wire

Target = Callable[[bytes], None]

_PEER = Peer(1000, 1000, frozenset((1000, 100)), 4242)
_NAMES = Names(
    {"ann": 1000, "root": 0}.__getitem__, {"kvm": 36, "ann": 1000}.__getitem__
)
_HOST = Host(
    _NAMES,
    lambda uid: uid in (0, 1000),
    lambda gid: gid in (0, 36, 1000),
    lambda gid: {36: True, 0: False}.get(gid),
    lambda name: {"br0": True, "eth0": False}.get(name),
)


def of_bridge_conf(data: bytes) -> None:
    """Includes lead back to the file itself, and to one that is not there."""

    def load(name: bytes, limit: int) -> Contents:
        if name.endswith(b"gone"):
            raise FileNotFoundError(errno.ENOENT, "gone")
        return Contents(data[:limit], (1, len(name)), False)

    bridge_conf_lines.parse(data)
    for strict in (False, True):
        verdict = bridge_conf.judge("/main", "br0", load, strict)
        assert verdict.allowed <= (verdict.source is not None)
        assert verdict.reason.isprintable(), verdict.reason
        assert all(note.isprintable() for note in verdict.notes), verdict.notes


def of_lxc_usernet(data: bytes) -> None:
    lines = lxc_usernet_lines.parse(data)
    numbers = {b"ann": 1000, b"@kvm": 36, b"@ann": 1000, b"ben": None}
    grant = lxc_usernet_lines.weigh("/main", lines, numbers, _PEER)
    assert grant.nics >= 0
    told = (*grant.locations, *grant.notes)
    assert all(text.isprintable() for text in told), told


def of_toml(data: bytes) -> None:
    """The configuration, and what `tapster policy check` finds in it."""
    check.check_files(["-"], _HOST, lambda: data)
    try:
        text = data.decode()
    except UnicodeDecodeError:
        return
    try:
        config.parse([("/etc/tapster/tapster.toml", text)], _NAMES)
    except ConfigError as err:
        assert "\n" not in err.oneline()


def of_qemu(data: bytes) -> None:
    """Words between line ends. What is not about networks stays as it is."""
    words = [part.decode(errors="surrogateescape") for part in data.split(b"\n")]
    if any("\0" in word for word in words):
        return  # no argument has one
    argv = ["qemu-system-x86_64", *words]
    try:
        line = qemu.parse(argv)
    except UsageError:
        return
    grants = [Grant(40 + i, "52:54:00:00:00:01") for i in range(len(line.requests))]
    made = line.with_taps(grants)
    if not line.requests:
        assert made == argv
    for grant in grants:
        assert any(f"fd={grant.fd}" in word or f'"{grant.fd}"' in word for word in made)


def of_rtnetlink(data: bytes) -> None:
    for kind, flags, _, payload in netlink.messages(memoryview(data)):
        reply = netlink.Reply(kind, payload)
        rtnetlink.parse_link(reply)
        rtnetlink.link_index(reply)
        rtnetlink.link_family(reply)
        rtnetlink.parse_neighbour(reply)
        netlink._error_text(payload, flags)


def of_nflog(data: bytes) -> None:
    """A datagram of the kernel's, with an answer of whose DHCP server in it."""
    for packet in nflog._packets(memoryview(data)):
        leases.parse_logged(packet.protocol, packet.ethernet, packet.payload)


def of_leases(data: bytes) -> None:
    """The packet itself: a type and a MAC, then what a station of the LAN sent."""
    for protocol in (leases.IPV4, leases.IPV6):
        for lease in leases.parse_logged(protocol, data[:14], data[14:]):
            assert lease.address is None or lease.address.version == lease.family


def of_conntrack(data: bytes) -> None:
    for family in (socket.AF_INET, socket.AF_INET6):
        conntrack._flow(family, memoryview(data))


def of_record(data: bytes) -> None:
    """A NIC's record, as `RecordDirectory.read_all` reads it."""
    try:
        nic = nic_from_json(jsonutil.parse(data.decode()))
    except ValueError:
        return
    _ = nic.network_key, nic.name_key


def of_network_record(data: bytes) -> None:
    """A network's, as it was brought up; and what is written of it again."""
    try:
        definition = definition_json.from_json(jsonutil.parse(data.decode()))
    except ValueError:
        return
    text = json.dumps(definition_json.to_json(definition))
    again = definition_json.from_json(json.loads(text))
    assert again == definition


def of_store(data: bytes) -> None:
    """The state directory: what can't be read is put aside."""
    with tempfile.TemporaryDirectory(prefix="tapster-fuzz-", dir=_tmpfs()) as directory:
        os.makedirs(os.path.join(directory, "networks"))
        for name in ("seed", "networks/key.json"):
            with open(os.path.join(directory, name), "wb") as file:
                file.write(data)
        store = StateStore(directory)
        assert len(store.seed) >= 16
        store.save("key", store.load("key"))


def _tmpfs() -> str | None:
    return "/dev/shm" if os.access("/dev/shm", os.W_OK) else None


def of_log(data: bytes) -> None:
    """No text makes a line, or a field of the journal's, of its own."""
    text = data.decode(errors="surrogateescape")
    assert log.visible(text).isprintable() or text == ""
    for line in log.safe(text).split("\n")[1:]:
        assert line.startswith("    ")
    assert read_entry(journal.serialize({"MESSAGE": text, "PRIORITY": "6"})) == [
        "MESSAGE", "PRIORITY",
    ]  # fmt: skip


def read_entry(entry: bytes) -> list[str]:
    """The names of an entry's fields, read by the protocol's own words."""
    names = []
    while entry:
        line, _, rest = entry.partition(b"\n")
        name, equals, _ = line.partition(b"=")
        names.append(name.decode("ascii"))
        if equals:
            entry = rest
            continue
        length = int.from_bytes(rest[:8], "little")
        assert rest[8 + length : 9 + length] == b"\n"
        entry = rest[9 + length :]
    return names


def of_dbus(data: bytes) -> None:
    """In two pieces, as it may come."""
    replies = bus.Replies()
    try:
        for piece in (data[: len(data) // 2], data[len(data) // 2 :]):
            for message in replies.feed(piece):
                bus.error_of(message)
    except ValueError:
        pass


def of_reply(data: bytes) -> None:
    """What a broker, or who says that it is one, answers a client."""
    try:
        parameters, _ = parse_reply(data)
    except (RequestError, ProtocolError) as err:
        assert "\n" not in err.oneline()
        return
    assert isinstance(parameters, dict)


TARGETS: Mapping[str, Target] = {
    "wire": wire,
    "toml": of_toml,
    "bridge_conf": of_bridge_conf,
    "lxc_usernet": of_lxc_usernet,
    "qemu": of_qemu,
    "rtnetlink": of_rtnetlink,
    "nflog": of_nflog,
    "leases": of_leases,
    "conntrack": of_conntrack,
    "record": of_record,
    "network_record": of_network_record,
    "store": of_store,
    "log": of_log,
    "dbus": of_dbus,
    "reply": of_reply,
}
