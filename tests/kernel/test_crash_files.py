# SPDX-License-Identifier: LGPL-2.1-or-later
"""Whatever became of the files between two brokers: no guest that runs loses its
network by it, if that can be, and nobody gets anything by it.

Shows daemon/reconcile, networks/state_files.
"""

from __future__ import annotations

import fcntl
import json
import os
import signal
import struct
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from lab import OTHER, USER, Lab, until
from support import frames
from support.crash import Host
from support.frames import Tap, arrives
from support.guest import Guest
from support.host import (
    ask,
    attach,
    dnsmasqs,
    in_network,
    inside,
    links,
    nics,
    until_nothing_is_left,
)
from support.state import STATE_DIRECTORY, Live, take
from tapster import errors
from tapster.client import attach as client
from tapster.kernel import tun

_TUNSETIFINDEX = 0x400454DA

CONFIG = """
[broker]
network_grace_seconds = 0.1
[networks.default]
[networks.office]
scope = "shared"
isolation = false
"""


@pytest.fixture(scope="module")
def made(lab: Lab) -> Host:
    lab.config(CONFIG)
    lab.bridge_conf("allow br7\n")
    lab.host.run("sh", "-ec", "ip link add br7 type bridge; ip link set br7 up")
    return Host(lab, {}, script="")


@pytest.fixture
def host(made: Host) -> Iterator[Host]:
    made.start()
    yield made
    made.end()


@pytest.fixture
def held(host: Host) -> Iterator[ExitStack]:
    with ExitStack() as stack:
        yield stack


@pytest.fixture
def pair(host: Host, held: ExitStack) -> list[Live]:
    """Two guests of one user's network."""
    return [
        Live(held.enter_context(attach(host.lab, USER, name=n, vnet_hdr=False)), USER)
        for n in "ab"
    ]


def reach(pair: list[Live]) -> bool:
    one, two = (Tap(each.nic.fd, str(each.mac)) for each in pair)
    nic = pair[0].nic
    frame = frames.arp(str(nic.mac), str(nic.mac), str(nic.ipv4), "10.64.0.9")
    return arrives(frame, one, two, frame)


def record_of(host: Host, nic: client.Nic) -> Path:
    return host.files("networks", nic.bridge, "network.json")


def changed(path: Path, *where: str, value: Any) -> str:
    """A record's text, with one value of it another."""
    data = json.loads(path.read_text())
    inner = data
    for name in where[:-1]:
        inner = inner[name]
    inner[where[-1]] = value
    return json.dumps(data)


DAMAGES: dict[str, Any] = {
    "cut off": lambda p: p.read_text()[:40],
    "empty": lambda _: "",
    "huge": lambda p: p.read_text() + " " * (2 << 20),
    "deep": lambda _: "[" * 100_000,
    "a uid of another type": lambda p: changed(p, "uid", value="0"),
    "a uid that is true": lambda p: changed(p, "uid", value=True),
    "no definition": lambda p: changed(p, "definition", value=[]),
    "a name of two lines": lambda p: changed(
        p, "definition", "domain", value="x\nserver=192.0.2.9"
    ),
    "a subnet of another type": lambda p: changed(p, "subnet4", value=7),
    "another bridge": lambda p: changed(p, "bridge", value="br7"),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_record_of_a_network_takes_no_guest_along(
    host: Host, pair: list[Live], damage: str
) -> None:
    before = take(host.lab)
    host.kill()
    path = record_of(host, pair[0].nic)
    path.write_text(DAMAGES[damage](path))
    host.start()
    assert "damaged" in host.daemon.log
    assert host.wrong(pair) == []
    assert host.changed(before) == []
    assert reach(pair)
    with attach(host.lab, USER) as nic:
        assert nic.bridge == pair[0].nic.bridge


def test_a_lost_directory_of_networks_takes_no_guest_along(
    host: Host, pair: list[Live]
) -> None:
    host.kill()
    host.lab.host.run("sh", "-c", "rm -rf /run/tapster/networks")
    host.start()
    until("dnsmasq", lambda: dnsmasqs(host.lab))
    assert host.wrong(pair) == []
    assert reach(pair)


@pytest.mark.parametrize("what", ["", "/nics", "/lock", "/networks"])
def test_a_lost_runtime_directory_takes_no_guest_along(
    host: Host, pair: list[Live], what: str
) -> None:
    """The broker writes down what only it knows, and ends; the next goes on."""
    host.lab.host.run("rm", "-rf", f"/run/tapster{what}")
    assert host.daemon.process.wait(10) == 70
    assert "was lost" in host.daemon.log
    assert reach(pair)
    host.start()
    until("dnsmasq", lambda: dnsmasqs(host.lab))
    assert host.wrong(pair) == []
    assert reach(pair)


def test_a_lost_runtime_directory_makes_no_room_for_a_second_broker(
    host: Host, pair: list[Live]
) -> None:
    """There is never a moment with two: the lock went with the directory, what says
    that this network namespace is served did not."""
    first = host.daemon.process
    first.send_signal(signal.SIGSTOP)
    host.lab.host.run("rm", "-rf", "/run/tapster")
    try:
        with pytest.raises(RuntimeError, match="serves this network namespace"):
            host.start()
    finally:
        first.send_signal(signal.SIGCONT)
    assert first.wait(10) == 70
    host.start()
    until("dnsmasq", lambda: dnsmasqs(host.lab))
    assert host.wrong(pair) == []
    assert reach(pair)


@pytest.mark.parametrize("what", ["lost", "empty", "another"])
def test_a_seed_that_is_not_what_it_was_takes_no_guest_along(
    host: Host, pair: list[Live], what: str
) -> None:
    before = take(host.lab)
    host.kill()
    seed = Path(inside(host.lab, f"{STATE_DIRECTORY}/seed"))
    if what == "lost":
        seed.unlink()
    else:
        seed.write_text("" if what == "empty" else "ab" * 32)
    host.start()
    assert host.wrong(pair) == [] and host.changed(before) == []
    assert reach(pair)


def test_what_others_could_have_written_starts_no_broker(host: Host) -> None:
    host.kill()
    runtime = str(host.files())
    os.chmod(runtime, 0o777)
    try:
        with pytest.raises(RuntimeError, match="others than root"):
            host.start()
    finally:
        os.chmod(runtime, 0o755)
    for name in ("nics",):
        os.chown(host.files(name), 65534, 65534)
        try:
            with pytest.raises(RuntimeError, match="belongs to uid 65534"):
                host.start()
        finally:
            os.chown(host.files(name), 0, 0)


def test_a_forged_record_gives_nobody_anything(host: Host, pair: list[Live]) -> None:
    """One that another user owns: not its tap, not its owner, not another's."""
    host.kill()
    path = host.files("nics", pair[0].nic.ifname)
    path.write_text(changed(path, "uid", value=OTHER))
    os.chown(path, OTHER, OTHER)
    host.start()
    assert "belongs to uid 23002" in host.daemon.log
    assert nics(host.lab, OTHER) == []
    assert host.wrong(pair[1:]) == []
    with pytest.raises(errors.NoSuchNic):
        ask(host.lab, OTHER, "Detach", {"ifname": pair[1].nic.ifname})


def test_a_name_and_an_index_of_another_tap_are_not_believed(
    host: Host, held: ExitStack
) -> None:
    """Not even with both the same as recorded: our mark is not on it."""
    nic = held.enter_context(attach(host.lab, USER, bridge="br7"))
    index = take(host.lab).links[nic.ifname]["ifindex"]
    host.kill()
    nic.close()
    fd = in_network(host.lab.host, _tap, nic.ifname, index)
    try:
        assert take(host.lab).links[nic.ifname]["ifindex"] == index
        host.start()
        assert nics(host.lab) == []
        assert links(host.lab.host, "tapster") == [nic.ifname]
        with pytest.raises(errors.NoSuchNic):
            ask(host.lab, 0, "Detach", {"ifname": nic.ifname})
    finally:
        os.close(fd)


def _tap(name: str, index: int) -> int:
    fd = os.open("/dev/net/tun", os.O_RDWR | os.O_CLOEXEC)
    fcntl.ioctl(fd, _TUNSETIFINDEX, struct.pack("I", index))
    fcntl.ioctl(fd, tun.TUNSETIFF, struct.pack("16sH22x", name.encode(), 0x1002))
    return fd


def test_a_lease_of_a_guest_that_went_meanwhile_is_given_back(
    host: Host, pair: list[Live]
) -> None:
    """Else its address would be its MAC's for an hour, and no other's."""
    gone = pair[1].nic
    asking = Guest(gone)
    asking.find_router()
    assert asking.dhcp(1) and asking.dhcp(3, gone.ipv4)[53] == b"\x05"
    leases = host.files("networks", gone.bridge, "leases")
    assert str(gone.mac) in leases.read_text()
    host.kill()
    gone.close()
    host.start()
    until("its end", lambda: str(gone.mac) not in leases.read_text())
    with attach(
        host.lab, USER, name="b", mac="52:54:00:12:34:56", vnet_hdr=False
    ) as again:
        assert again.ipv4 == gone.ipv4
        asking = Guest(again)
        asking.find_router()
        assert asking.dhcp(1) and asking.dhcp(3, again.ipv4)[53] == b"\x05"


CLOCK = """
import time, datetime
_time, _datetime = time.time, datetime.datetime
YEAR = {years} * 366 * 86400
time.time = lambda: _time() + YEAR
class Jumped(_datetime):
    @classmethod
    def now(cls, tz=None):
        return _datetime.now(tz) + datetime.timedelta(seconds=YEAR)
datetime.datetime = Jumped
"""


@pytest.mark.parametrize("years", [10, -10])
def test_a_clock_that_jumps_ends_no_nic_and_keeps_none(
    host: Host, held: ExitStack, years: int
) -> None:
    lab = host.lab
    lab.config(CONFIG + '[[rules]]\nnetworks = ["default"]\nttl = 3\n')
    try:
        host.daemon.process.send_signal(signal.SIGHUP)
        until("it", lambda: ask(lab, 0, "Reload", {}) is not None)
        nic = held.enter_context(attach(lab, USER))
        host.kill()
        host._script = CLOCK.format(years=years)
        host.start()
        (listed,) = nics(lab)
        assert listed["ifname"] == nic.ifname
        assert f'"time": "20{26 + years}' in host.daemon.log or listed["expires"]
        until_nothing_is_left(lab, networks=True)
    finally:
        host._script = ""
        lab.config(CONFIG)
