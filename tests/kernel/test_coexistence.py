# SPDX-License-Identifier: LGPL-2.1-or-later
"""Other programs' rules and settings, made by those programs, on a host with a
network of ours: what they do to a guest, what doctor says, and that its remedy,
run as it stands, helps."""

from __future__ import annotations

import os
import secrets
import shutil
import socket
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from lab import Lab, Space, until, why_not
from support.host import in_network, link, ruleset
from tapster.daemon.api.doctor import findings as doctor
from tapster.daemon.api.doctor.finding import Finding
from tapster.daemon.api.doctor.host_facts import gather
from tapster.kernel.netlink import NetlinkSocket
from tapster.kernel.nft import Nft

BRIDGE, TAPS = "tapbrcoexist", ("tapstern2", "tapstern3")
PATIENCE = 5.0  # seconds for what is expected
SHORT = 0.4  # seconds until what is not answered counts as cut off
GATEWAY, GUEST, OTHER, WORLD = "10.99.0.1", "10.99.0.2", "10.99.0.3", "192.0.2.1"
_OURS = f"""
table inet tapster {{
    chain forward {{
        type filter hook forward priority filter; policy accept;
        oifname "{BRIDGE}" iifname != "{BRIDGE}" ct state != {{ established, related }} drop
    }}
    chain postrouting {{
        type nat hook postrouting priority srcnat; policy accept;
        iifname "{BRIDGE}" oifname != "{BRIDGE}" masquerade
    }}
}}
"""  # noqa: E501 - nft statements read best whole
_BUS = """<busconfig><type>system</type>
<listen>unix:path=/run/dbus/system_bus_socket</listen><auth>EXTERNAL</auth>
<policy context="default"><allow user="*"/><allow own="*"/>
<allow send_type="method_call"/><allow send_type="signal"/>
<allow send_type="method_return"/><allow send_type="error"/>
<allow receive_type="method_call"/><allow receive_type="signal"/>
<allow receive_type="method_return"/><allow receive_type="error"/>
</policy></busconfig>
"""


class Situation:
    """A lab whose host has one network of ours, with two guests on it.

    The guests are namespaces of their own: whether something gets through is
    the kernel's word, not that of code of ours.
    """

    def __init__(self, lab: Lab) -> None:
        self.lab, self.host = lab, lab.host
        self.guest, self.other = Space(), Space()
        self._sockets: list[socket.socket] = []
        self._services: dict[tuple[int, int], socket.socket] = {}

    def build(self) -> None:
        host = self.host
        host.run("ip", "link", "add", BRIDGE, "type", "bridge")
        host.run("ip", "address", "add", f"{GATEWAY}/24", "dev", BRIDGE)
        host.run("ip", "link", "set", BRIDGE, "up")
        guests = ((2, TAPS[0], self.guest), (3, TAPS[1], self.other))
        for number, tap, space in guests:
            host.run("ip", "link", "add", tap, "type", "veth", "peer", "name",
                     "eth0", "netns", str(space.pid))  # fmt: skip
            host.run("ip", "link", "set", tap, "master", BRIDGE, "up")
            space.run("ip", "address", "add", f"10.99.0.{number}/24", "dev", "eth0")
            space.run("ip", "link", "set", "eth0", "up")
            space.run("ip", "route", "add", "default", "via", GATEWAY)
        self.set("net/ipv4/ip_forward=1", "net/ipv6/conf/all/forwarding=1",
                 "net/bridge/bridge-nf-call-iptables=0",
                 "net/bridge/bridge-nf-call-ip6tables=0")  # fmt: skip
        host.run("nft", "-f", "-", input=_OURS)
        for space, port in (
            (host, 53),
            (host, 67),
            (self.lab.world, 7),
            (self.other, 7),
        ):
            self._services[space.pid, port] = self._socket(space, port)
        until("the bridge forwards", lambda: self.reaches_the_other(SHORT))

    def close(self) -> None:
        for sock in self._sockets:
            sock.close()
        self.guest.close()
        self.other.close()

    def set(self, *settings: str) -> None:
        self.host.run("sysctl", "-q", "-w", *settings)

    def _socket(self, space: Space, port: int = 0) -> socket.socket:
        sock: socket.socket = in_network(
            space, socket.socket, socket.AF_INET, socket.SOCK_DGRAM
        )
        self._sockets.append(sock)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_BROADCAST, 1)
        sock.settimeout(PATIENCE)
        sock.bind(("", port))
        return sock

    # What a guest gets

    def asks(
        self, space: Space, address: str, port: int, seconds: float = PATIENCE
    ) -> bool:
        """Whether a question of the guest's is heard there, and the answer here."""
        asking, service = self._socket(self.guest), self._services[space.pid, port]
        asking.settimeout(seconds)
        service.settimeout(seconds)
        question = secrets.token_bytes(8)  # one that was queued on its way is another
        try:
            asking.sendto(question, (address, port))
            heard, who = service.recvfrom(10)
            while heard != question:
                heard, who = service.recvfrom(10)
            service.sendto(b"!", who)
            return asking.recv(10) == b"!"
        except OSError:  # nothing in that time, or ICMP says that it was rejected
            return False

    def hears_dhcp(self, seconds: float = PATIENCE) -> bool:
        asking, service = self._socket(self.guest), self._services[self.host.pid, 67]
        asking.sendto(b"discover", ("255.255.255.255", 67))
        service.settimeout(seconds)
        try:
            return service.recv(10) == b"discover"
        except TimeoutError:
            return False

    def has_dns(self, seconds: float = PATIENCE) -> bool:
        return self.asks(self.host, GATEWAY, 53, seconds)

    def gets_outside(self, seconds: float = PATIENCE) -> bool:
        return self.asks(self.lab.world, WORLD, 7, seconds)

    def reaches_the_other(self, seconds: float = PATIENCE) -> bool:
        return self.asks(self.other, OTHER, 7, seconds)

    def is_cut_off(self) -> bool:
        """From the outside, and from the host."""
        return not any((self.gets_outside(SHORT), self.has_dns(SHORT),
                        self.hears_dhcp(SHORT)))  # fmt: skip

    # What doctor says

    def findings(self, *bridges: str, root: str = "/nowhere") -> list[Finding]:
        def look() -> list[Finding]:
            with NetlinkSocket() as netlink:
                host = gather(netlink, bridges or (BRIDGE,), root)
            listing = Nft().listing("look", "list ruleset")
            return doctor.diagnose(listing, bridges or (BRIDGE,), host)

        found: list[Finding] = in_network(self.host, look)
        return found

    def codes(self) -> list[str]:
        return sorted({finding.code for finding in self.findings()})

    def cure(self) -> None:
        """Run every remedy, as somebody who pastes it into root's shell."""
        for finding in self.findings():
            assert finding.remedy is not None and "\n" not in finding.remedy
            self.host.run("sh", "-e", "-c", finding.remedy)


@pytest.fixture
def here(tmp_path: Path) -> Iterator[Situation]:
    """A host of its own for each test: what is tried here stays on it."""
    if reason := why_not():
        pytest.skip(reason)
    for program in ("nft", "sysctl"):
        need(program)
    with Lab(tmp_path) as lab:
        situation = Situation(lab)
        try:
            situation.build()
            assert situation.codes() == []
            assert situation.gets_outside() and situation.has_dns()
            assert situation.hears_dhcp() and situation.reaches_the_other()
            yield situation
        finally:
            situation.close()


def need(program: str) -> None:
    if shutil.which(program, path=f"{os.environ['PATH']}:/usr/sbin:/sbin") is None:
        pytest.skip(f"{program} is not installed")


def bridged_frames_are_filtered(here: Situation) -> None:
    if here.host.run("test", "-e", "/proc/sys/net/bridge", check=False).returncode:
        pytest.skip("this kernel has no br_netfilter")
    here.set("net/bridge/bridge-nf-call-iptables=1",
             "net/bridge/bridge-nf-call-ip6tables=1")  # fmt: skip


class TestIptables:
    def docker(self, here: Situation) -> None:
        """As Docker leaves the filter table of a host without containers."""
        need("iptables")
        for command in (
            "-P FORWARD DROP",
            "-N DOCKER",
            "-N DOCKER-USER",
            "-A DOCKER-USER -j RETURN",
            "-A FORWARD -j DOCKER-USER",
            "-A FORWARD -o docker0 -m conntrack --ctstate ESTABLISHED -j ACCEPT",
            "-A FORWARD -o docker0 -j DOCKER",
            "-A FORWARD -i docker0 ! -o docker0 -j ACCEPT",
            "-A FORWARD -i docker0 -o docker0 -j ACCEPT",
        ):
            here.host.run("iptables", "-w", *command.split())

    def test_dockers_rules_are_found_and_outdone(self, here: Situation) -> None:
        self.docker(here)
        assert not here.gets_outside(SHORT)
        assert here.has_dns() and here.reaches_the_other()
        (finding,) = here.findings()
        assert (finding.code, finding.severity) == ("forward-drop", "error")
        assert "ip filter FORWARD drops" in finding.message
        assert finding.remedy is not None and "DOCKER-USER" in finding.remedy
        here.cure()
        assert here.findings() == []
        assert here.gets_outside()

    def test_forwarded_ports_pass_after_the_remedy(self, here: Situation) -> None:
        """Who reaches a guest from outside is our own table's word, then."""
        self.docker(here)
        here.cure()
        here.host.run("nft", "-f", "-", input=f"""
            insert rule inet tapster forward ct status dnat accept
            add chain inet tapster to {{ type nat hook prerouting priority dstnat; }}
            add rule inet tapster to iifname eth0 udp dport 7777 dnat ip to {GUEST}:9
            """)  # fmt: skip
        service, outside = here._socket(here.guest, 9), here._socket(here.lab.world)
        outside.sendto(b"in", ("192.0.2.2", 7777))
        assert service.recv(10) == b"in"
        here.lab.world.run("ip", "route", "add", "10.99.0.0/24", "via", "192.0.2.2")
        outside.sendto(b"no", (GUEST, 9))
        outside.sendto(b"in again", ("192.0.2.2", 7777))
        assert service.recv(10) == b"in again"

    def test_drop_policies_of_iptables_are_found_and_outdone(
        self, here: Situation
    ) -> None:
        need("iptables")
        here.host.run("iptables", "-P", "FORWARD", "DROP")
        here.host.run("iptables", "-P", "INPUT", "DROP")
        assert here.is_cut_off()
        assert here.codes() == ["forward-drop", "input-drop"]
        here.cure()
        assert here.findings() == []
        assert here.gets_outside() and here.has_dns() and here.hears_dhcp()

    def test_drop_policies_of_ip6tables_are_found_and_outdone(
        self, here: Situation
    ) -> None:
        need("ip6tables")
        here.host.run("ip6tables", "-P", "FORWARD", "DROP")
        here.host.run("ip6tables", "-P", "INPUT", "DROP")
        assert here.codes() == ["forward-drop", "input-drop"]
        assert all("ip6tables" in str(f.remedy) for f in here.findings())
        here.cure()
        assert here.findings() == []

    def test_an_administrators_exceptions_are_seen(self, here: Situation) -> None:
        """Exceptions that an administrator made by hand are seen."""
        need("iptables")
        here.host.run("iptables", "-P", "FORWARD", "DROP")
        known = "-o tapbr+ -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT"
        here.host.run("iptables", "-A", "FORWARD", *known.split())
        assert not here.gets_outside(SHORT) and here.codes() == ["forward-drop"]
        here.host.run(
            "iptables", "-A", "FORWARD", "-i", BRIDGE, "-o", "eth0", "-j", "ACCEPT"
        )
        assert here.gets_outside() and here.codes() == []

    def test_filtered_frames_between_guests_are_found_and_outdone(
        self, here: Situation
    ) -> None:
        bridged_frames_are_filtered(here)
        assert here.codes() == [] and here.reaches_the_other()
        self.docker(here)
        assert not here.reaches_the_other(SHORT)
        assert here.codes() == ["bridge-nf-call", "forward-drop"]
        here.cure()
        assert here.findings() == []
        assert here.reaches_the_other() and here.gets_outside()

    def test_a_linux_bridge_is_judged_by_its_frames_alone(
        self, here: Situation
    ) -> None:
        """One that is not ours is judged by what is bridged, and by its name."""
        bridged_frames_are_filtered(here)
        self.docker(here)
        (finding,) = here.findings("br0")
        assert finding.code == "bridge-nf-call"
        here.host.run("sh", "-e", "-c", str(finding.remedy))
        assert here.findings("br0") == []
        assert here.codes() == ["bridge-nf-call", "forward-drop"]


class TestNft:
    def test_an_administrators_nft_rules_are_found_and_outdone(
        self, here: Situation
    ) -> None:
        here.host.run("nft", "-f", "-", input="""
            table inet filter {
                chain input {
                    type filter hook input priority filter; policy drop;
                    ct state vmap { established : accept, invalid : drop }
                    iifname "lo" accept
                    meta l4proto { icmp, ipv6-icmp } accept
                    tcp dport 22 accept
                }
                chain forward {
                    type filter hook forward priority filter; policy drop;
                    ct state established,related accept
                }
            }""")  # fmt: skip
        assert here.is_cut_off()
        assert here.codes() == ["forward-drop", "input-drop"]
        here.cure()
        assert here.findings() == []
        assert here.gets_outside() and here.has_dns() and here.hears_dhcp()
        assert any("tapbr*" in str(entry) for entry in ruleset(here.host))


class TestUfw:
    def test_ufw_as_it_comes_is_found_and_outdone(self, here: Situation) -> None:
        need("ufw")
        private(here.host, "/etc/ufw", "/etc/default")
        here.host.run("mkdir", "-p", "/run/lock")
        here.host.run("ufw", "--force", "enable")
        assert here.is_cut_off()
        assert here.codes() == ["forward-drop", "input-drop"]
        assert {f.severity for f in here.findings()} == {"error"}
        assert all(str(f.remedy).startswith("ufw ") for f in here.findings())
        here.cure()
        assert here.findings() == []
        assert here.gets_outside() and here.has_dns() and here.hears_dhcp()
        here.host.run("ufw", "reload")
        assert here.findings() == [] and here.gets_outside()


class TestFirewalld:
    def test_firewalld_as_it_comes_is_found_and_outdone(self, here: Situation) -> None:
        with firewalld(here.host):
            assert here.is_cut_off()
            assert here.codes() == ["forward-drop", "input-drop"]
            assert {f.severity for f in here.findings()} == {"error"}
            here.cure()
            assert here.findings() == []
            assert here.gets_outside() and here.has_dns() and here.hears_dhcp()
            here.host.run("firewall-cmd", "--reload")
            assert here.findings() == [] and here.gets_outside()


def private(space: Space, *directories: str) -> None:
    """What is written below these directories stays in the space."""
    for directory in directories:
        copy = f"/run/private{directory}"
        space.run("mkdir", "-p", os.path.dirname(copy))
        space.run("cp", "-a", directory, copy)
        space.run("mount", "--bind", copy, directory)


def succeeds(space: Space, *command: str) -> bool:
    return space.run(*command, check=False).returncode == 0


@contextmanager
def running(space: Space, *command: str) -> Iterator[None]:
    """A program that is asked to end afterwards, and does."""
    quiet = subprocess.DEVNULL
    process = space.popen(*command, stdout=quiet, stderr=quiet)
    try:
        yield
    finally:
        process.terminate()
        process.wait(20)


@contextmanager
def message_bus(space: Space) -> Iterator[None]:
    """A system bus of the space's own, on which everybody may do everything."""
    need("dbus-daemon")
    space.run("sh", "-c", "mkdir -p /run/dbus && cat > /run/bus.conf", input=_BUS)
    options = ("--config-file=/run/bus.conf", "--nofork", "--nopidfile")
    with running(space, "dbus-daemon", *options):
        bus = "/run/dbus/system_bus_socket"
        until("its bus", lambda: succeeds(space, "test", "-S", bus))
        yield


@contextmanager
def firewalld(space: Space) -> Iterator[None]:
    """firewalld as it comes."""
    for program in ("firewalld", "firewall-cmd"):
        need(program)
    private(space, "/etc/firewalld")
    space.run("mkdir", "-p", "/run/firewalld", "/run/log")
    space.run("mount", "--bind", "/run/log", "/var/log")
    with message_bus(space), running(space, "firewalld", "--nofork", "--nopid"):
        until("firewalld", lambda: succeeds(space, "firewall-cmd", "--state"), 30)
        yield


class TestManagers:
    """Without udev they take devices as they are where /sys can't be written."""

    @pytest.fixture(autouse=True)
    def sys_is_read_only(self, here: Situation) -> None:
        here.host.run("mount", "-o", "remount,ro,bind", "/sys")

    def finding(self, here: Situation) -> list[Finding]:
        return here.findings(root=f"/proc/{here.host.pid}/root")

    def test_networkd_takes_no_device_of_ours_after_the_remedy(
        self, here: Situation
    ) -> None:
        host = here.host
        networkd = "/lib/systemd/systemd-networkd"
        need(networkd)
        need("networkctl")
        private(host, "/etc/systemd")
        host.run("mkdir", "-p", "/run/systemd/network", "/run/systemd/netif/links",
                 "/run/systemd/netif/leases", "/run/systemd/netif/lldp")  # fmt: skip
        host.run("chown", "-R", "systemd-network:", "/run/systemd/netif")
        file = "/run/systemd/network/80-tap.network"
        host.run("sh", "-c", f"cat > {file}", input="[Match]\nName=tap*\n")

        def state(device: str) -> str:
            lines = host.run("networkctl", "--no-legend", "list").stdout.splitlines()
            return next(line.split()[-1] for line in lines if device in line)

        with message_bus(host), running(host, networkd):
            # It takes the taps out of the bridge, of which its file says nothing.
            until("guests are cut off", lambda: "master" not in link(host, TAPS[0]))
            assert not here.gets_outside(SHORT)
            (finding,) = self.finding(here)
            assert finding.code == "networkd" and file in finding.message
            host.run("sh", "-e", "-c", str(finding.remedy))
            for device in (BRIDGE, *TAPS):
                until("left alone", lambda d=device: state(d) == "unmanaged")
            assert self.finding(here) == []
            for tap in TAPS:  # what it did before, nobody undoes
                host.run("ip", "link", "set", tap, "master", BRIDGE, "up")
            host.run("ip", "address", "replace", f"{GATEWAY}/24", "dev", BRIDGE)
            until("guests are back", lambda: here.gets_outside(SHORT))
            assert here.reaches_the_other()

    def test_networkmanager_takes_no_device_of_ours_after_the_remedy(
        self, here: Situation
    ) -> None:
        host = here.host
        need("NetworkManager")
        need("nmcli")
        private(host, "/etc/NetworkManager", "/var/lib/NetworkManager")
        host.run("sh", "-c", "rm -rf /etc/NetworkManager/*")
        host.run("sh", "-c", "cat > /etc/NetworkManager/NetworkManager.conf",
                 input="[main]\nplugins=keyfile\n"
                 "dns=none\nrc-manager=unmanaged\n")  # fmt: skip

        def state() -> str:
            lines = host.run("nmcli", "-t", "-f", "DEVICE,STATE", "device").stdout
            states = dict(line.split(":", 1) for line in lines.splitlines())
            return states.get(BRIDGE, "")

        with message_bus(host), running(host, "NetworkManager", "--no-daemon"):
            until("NetworkManager", lambda: succeeds(host, "nmcli", "general"))
            until("that it manages it", lambda: state() not in ("", "unmanaged"))
            (finding,) = self.finding(here)
            assert finding.code == "networkmanager"
            host.run("sh", "-e", "-c", str(finding.remedy))
            until("left alone", lambda: state() == "unmanaged")
            assert self.finding(here) == [] and here.gets_outside()


class TestSettings:
    def test_forwarding_that_is_switched_off_again_is_found(
        self, here: Situation
    ) -> None:
        here.set("net/ipv4/ip_forward=0")
        assert not here.gets_outside(SHORT) and here.has_dns()
        (finding,) = here.findings()
        assert (finding.code, finding.severity) == ("forwarding-off", "error")
        here.cure()
        assert here.findings() == [] and here.gets_outside()

    def test_forwarding_that_is_switched_off_on_a_bridge_is_found(
        self, here: Situation
    ) -> None:
        here.set(f"net/ipv4/conf/{BRIDGE}/forwarding=0")
        assert not here.gets_outside(SHORT)
        assert here.codes() == ["forwarding-off"]
        here.cure()
        assert here.findings() == [] and here.gets_outside()

    def test_forwarding_of_ipv6_that_is_switched_off_is_found(
        self, here: Situation
    ) -> None:
        here.set("net/ipv6/conf/all/forwarding=0")
        (finding,) = here.findings()
        assert finding.code == "forwarding-off" and "IPv6" in finding.message
        here.cure()
        assert here.findings() == []

    @pytest.mark.parametrize("value", ["1", "2"])
    def test_rp_filter_does_no_harm_with_one_way_out(
        self, here: Situation, value: str
    ) -> None:
        here.set(f"net/ipv4/conf/all/rp_filter={value}")
        assert here.gets_outside() and here.hears_dhcp() and here.has_dns()
        assert here.findings() == []

    def test_a_strict_rp_filter_is_found_with_two_ways_out(
        self, here: Situation
    ) -> None:
        """Answers come by the second: what is sent goes by the first."""
        host, world = here.host, here.lab.world
        host.run("ip", "link", "add", "eth1", "type", "veth", "peer", "name", "eth1",
                 "netns", str(world.pid))  # fmt: skip
        for space, number in ((host, 2), (world, 1)):
            space.run("ip", "address", "add", f"198.51.100.{number}/24", "dev", "eth1")
            space.run("ip", "link", "set", "eth1", "up")
        host.run(
            "ip", "route", "add", "default", "via", "198.51.100.1", "metric", "500"
        )
        world.run("ip", "route", "add", "192.0.2.2/32", "via", "198.51.100.2",
                  "src", WORLD)  # fmt: skip
        world.run("sysctl", "-q", "-w", "net/ipv4/conf/all/rp_filter=0",
                  "net/ipv4/conf/eth0/rp_filter=0")  # fmt: skip
        here.set("net/ipv4/conf/all/rp_filter=0", "net/ipv4/conf/eth0/rp_filter=0",
                 "net/ipv4/conf/eth1/rp_filter=0")  # fmt: skip
        assert here.gets_outside() and here.findings() == []
        here.set("net/ipv4/conf/eth1/rp_filter=1")
        assert not here.gets_outside(SHORT)
        (finding,) = here.findings()
        assert (finding.code, finding.severity) == ("rp-filter", "warning")
        here.cure()
        assert here.findings() == [] and here.gets_outside()

    def test_ipv6_that_is_switched_off_is_told(self, here: Situation) -> None:
        here.set("net/ipv6/conf/all/disable_ipv6=1")
        (finding,) = here.findings()
        assert (finding.code, finding.severity) == ("no-ipv6", "info")
        assert here.gets_outside() and here.hears_dhcp()
        here.cure()
        assert here.findings() == []


class TestSubnets:
    @pytest.mark.parametrize("net", ["10.99.0.0/25", "10.0.0.0/8"])
    def test_a_vpn_that_comes_up_over_our_subnet_is_found(
        self, here: Situation, net: str
    ) -> None:
        here.host.run("ip", "link", "add", "vpn0", "type", "bridge")
        here.host.run("ip", "link", "set", "vpn0", "up")
        here.host.run("ip", "route", "add", net, "dev", "vpn0")
        (finding,) = here.findings()
        assert finding.code == "subnet-collision"
        assert f"{net} (vpn0)" in finding.message and "10.99.0.0/24" in finding.message
        here.host.run("ip", "link", "del", "vpn0")
        assert here.findings() == []
