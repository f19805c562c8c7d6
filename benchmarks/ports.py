# SPDX-License-Identifier: LGPL-2.1-or-later
"""The two ports that are compared, and what goes through them.

Each is a guest's tap on a bridge, with a tap on the same bridge for the far end.
The plain one is in a network namespace without any table of nftables, as it
would be on a host without us.
"""

from __future__ import annotations

import fcntl
import json
import os
import struct
import subprocess
from collections.abc import Callable
from dataclasses import dataclass, replace
from ipaddress import IPv4Address, IPv6Address
from time import perf_counter
from typing import Any, TypeVar

from benchmarks.space import Failed
from tapster.kernel import namespaces, tun

FAR_MAC = "02:fa:00:00:00:01"
FAR_IPV4, FAR_IPV6 = "10.99.0.1", "fd99::1"
BATCH = 16  # frames sent before as many are read

_TUNSETOFFLOAD = 0x400454D0
_OFFLOADS = 0x1 | 0x2 | 0x4  # TUN_F_CSUM, TSO4, TSO6: what any VMM asks for
_VNET_HDR = 10
_BRIDGE_NF = "/proc/sys/net/bridge/bridge-nf-call-"
_T = TypeVar("_T")


class Host:
    """A network namespace: the one we are in, or a new one. `close()` closes its
    descriptor, and what is in a new one goes with the last tap in there."""

    def __init__(self, *, new: bool) -> None:
        here = os.open("/proc/self/ns/net", os.O_RDONLY | os.O_CLOEXEC)
        if not new:
            self.fd = here
            return
        namespaces.unshare(namespaces.CLONE_NEWNET)
        self.fd = os.open("/proc/self/ns/net", os.O_RDONLY | os.O_CLOEXEC)
        namespaces.setns(here, namespaces.CLONE_NEWNET)
        os.close(here)

    def close(self) -> None:
        os.close(self.fd)

    def call(self, function: Callable[[], _T]) -> _T:
        """In there; this process has no other thread."""
        here = os.open("/proc/self/ns/net", os.O_RDONLY | os.O_CLOEXEC)
        try:
            namespaces.setns(self.fd, namespaces.CLONE_NEWNET)
            return function()
        finally:
            namespaces.setns(here, namespaces.CLONE_NEWNET)
            os.close(here)

    def run(self, *command: str) -> str:
        """:raise Failed: the command has."""

        def work() -> subprocess.CompletedProcess[str]:
            return subprocess.run(command, capture_output=True, text=True)

        done = self.call(work)
        if done.returncode:
            raise Failed(f"{' '.join(command)}: {done.stderr.strip()}")
        return done.stdout

    def bridge_netfilter(self, on: bool) -> bool:
        """Whether bridged packets pass `inet` tables too; False if they never do."""

        def work() -> bool:
            for tables in ("iptables", "ip6tables", "arptables"):
                try:
                    with open(_BRIDGE_NF + tables, "w", encoding="ascii") as file:
                        file.write(str(int(on)))
                except FileNotFoundError:
                    return False
            return True

        return self.call(work)


@dataclass
class Port:
    """A guest's port: the descriptors of its tap and of the far end's."""

    host: Host
    bridge: str
    ifname: str
    fd: int
    far_name: str
    far: int
    mac: str
    ipv4: str
    ipv6: str
    owner: Any = None  # of `fd`, which ends with it

    def arrived(self, name: str) -> int:
        """Frames that were read from that tap, as the kernel counts them."""
        found = json.loads(self.host.run("ip", "-j", "-s", "link", "show", name))
        return int(found[0]["stats64"]["tx"]["packets"])


def far_end(host: Host, bridge: str, name: str) -> int:
    """A station on a bridge, which knows where it is; its descriptor."""
    fd = host.call(lambda: tun.create(name, vnet_hdr=True))
    host.run("ip", "link", "set", name, "master", bridge, "up")
    host.run("bridge", "fdb", "replace", FAR_MAC, "dev", name, "master", "static")
    fcntl.ioctl(fd, _TUNSETOFFLOAD, _OFFLOADS)
    return fd


def checked(host: Host, far_name: str, nic: Any) -> Port:
    """The port of a NIC that the broker made."""
    if None in (nic.mac, nic.ipv4, nic.ipv6):
        raise Failed(f"{nic.ifname} has no address to be checked: {nic}")
    fcntl.ioctl(nic.fd, _TUNSETOFFLOAD, _OFFLOADS)
    far = far_end(host, nic.bridge, far_name)
    return Port(
        host, nic.bridge, nic.ifname, nic.fd, far_name, far,
        nic.mac, nic.ipv4, nic.ipv6, nic,
    )  # fmt: skip


def plain(host: Host) -> Port:
    """A tap on a bridge, with nothing in between."""
    host.run("ip", "link", "add", "br0", "type", "bridge")
    host.run("ip", "link", "set", "br0", "up")
    mac, name = "02:fa:00:00:00:02", "tap0"
    fd = host.call(lambda: tun.create(name, vnet_hdr=True))
    host.run("ip", "link", "set", name, "master", "br0", "up")
    host.run("bridge", "fdb", "replace", mac, "dev", name, "master", "static")
    fcntl.ioctl(fd, _TUNSETOFFLOAD, _OFFLOADS)
    far = far_end(host, "br0", "far")
    return Port(host, "br0", name, fd, "far", far, mac, "10.98.0.2", "fd98::2")


# What is sent


@dataclass(frozen=True)
class Traffic:
    """Frames of one kind, one way. `size` is that of the frame."""

    version: int
    size: int
    to_guest: bool = False
    segments: bool = False  # one frame that stands for many of TCP

    def frame(self, port: Port) -> bytes:
        """With its vnet header, checksums left to the receiver as VMMs do."""
        macs, addresses = (port.mac, FAR_MAC), (port.ipv4, FAR_IPV4)
        if self.version == 6:
            addresses = (port.ipv6, FAR_IPV6)
        if self.to_guest:
            macs, addresses = macs[::-1], addresses[::-1]
        head = b"".join(bytes.fromhex(mac.replace(":", "")) for mac in macs[::-1])
        network = 20 if self.version == 4 else 40
        length = self.size - 14 - network
        if self.segments:
            protocol, place = 6, 16
            inner = struct.pack("!HHIIBBHHH", 9000, 9001, 1, 1, 80, 16, 65535, 0, 0)
        else:
            protocol, place = 17, 6
            inner = struct.pack("!HHHH", 9000, 9001, length, 0)
        inner += bytes(length - len(inner))
        kind, packet = _packet(self.version, protocol, addresses, inner)
        gso = (0, 0, 0)
        if self.segments:
            gso = (1 if self.version == 4 else 4, 14 + network + 20, 1440)
        vnet = struct.pack("=BBHHHH", 1, *gso, 14 + network, place)
        return vnet + head + struct.pack("!H", kind) + packet


def _packet(
    version: int, protocol: int, addresses: tuple[str, str], inner: bytes
) -> tuple[int, bytes]:
    source, target = addresses
    if version == 6:
        head = struct.pack("!IHBB", 6 << 28, len(inner), protocol, 64)
        both = IPv6Address(source).packed + IPv6Address(target).packed
        return 0x86DD, head + both + inner
    both = IPv4Address(source).packed + IPv4Address(target).packed
    fields = [0x4500, 20 + len(inner), 1, 0x4000, 0x4000 | protocol, 0]
    total = sum(fields) + sum(struct.unpack("!4H", both))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    fields[-1] = ~total & 0xFFFF
    return 0x0800, struct.pack("!6H", *fields) + both + inner


class Stream:
    """Traffic through one port, sent and read by the process that times it."""

    def __init__(self, port: Port, traffic: Traffic) -> None:
        self._frame = traffic.frame(port)
        self._in, self._out = port.fd, port.far
        self._name = port.far_name
        if traffic.to_guest:
            self._in, self._out, self._name = port.far, port.fd, port.ifname
        self._port = port
        self._size = _VNET_HDR + traffic.size
        self._before = 0
        self.sent = 0

    def open(self) -> None:
        """Read what is there already, and see that a frame arrives whole."""
        _drain(self._in)
        _drain(self._out)
        os.write(self._in, self._frame)
        wanted = self._frame[_VNET_HDR:]
        if wanted not in [got[_VNET_HDR:] for got in _drain(self._out)]:
            raise Failed(f"{self._port.ifname}: a frame does not arrive")
        self._before, self.sent = self._port.arrived(self._name), 0

    def time(self, batches: int) -> float:
        """Seconds for so many times BATCH frames, sent and read."""
        write, read = os.write, os.read
        source, sink, frame, size = self._in, self._out, self._frame, self._size
        each = range(BATCH)
        start = perf_counter()
        for _ in range(batches):
            for _ in each:
                write(source, frame)
            for _ in each:
                read(sink, size)
        elapsed = perf_counter() - start
        self.sent += batches * BATCH
        return elapsed

    def check(self) -> None:
        """:raise Failed: the kernel counts other frames than were timed."""
        count = self._port.arrived(self._name) - self._before
        if not self.sent <= count <= self.sent + 16:  # a host has words of its own
            raise Failed(f"{self._name}: {self.sent} frames sent, {count} arrived")


def try_to_spoof(port: Port) -> None:
    """:raise Failed: the port is not checked, and measuring it says nothing."""
    mac, ipv4, ipv6 = "02:fa:00:00:00:03", "10.99.0.3", "fd99::3"
    for version in (4, 6):
        for other in (replace(port, mac=mac), replace(port, ipv4=ipv4, ipv6=ipv6)):
            frame = Traffic(version, 64).frame(other)
            os.write(port.fd, frame)
            if any(frame[_VNET_HDR:] in got for got in _drain(port.far)):
                raise Failed(f"{port.ifname} lets through what is not its guest's")


def _drain(fd: int) -> list[bytes]:
    found = []
    try:
        while True:
            found.append(os.read(fd, 1 << 17))
    except BlockingIOError:
        return found


def loop_cost(traffic: Traffic, batches: int) -> float:
    """Seconds that `Stream.time` takes for a frame where nothing happens."""
    write, read = os.write, os.read
    frame, each = bytes(_VNET_HDR + 20), range(BATCH)
    size = min(traffic.size, 64)  # copying is what a tap is for
    source = os.open("/dev/null", os.O_WRONLY | os.O_CLOEXEC)
    sink = os.open("/dev/zero", os.O_RDONLY | os.O_CLOEXEC)
    try:
        start = perf_counter()
        for _ in range(batches):
            for _ in each:
                write(source, frame)
            for _ in each:
                read(sink, size)
        return (perf_counter() - start) / batches / BATCH
    finally:
        os.close(source)
        os.close(sink)
