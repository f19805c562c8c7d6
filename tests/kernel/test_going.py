# SPDX-License-Identifier: LGPL-2.1-or-later
"""Nothing left: whoever is killed, and whenever.

Shows daemon/detach.
"""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from lab import OTHER, USER, Daemon, Lab, until
from support import frames
from support.frames import Tap, arrives
from support.host import (
    RUNTIME,
    ask,
    attach,
    broker,
    chains,
    commands,
    dnsmasqs,
    elements,
    files,
    inside,
    leftovers,
    link,
    links,
    nics,
    plain_socket,
    ruleset,
    sysctl,
    until_nothing_is_left,
)
from support.serving import stop_well
from tapster import errors
from tapster.client import attach as client

SYSCTLS = ("ipv4/ip_forward", "ipv6/conf/all/forwarding", "ipv6/conf/eth0/accept_ra")
WHERE = pytest.mark.parametrize("where", [{}, {"bridge": "br7"}], ids=["nat", "bridge"])


@pytest.fixture(scope="module", autouse=True)
def prepared(lab: Lab) -> None:
    lab.config("[broker]\nnetwork_grace_seconds = 0.2\n")
    lab.bridge_conf("allow br7\n")
    lab.host.run("sh", "-ec", "ip link add br7 type bridge; ip link set br7 up")


@pytest.fixture(autouse=True)
def as_before(lab: Lab) -> Iterator[None]:
    """Each test starts brokers of its own; after it the host is as it was."""
    before = [sysctl(lab.host, key) for key in SYSCTLS]
    devices = links(lab.host, "")
    yield
    for running in lab._daemons:
        if running.process.poll() is None:
            running.process.kill()
            running.process.wait()
    assert leftovers(lab) == []
    assert ruleset(lab.host) == []
    assert links(lab.host, "") == devices
    assert [sysctl(lab.host, key) for key in SYSCTLS] == before


def start(lab: Lab, script: str = "") -> Daemon:
    return lab.daemon("--config", "/run/config", script=script)


def end(lab: Lab, daemon: Daemon) -> None:
    """Stop a broker that has no NIC; it takes everything with it."""
    until_nothing_is_left(lab)
    stop_well(lab, daemon)


HOLDER = """
import sys, time
import tapster
nic = tapster.attach(**eval(sys.argv[1]))
print(nic.ifname, flush=True)
time.sleep(600)
"""


def holder(lab: Lab, **where: str) -> tuple[subprocess.Popen[Any], str]:
    """A user's process that holds a tap, and the tap's name."""
    process = lab.host.popen(
        lab.python, "-c", HOLDER, repr(where), user=USER,
        stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    assert process.stdout is not None
    with process.stdout:
        return process, process.stdout.readline().strip()


@pytest.fixture(scope="class")
def one_daemon(lab: Lab, prepared: None) -> Iterator[Daemon]:
    running = start(lab)
    yield running
    end(lab, running)


class TestClient:
    @pytest.fixture
    def daemon(self, one_daemon: Daemon) -> Daemon:
        return one_daemon

    @pytest.fixture(autouse=True)
    def as_before(self, lab: Lab, daemon: Daemon) -> Iterator[None]:
        """One broker for all of these."""
        yield
        until_nothing_is_left(lab)
        assert nics(lab) == []
        assert daemon.process.poll() is None

    @WHERE
    def test_killed_holder_leaves_nothing(
        self, lab: Lab, daemon: Daemon, where: dict[str, str]
    ) -> None:
        process, ifname = holder(lab, **where)
        assert links(lab.host, "tapster") == [ifname]
        (listed,) = nics(lab)
        assert listed["pid"] == process.pid
        process.kill()
        process.wait()
        until_nothing_is_left(lab)

    @WHERE
    def test_killed_between_request_and_reply_leaves_nothing(
        self, lab: Lab, daemon: Daemon, where: dict[str, str]
    ) -> None:
        call = {"method": "io.tapster.Broker.Attach", "parameters": where}
        data = json.dumps(call).encode() + b"\0"
        for length in [*range(0, len(data), 7), len(data) - 1, len(data)]:
            with plain_socket(lab, USER) as sock:
                sock.sendall(data[:length])
        for delay in (0.0001, 0.0005, 0.001, 0.002, 0.004):
            with plain_socket(lab, USER) as sock:
                sock.sendall(data)
                time.sleep(delay)  # into the middle of its work, not for it
        until_nothing_is_left(lab)

    def test_that_shuts_its_side_gets_its_reply(self, lab: Lab, daemon: Daemon) -> None:
        with plain_socket(lab, USER) as sock:
            sock.sendall(b'{"method":"io.tapster.Broker.Attach"}\0')
            sock.shutdown(socket.SHUT_WR)
            data, fds, _, _ = socket.recv_fds(sock, 65536, 4)
            for fd in fds:
                os.close(fd)
            assert len(fds) == 1 and b"ifname" in data

    def test_that_takes_the_reply_without_the_descriptor_leaves_nothing(
        self, lab: Lab, daemon: Daemon
    ) -> None:
        with plain_socket(lab, USER) as sock:
            sock.sendall(b'{"method":"io.tapster.Broker.Attach"}\0')
            assert b"ifname" in sock.recv(65536)

    @WHERE
    def test_detach_takes_the_tap_from_its_holder(
        self, lab: Lab, daemon: Daemon, where: dict[str, str]
    ) -> None:
        with attach(lab, USER, vnet_hdr=False, **where) as nic:
            ask(lab, USER, "Detach", {"ifname": nic.ifname})
            assert leftovers(lab, networks=False) == []
            with pytest.raises(OSError, match="bad state"):
                os.write(nic.fd, bytes(60))
            with pytest.raises(errors.NoSuchNic):
                ask(lab, USER, "Detach", {"ifname": nic.ifname})

    @WHERE
    def test_tap_removed_by_root_is_forgotten(
        self, lab: Lab, daemon: Daemon, where: dict[str, str]
    ) -> None:
        with attach(lab, USER, **where) as nic:
            lab.host.run("ip", "link", "del", nic.ifname)
            until_nothing_is_left(lab)

    def test_last_copy_of_the_descriptor_counts(self, lab: Lab, daemon: Daemon) -> None:
        with attach(lab, USER) as nic:
            copy = os.dup(nic.fd)
        assert links(lab.host, "tapster") == [nic.ifname]
        os.close(copy)
        until_nothing_is_left(lab)


KILLER = """
import inspect, os, signal
from tapster.daemon.provision import stages
from tapster.networks import dnsmasq, dnsmasq_launch, managed_network, state_files
from tapster.networks.own_bridge import OwnBridge
from tapster.networks.ip_forwarding import IpForwarding
from tapster.networks.state_store import StateStore
WANTED = {wanted!r}

def reached(name):
    if name == WANTED and os.path.exists("/run/armed"):
        os.kill(os.getpid(), signal.SIGKILL)

def around(owner, name, counts=lambda *_: True):
    inner = getattr(owner, name)
    def outer(*arguments, **more):
        if not counts(*arguments):
            return inner(*arguments, **more)
        reached("before " + name)
        result = inner(*arguments, **more)
        reached(name)
        return result
    async def later(*arguments, **more):
        reached("before " + name)
        result = await inner(*arguments, **more)
        reached(name)
        return result
    setattr(owner, name, later if inspect.iscoroutinefunction(inner) else outer)

stages.reached = reached
around(managed_network, "write_record")
around(OwnBridge, "make")
around(IpForwarding, "enable")
around(IpForwarding, "restore")
around(StateStore, "save")
around(dnsmasq, "prepare_directory")
around(dnsmasq_launch, "spawn")
around(state_files, "write", lambda path, *_: path.endswith("/network.json.new"))
around(managed_network.ManagedNetwork, "remove_guest")
around(OwnBridge, "delete")
"""

STAGES = ["create", "wire", "filter", "address", "record", "up"]
COMING_UP = [
    "save", "write_record", "make", "before enable", "write", "enable",
    "prepare_directory", "spawn",
]  # fmt: skip


def armed(lab: Lab, on: bool) -> None:
    lab.host.run("sh", "-c", "touch /run/armed" if on else "rm -f /run/armed")


def killed_while(lab: Lab, daemon: Daemon, uid: int, **where: Any) -> None:
    """Ask for a NIC; the broker is killed while it makes it."""
    armed(lab, True)
    try:
        with pytest.raises(errors.TapsterError):
            attach(lab, uid, **where).close()
        assert daemon.process.wait(10) == -signal.SIGKILL
    finally:
        armed(lab, False)


class TestBroker:
    @WHERE
    @pytest.mark.parametrize("stage", STAGES)
    def test_killed_at_a_stage_leaves_nothing_after_its_restart(
        self, lab: Lab, stage: str, where: dict[str, str]
    ) -> None:
        killed_while(lab, start(lab, KILLER.format(wanted=stage)), USER, **where)
        daemon = start(lab)
        assert nics(lab) == []
        assert leftovers(lab) == []
        with attach(lab, USER, **where):
            pass
        end(lab, daemon)

    @pytest.mark.parametrize("phase", COMING_UP)
    def test_killed_while_a_network_comes_up_leaves_nothing_after_its_restart(
        self, lab: Lab, phase: str
    ) -> None:
        lab.host.run("sh", "-c", "rm -rf /run/state/networks/*")
        killed_while(lab, start(lab, KILLER.format(wanted=phase)), USER)
        daemon = start(lab)
        assert leftovers(lab) == []
        with attach(lab, USER) as nic:
            assert nic.ipv4
        end(lab, daemon)

    @pytest.mark.parametrize(
        "phase", ["remove_guest", "delete", "before restore", "restore"]
    )
    def test_killed_while_a_network_goes_leaves_nothing_after_its_restart(
        self, lab: Lab, phase: str
    ) -> None:
        first = start(lab, KILLER.format(wanted=phase))
        nic = attach(lab, USER)
        armed(lab, True)
        nic.close()
        assert first.process.wait(10) == -signal.SIGKILL
        armed(lab, False)
        daemon = start(lab)
        assert leftovers(lab) == []
        end(lab, daemon)

    @pytest.mark.parametrize("stage", [*STAGES, "spawn", "enable", "make"])
    def test_killed_at_a_stage_touches_no_running_guest(
        self, lab: Lab, stage: str
    ) -> None:
        """Two guests of one user, on a network and on a bridge; another user's
        attach is what kills the broker."""
        first = start(lab, KILLER.format(wanted=stage))
        with (
            attach(lab, USER, name="a", vnet_hdr=False) as one,
            attach(lab, USER, name="b", vnet_hdr=False) as two,
            attach(lab, USER, bridge="br7", name="c", vnet_hdr=False) as three,
        ):
            (served_by,) = dnsmasqs(lab)
            in_sets = {k: sorted(map(str, v)) for k, v in elements(lab.host).items()}
            listed = stable(nics(lab))
            killed_while(lab, first, OTHER)
            assert reaches(one, two)
            daemon = start(lab)
            assert reaches(one, two)
            assert stable(nics(lab)) == listed
            assert dnsmasqs(lab) == [served_by]
            after = {k: sorted(map(str, v)) for k, v in elements(lab.host).items()}
            assert after == in_sets
            assert links(lab.host, "tapster") == sorted(
                n.ifname for n in (one, two, three)
            )
            assert len(links(lab.host, "tapbr")) == 1
            names = [n for n in files(lab, "networks") if "/dhcp/" in n]
            assert len(names) == 2
            # Quota, names and MACs are still known.
            with pytest.raises(errors.NameInUse):
                attach(lab, USER, name="a")
            with pytest.raises(errors.MacInUse):
                attach(lab, USER, mac=str(one.mac))
        end(lab, daemon)

    @pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
    def test_told_to_end_without_nics_leaves_nothing(
        self, lab: Lab, number: signal.Signals
    ) -> None:
        daemon = start(lab)
        attach(lab, USER).close()
        assert daemon.stop(number) == 0, daemon.log
        assert leftovers(lab) == [], daemon.log
        assert commands(lab.host) == {}
        assert "Traceback" not in daemon.log

    def test_told_to_end_with_nics_leaves_them_working(self, lab: Lab) -> None:
        first = start(lab)
        with (
            attach(lab, USER, name="a", vnet_hdr=False) as one,
            attach(lab, USER, name="b", vnet_hdr=False) as two,
        ):
            listed = stable(nics(lab))
            assert first.stop() == 0, first.log
            assert reaches(one, two)
            daemon = start(lab)
            assert stable(nics(lab)) == listed
            assert reaches(one, two)
        end(lab, daemon)

    def test_told_to_end_while_a_network_comes_up_leaves_nothing(
        self, lab: Lab
    ) -> None:
        """Save a whole NIC, if the reply was on its way already."""
        for delay in (0.002, 0.01, 0.02, 0.03, 0.05):
            daemon = start(lab)
            with plain_socket(lab, USER) as sock:
                sock.sendall(b'{"method":"io.tapster.Broker.Attach"}\0')
                time.sleep(delay)  # into the middle of its work, not for it
                assert daemon.stop() == 0, daemon.log
            assert "Traceback" not in daemon.log, daemon.log
            assert "ERROR" not in daemon.log, daemon.log
            if leftovers(lab):
                assert "attached" in daemon.log, daemon.log
                end(lab, start(lab))

    def test_nic_that_went_while_no_broker_ran_is_cleared_up(self, lab: Lab) -> None:
        first = start(lab)
        nic, other = attach(lab, USER), attach(lab, USER, bridge="br7")
        first.stop(signal.SIGKILL)
        nic.close()
        other.close()
        assert files(lab, "nics") != []
        daemon = start(lab)
        assert leftovers(lab) == []
        assert "went while no broker ran" in daemon.log
        end(lab, daemon)

    def test_dnsmasq_that_died_meanwhile_is_started_again(self, lab: Lab) -> None:
        first = start(lab)
        with attach(lab, USER):
            first.stop(signal.SIGKILL)
            (pid,) = dnsmasqs(lab)
            os.kill(pid, signal.SIGKILL)
            until("its end", lambda: not dnsmasqs(lab))
            daemon = start(lab)
            assert len(dnsmasqs(lab)) == 1
        end(lab, daemon)

    @WHERE
    def test_ends_while_a_port_waits_for_its_first_mac(
        self, lab: Lab, where: dict[str, str]
    ) -> None:
        """The next broker goes on waiting, and remembers what was refused."""
        first = start(lab)
        wanted = {"for_parent": True, "vnet_hdr": False, **where}
        held: list[tuple[dict[str, Any], int]] = []
        try:
            for _ in range(2):
                with broker(lab, USER) as wire:
                    reply, fds = wire.call("Attach", wanted, fds=True)
                held.append((reply["nic"], fds[0]))
            (nic, fd), (refused, other) = held
            own = link(lab.host, refused["bridge"])["address"]
            os.write(other, frames.arp(own, own, "0.0.0.0", "10.64.0.9"))
            until("refusal", lambda: states(lab)[refused["ifname"]] == "refused")
            before = stable(nics(lab))
            first.stop(signal.SIGKILL)
            daemon = start(lab)
            assert stable(nics(lab)) == before
            assert chains(lab.host)[nic["ifname"]] == "waiting"
            mac = "52:54:00:12:34:56"
            os.write(fd, frames.arp(mac, mac, "0.0.0.0", "10.64.0.9"))
            until("admission", lambda: states(lab)[nic["ifname"]] == "active")
            assert states(lab)[refused["ifname"]] == "refused"
        finally:
            for _, fd in held:
                os.close(fd)
        end(lab, daemon)


def states(lab: Lab) -> dict[str, str]:
    return {nic["ifname"]: nic["state"] for nic in nics(lab)}


def stable(found: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Without the counters, and in one order."""
    return sorted(
        ({k: v for k, v in nic.items() if k[2:3] != "_"} for nic in found),
        key=lambda nic: str(nic["ifname"]),
    )


def reaches(one: client.Nic, two: client.Nic) -> bool:
    """Both ways."""
    for here, there in ((one, two), (two, one)):
        frame = frames.arp(str(here.mac), str(here.mac), str(here.ipv4), "10.64.0.9")
        if not arrives(frame, Tap(here.fd, str(here.mac)),
                       Tap(there.fd, str(there.mac)), frame):  # fmt: skip
            return False
    return True


class TestRecords:
    """What is in the runtime directory is looked at with suspicion."""

    def interrupted(self, lab: Lab, **where: str) -> tuple[client.Nic, Path]:
        """A NIC whose broker is gone, and its record."""
        first = start(lab)
        nic = attach(lab, USER, **where)
        first.stop(signal.SIGKILL)
        return nic, Path(inside(lab, f"{RUNTIME}/nics/{nic.ifname}"))

    @pytest.mark.parametrize(
        "text", ["", "{", "[]", "null", "{}", '{"ifname": 1}', "\xff", "x" * 100000]
    )
    def test_damaged_is_removed(self, lab: Lab, text: str) -> None:
        nic, record = self.interrupted(lab)
        record.write_text(text, encoding="latin-1")
        daemon = start(lab)
        assert "damaged" in daemon.log
        assert files(lab, "nics") == []
        assert nics(lab) == []
        nic.close()
        end(lab, daemon)

    def test_of_another_device_is_not_believed(self, lab: Lab) -> None:
        """Nobody's device is taken for a NIC, let alone removed, by its record."""
        nic, record = self.interrupted(lab, bridge="br7")
        data = json.loads(record.read_text())
        lab.host.run("ip", "link", "add", "tapveth", "type", "veth",
                     "peer", "name", "peer")  # fmt: skip
        try:
            for name in ("eth0", "br7", "lo", "tapveth"):
                index = lab.host.run("cat", f"/sys/class/net/{name}/ifindex").stdout
                forged = {**data, "ifname": name, "ifindex": int(index)}
                (record.parent / name).write_text(json.dumps(forged))
            (record.parent / "another").write_text(json.dumps(data))
            daemon = start(lab)
            assert [n["ifname"] for n in nics(lab)] == [nic.ifname]
            for name in ("eth0", "br7", "lo", "tapveth"):
                with pytest.raises(errors.NoSuchNic):
                    ask(lab, 0, "Detach", {"ifname": name})
                assert name in links(lab.host, name)
            nic.close()
            end(lab, daemon)
        finally:
            lab.host.run("ip", "link", "del", "tapveth")

    def test_of_a_device_whose_name_is_used_again_is_not_believed(
        self, lab: Lab
    ) -> None:
        nic, _ = self.interrupted(lab, bridge="br7")
        nic.close()
        lab.host.run("ip", "tuntap", "add", "dev", nic.ifname, "mode", "tap")
        try:
            daemon = start(lab)
            assert nics(lab) == []
            assert links(lab.host, "tapster") == [nic.ifname]
        finally:
            lab.host.run("ip", "link", "del", nic.ifname)
        end(lab, daemon)

    @pytest.mark.parametrize("text", ["", "[]", '{"network": "default"}', "{"])
    def test_of_a_network_damaged_takes_the_network_down(
        self, lab: Lab, text: str
    ) -> None:
        first = start(lab)
        attach(lab, USER).close()
        (name,) = links(lab.host, "tapbr")
        first.stop(signal.SIGKILL)
        path = Path(inside(lab, f"{RUNTIME}/networks/{name}/network.json"))
        path.write_text(text)
        daemon = start(lab)
        until("nothing", lambda: not leftovers(lab))
        end(lab, daemon)

    def test_lost_with_all_of_the_runtime_directory_leaves_nothing(
        self, lab: Lab
    ) -> None:
        """Of NICs that nobody knows any more there are none, and the host forwards
        no more than before."""
        first = start(lab)
        with attach(lab, USER) as nic, attach(lab, USER, bridge="br7") as other:
            first.stop(signal.SIGKILL)
            lab.host.run("rm", "-rf", RUNTIME)
            daemon = start(lab)
            assert nics(lab) == []
            assert leftovers(lab) == [], daemon.log
            assert sysctl(lab.host, "ipv4/ip_forward") == "0"
            for each in (nic, other):
                assert f"{each.ifname} had no record" in daemon.log
                with pytest.raises(OSError, match="bad state"):
                    os.write(each.fd, bytes(60))
        end(lab, daemon)
