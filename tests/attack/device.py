# SPDX-License-Identifier: LGPL-2.1-or-later
"""What the holder of a tap, or anybody, may do to devices: settings, queues, programs.

Some of it is asked of the tap's descriptor, some of the kernel at large.
"""

from __future__ import annotations

import errno
import os
import socket
import struct
from collections.abc import Iterator

from attack import acts
from attack.registry import attack, control
from attack.site import (
    Card,
    Site,
    drain,
)
from support import frames, host

REFUSALS = (errno.EPERM, errno.EACCES)


@attack(
    "a second queue on another user's tap in use",
    "a share of the frames that are for the other guest",
)
def more_queues_on_anothers(site: Site) -> str | None:
    card = site.card(site.other, site.grounds[0])
    for flags in (0, acts.IFF_MULTI_QUEUE):
        _, failed = site.user(acts.reattach, card.ifname, flags)
        if not failed:
            return f"{card.ifname} was opened a second time"
    return None


@attack(
    "more queues on one's own tap",
    "descriptors that nobody granted, and that outlive the first one",
)
def more_queues(site: Site) -> str | None:
    card = site.card(site.user, site.grounds[0])
    for flags in (0, acts.IFF_MULTI_QUEUE):
        _, failed = site.user(acts.reattach, card.ifname, flags)
        if not failed:
            return f"{card.ifname} was opened a second time"
    for flags in (acts.IFF_DETACH_QUEUE, acts.IFF_ATTACH_QUEUE):
        if card.ioctl(acts.TUNSETQUEUE, struct.pack("16sH22x", b"", flags)) == 0:
            return f"TUNSETQUEUE {flags:#x} was taken"
    return None


@attack("a tap of one's own, on the host", "a device that was never asked for")
def make_a_tap(site: Site) -> str | None:
    for name in ("tap%d", "evil0", "tapster0"):
        fd, failed = site.user(acts.reattach, name)
        if fd >= 0:
            return f"{name} was made"
        control(failed in REFUSALS, f"refused for being forbidden: {failed}")
    return None


@attack(
    "the descriptor of a tap that was taken away, used again",
    "who was detached stays on the network, or makes it anew",
)
def after_detach(site: Site) -> str | None:
    for name in site.grounds:
        card = site.card(site.user, name)
        control(card.agent(acts.send, card.number, card.hello()) == 0, "it sends")
        card.agent(acts.persist, card.number)
        site.lab.host.run("ip", "link", "del", card.ifname)
        if card.agent(acts.send, card.number, card.hello()) == 0:
            return f"{name}: a frame was taken by a tap that was removed"
        request = struct.pack("16sH22x", card.ifname.encode(), 0x1002)
        if card.ioctl(0x400454CA, request) == 0:
            return f"{name}: {card.ifname} was made again by its old descriptor"
    return None


@attack(
    "MTU, flags and name by netdevice(7)",
    "the bridge's MTU falls for all, a port goes promiscuous, names deceive",
)
def device_settings(site: Site) -> str | None:
    card = site.card(site.user, site.grounds[0])
    before = settings(site, card)
    for number, payload in (
        (acts.SIOCSIFMTU, struct.pack("i20x", 68)),
        (acts.SIOCSIFFLAGS, struct.pack("H22x", 0)),
        (acts.SIOCSIFFLAGS, struct.pack("H22x", 0x0100 | 1)),
        (acts.SIOCSIFNAME, b"evil0".ljust(24, b"\0")),
    ):
        for name in (card.ifname, card.bridge):
            failed = card.agent(acts.device_ioctl, name, number, payload)
            if failed not in REFUSALS:
                return f"{number:#x} on {name}: {os.strerror(failed)}"
        card.ioctl(number, struct.pack("16s24s", card.ifname.encode(), payload))
    return changed(site, card, before)


def settings(site: Site, card: Card) -> dict[str, str]:
    """What the host's tools say of the tap's and the bridge's settings."""
    words = ("mtu", "flags", "ifalias", "altnames", "master", "operstate")
    found: dict[str, str] = {}
    for name in (card.ifname, card.bridge):
        link = host.link(site.lab.host, name)
        found |= {f"{name} {word}": str(link.get(word)) for word in words}
    port = host.port(site.lab.host, card.ifname)
    return found | {f"port {key}": str(value) for key, value in port.items()}


def changed(site: Site, card: Card, before: dict[str, str]) -> str | None:
    after = settings(site, card)
    found = [key for key in before if before[key] != after.get(key)]
    return f"changed: {', '.join(found)}" if found else None


def commands(card: Card) -> Iterator[str]:
    """Words for ip and bridge(8), each of which would do harm."""
    tap, bridge = card.ifname, card.bridge
    yield f"ip link set {tap} mtu 68"
    yield f"ip link set {tap} nomaster"
    yield f"ip link set {tap} alias evil"
    yield f"ip link property add dev {tap} altname evil"
    yield f"ip link set {tap} netns {card.agent.pid}"
    yield f"ip link del {tap}"
    yield f"ip link set {bridge} down"
    yield f"ip link set {bridge} type bridge stp_state 1"
    yield f"ip address add 10.99.0.1/24 dev {tap}"
    yield f"bridge link set dev {tap} learning on flood on locked off isolated off"
    yield f"bridge fdb add 02:00:00:00:00:01 dev {tap} master static"
    yield f"bridge fdb replace {card.mac} dev {tap} master static"
    yield f"tc qdisc add dev {tap} ingress"
    yield "nft flush ruleset"
    yield "nft delete table bridge tapster"


@attack(
    "ports, bridges, filters and namespaces by netlink",
    "the port unlocked, out of the bridge, or moved where nobody filters",
)
def by_netlink(site: Site) -> str | None:
    card = site.card(site.user, site.grounds[0])
    before = settings(site, card)
    for line in commands(card):
        status, said = card.agent(acts.run, *line.split())
        if status == 0:
            return f"{line}: done"
        control("not permitted" in said.lower() or "denied" in said.lower(),
                f"{line}: refused for being forbidden: {said}")  # fmt: skip
    return changed(site, card, before)


@attack(
    "the same as root of a user namespace of one's own",
    "capabilities over a namespace, used on the host's devices",
)
def by_own_namespace(site: Site) -> str | None:
    card = site.card(site.user, site.grounds[0])
    status, said = card.agent(acts.run, "id", "-u", own_namespace=True)
    control((status, said) == (0, "0"), f"user namespaces can be made: {said}")
    before = settings(site, card)
    for line in commands(card):
        if "netns" not in line:
            status, _ = card.agent(acts.run, *line.split(), own_namespace=True)
            if status == 0:
                return f"{line}: done"
    move = f"ip link set {card.ifname} netns $$"
    status, _ = card.agent(acts.run, "sh", "-c", move, own_namespace=True)
    if status == 0:
        return "the tap was moved to a namespace of the holder's"
    return changed(site, card, before)


@attack("settings in sysfs", "the same by files: learning, flooding, owner, alias")
def by_sysfs(site: Site) -> str | None:
    card = site.card(site.user, site.grounds[0])
    before = settings(site, card)
    tap = f"/sys/class/net/{card.ifname}"
    for path in ("brport/learning", "brport/unicast_flood", "brport/isolated",
                 "ifalias", "mtu", "flags", "owner", "tx_queue_len",
                 "brport/priority", "brport/multicast_router"):  # fmt: skip
        if card.agent(acts.write, f"{tap}/{path}", "1") == 0:
            return f"{path} was written"
    forwarding = f"/sys/class/net/{card.bridge}/bridge/stp_state"
    if card.agent(acts.write, forwarding, "1") == 0:
        return "the bridge's stp_state was written"
    return changed(site, card, before)


@attack("link type changed", "frames of another kind on the bridge")
def link_type(site: Site) -> str | None:
    for ground in site.all_grounds():
        for kind in (0, 512, 772, 65534):
            if ground.attacker.ioctl(acts.TUNSETLINK, kind) == 0:
                return f"{ground.name}: ARPHRD {kind} was taken"
        if harm := ground.harm():
            return harm
    return None


@attack(
    "filter programs and transmit filters on the tap",
    "a program of the holder's that sees or drops frames for others",
)
def filters(site: Site) -> str | None:
    for ground in site.all_grounds():
        card = ground.attacker
        control(card.agent(acts.filter_program, card.number) == 0,
                "TUNATTACHFILTER is allowed")  # fmt: skip
        # struct tun_filter: flags, count, one address.
        card.ioctl(acts.TUNSETTXFILTER, struct.pack("HH", 0, 1) + bytes(6))
        if card.agent(acts.load_ebpf) == 0:
            return "a program was loaded for TUNSETSTEERINGEBPF"
        if harm := ground.harm():
            return harm
    return None


@attack(
    "send buffer of 2 GiB, to a guest that never reads",
    "frames without end wait in the host's memory",
)
def send_buffer(site: Site) -> str | None:
    for ground in site.all_grounds():
        card, victim = ground.attacker, ground.victim
        for size in (0, -1):
            if card.ioctl(acts.TUNSETSNDBUF, struct.pack("i", size)) == 0:
                return f"a send buffer of {size} was taken"
        done = card.ioctl(acts.TUNSETSNDBUF, struct.pack("i", 2**31 - 1))
        control(done == 0, "TUNSETSNDBUF is allowed")
        queue = int(host.link(site.lab.host, victim.ifname)["txqlen"])
        drain(victim.wire)
        card.wire.send(card.hello())
        flood = frames.arp(card.mac, card.mac, card.ipv4, card.ipv4, dst=victim.mac)
        card.agent(acts.send_all, card.number, [flood + bytes(1400)] * 100, 60)
        waiting = sum(1 for _ in victim.wire.frames(0.3))
        control(waiting, f"{ground.name}: frames get to the victim")
        if waiting > queue + 100:
            return f"{waiting} frames waited, in a queue of {queue}"
    return None


VNET = struct.Struct("<BBHHHH")  # flags, GSO type, header, GSO size, start, offset


@attack(
    "virtio headers that lie",
    "the kernel reads or writes beyond a frame, or builds giant ones",
)
def lying_headers(site: Site) -> str | None:
    for name in site.grounds:
        ground = site.ground(name)
        what = {"vnet": True} if site.name == "peer" else {"vnet_hdr": True}
        card = site.card(site.user, name, 62, **what)
        frame = card.hello()
        for header in (
            VNET.pack(1, 0, 0, 0, 65535, 65535), VNET.pack(1, 0, 0, 0, 60, 2),
            VNET.pack(0, 1, 65535, 1, 0, 0), VNET.pack(1, 1, 14, 0, 34, 16),
            VNET.pack(0, 77, 54, 1400, 0, 0), VNET.pack(1, 0x84, 54, 1, 34, 16),
            VNET.pack(1, 4, 65535, 65535, 20, 65535), VNET.pack(255, 255, 0, 0, 0, 0),
        ):  # fmt: skip
            for body in (frame, frame[:14], frame + bytes(60000), b"", frame[:20]):
                card.agent(acts.send, card.number, header + body)
        card.ioctl(acts.TUNSETVNETHDRSZ, struct.pack("i", 65535))
        card.ioctl(acts.TUNSETOFFLOAD, 0x7F)
        giant = max((len(f) for f in ground.victim.wire.frames(0.05)), default=0)
        if giant > 1514:
            return f"{name}: a frame of {giant} bytes got to the victim"
        if harm := ground.harm():
            return harm
    return None


@attack(
    "packet sockets on the bridge and on other taps",
    "all that passes the bridge is seen, and anything is sent",
)
def packet_sockets(site: Site) -> str | None:
    site.card(site.user, site.grounds[0])
    for kind in (socket.SOCK_RAW, socket.SOCK_DGRAM):
        failed = site.user(acts.packet_socket, kind)
        if failed not in REFUSALS:
            return f"socket(AF_PACKET): {os.strerror(failed)}"
    return None
