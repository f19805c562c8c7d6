# SPDX-License-Identifier: LGPL-2.1-or-later
"""What the holder of a tap's descriptor may do to it, and to others by it.

A tap's own ioctls ask for no capability: whoever has the descriptor may use them.
"""

from __future__ import annotations

import errno
import os
import socket
import struct
from collections.abc import Iterator
from functools import partial

from attack import acts
from attack.agent import Agent
from attack.registry import attack, control
from attack.site import (
    LAN,
    PATIENCE,
    Card,
    Ground,
    Site,
    Wire,
    arrives,
    drain,
    eventually,
)
from lab import OTHER, USER
from support import frames, host

LOW = "00:00:00:00:00:05"  # lower than any a bridge's other ports have
REFUSALS = (errno.EPERM, errno.EACCES)


@attack(
    "low MAC on the host's side",
    "the bridge takes it for its own: all that talk to the host lose it",
)
def low_mac(site: Site) -> str | None:
    for ground in site.all_grounds():
        before = site.bridge_mac(ground.attacker.bridge)
        control(ground.attacker.host_mac(LOW) == 0, "the kernel takes the MAC")
        after = site.bridge_mac(ground.attacker.bridge)
        if after != before:
            return f"{ground.name}: the bridge's MAC went from {before} to {after}"
        if harm := ground.harm():
            return harm
    return None


def steal(ground: Ground, mac: str) -> str | None:
    """The attacker takes a MAC for its tap's host side."""
    control(ground.attacker.host_mac(mac) == 0, "the kernel takes the MAC")
    return ground.harm()


@attack(
    "another guest's MAC on the host's side",
    "the bridge delivers to the host what is for that guest",
)
def mac_of_guest(site: Site) -> str | None:
    for ground in site.all_grounds():
        if harm := steal(ground, ground.victim.mac):
            return harm
    return None


@attack(
    "the LAN router's MAC on the host's side",
    "guests lose the way out, and their traffic ends at the host",
)
def mac_of_router(site: Site) -> str | None:
    for ground in site.all_grounds():
        if harm := steal(ground, ground.station.mac):
            return harm
    return None


@attack(
    "the bridge's own MAC on the host's side, then leaving",
    "the host's entry goes with the tap, and nobody reaches the host",
)
def mac_of_bridge(site: Site) -> str | None:
    for ground in site.all_grounds():
        bridge = site.bridge_mac(ground.attacker.bridge)
        control(ground.attacker.host_mac(bridge) == 0, "the kernel takes the MAC")
        site.user.forget()
        control(site.is_gone(ground.attacker.ifname), "the tap goes with its holder")
        with frames.Station(site.lab.host, ground.victim.bridge) as end:
            frame, good = ground.victim.hello(bridge), ground.victim.hello()
            wire = ground.victim.wire
            heard = partial(arrives, frame, wire, end, good)
            if not eventually(heard):
                return f"{ground.name}: the host hears its guests no more"
    return None


@attack(
    "MACs changed 5,000 times",
    "who restores them is kept busy until others wait, or gives up",
)
def mac_storm(site: Site) -> str | None:
    for ground in site.all_grounds():
        macs = [frames.mac(m) for m in (ground.victim.mac, ground.station.mac, LOW)]
        done = ground.attacker.agent(acts.host_macs, ground.attacker.number, macs, 5000)
        control(done > 0, "the kernel takes the MACs")
        if harm := ground.harm():
            return harm
        site.card(site.other, ground.name, 62)  # others are served
    return None


@attack(
    "the MAC of a guest that is yet to come",
    "the victim is cut off from its first moment on",
)
def mac_of_a_later_guest(site: Site) -> str | None:
    for name in site.grounds:
        card = site.card(site.other, name, 61, **named(site))
        mac = card.mac
        site.other.forget()
        control(site.is_gone(card.ifname), "the victim's tap goes")
        thief = site.card(site.user, name, 60)
        control(thief.host_mac(mac) == 0, "the kernel takes the MAC")
        victim = site.card(site.other, name, 61, **named(site))
        if site.name == "peer":
            victim.party = card.party  # a guest keeps its MAC
        control(victim.mac == mac, "the victim has its MAC again")
        station = site.router
        if victim.bridge != LAN:
            station = site.stack.enter_context(
                frames.Station(site.lab.host, victim.bridge)
            )
        if harm := Ground(name, thief, victim, station).harm():
            return harm
    return None


def named(site: Site) -> dict[str, str]:
    """A guest's name gives it the same MAC each time."""
    return {"name": "victim"} if site.name == "tapster" else {}


def left_behind(site: Site, card: Card) -> str | None:
    """The holder goes, and the tap stays."""
    card.release()
    card.agent.forget()
    if not site.is_gone(card.ifname):
        return f"{card.ifname} was there {PATIENCE:g} seconds after its holder"
    return None


@attack(
    "persist, and leave",
    "ports pile up that nobody uses, until the bridge has no place",
)
def persist(site: Site) -> str | None:
    card = site.card(site.user, site.grounds[0])
    control(card.agent(acts.persist, card.number) == 0, "persist is allowed")
    return left_behind(site, card)


@attack(
    "persist, fake the carrier off, and leave",
    "a tap that looks closed while it is held, and held while it is not",
)
def persist_without_carrier(site: Site) -> str | None:
    card = site.card(site.user, site.grounds[0])
    control(card.ioctl(acts.TUNSETCARRIER, struct.pack("i", 0)) == 0, "no carrier")
    control(card.agent(acts.persist, card.number) == 0, "persist is allowed")
    return left_behind(site, card)


@attack(
    "persist on and off 2,000 times, then leave persistent",
    "who watches loses count, and the tap stays",
)
def persist_flapping(site: Site) -> str | None:
    card = site.card(site.user, site.grounds[0])
    for _ in range(10):
        card.agent(acts.persist_often, card.number, 200)
    return left_behind(site, card)


def opened_again(site: Site, ground: Ground, agent: Agent) -> str | None:
    """Open the attacker's tap, which nobody holds any more, by its name, at once and
    for as long as it is there. What counts is what that is worth a while later."""
    card = ground.attacker
    passed, fd = agent(acts.reattach_soon, card.ifname, PATIENCE)
    if fd < 0:
        return None
    wire = Wire(agent, fd, card.mac)
    site.stack.callback(os.close, wire.fileno())

    def is_cut_off() -> bool:
        return not arrives(card.hello(), wire, ground.station, card.hello(), 0.5)

    if eventually(is_cut_off):
        return None
    return (
        f"{ground.name}: {card.ifname} was opened after {passed * 1000:.0f} ms,"
        f" and is on the network {PATIENCE:g} seconds later"
    )


@attack(
    "persist, be killed, come back by name",
    "network without asking: after a revocation, beyond a quota",
)
def come_back(site: Site) -> str | None:
    for name in site.grounds:
        agent = site.agent(USER)
        ground = site.ground(name, by=agent)
        control(agent(acts.persist, ground.attacker.number) == 0, "persist is allowed")
        ground.attacker.release()
        agent.close()
        if found := opened_again(site, ground, site.user):
            return found
    return None


@attack(
    "another user takes over a tap that was left persistent",
    "a NIC, with its MAC and address, that was granted to somebody else",
)
def take_over(site: Site) -> str | None:
    for ground in site.all_grounds():
        card = ground.attacker
        control(card.agent(acts.persist, card.number) == 0, "persist is allowed")
        card.agent.forget()
        if found := opened_again(site, ground, site.other):
            return found
    return None


@attack(
    "owner and group changed to another user's, persist, and leave",
    "the tap is another's, who is asked about it, and may open it",
)
def change_owner(site: Site) -> str | None:
    for ground in site.all_grounds():
        card = ground.attacker
        control(card.ioctl(acts.TUNSETOWNER, OTHER) == 0, "TUNSETOWNER is allowed")
        control(card.ioctl(acts.TUNSETGROUP, OTHER) == 0, "TUNSETGROUP is allowed")
        control(card.agent(acts.persist, card.number) == 0, "persist is allowed")
        card.release()
        card.agent.forget()
        if found := opened_again(site, ground, site.other):
            return found
    return None


@attack(
    "owner changed to root while it is held",
    "who asks the host whose port this is hears another's name",
)
def deny_owner(site: Site) -> str | None:
    card = site.card(site.user, site.grounds[0])
    control(card.ioctl(acts.TUNSETOWNER, 0) == 0, "TUNSETOWNER is allowed")
    if site.name == "peer":
        path = f"/sys/class/net/{card.ifname}/owner"
        owner = site.lab.host.run("cat", path).stdout.strip()
        return f"the host has no other word than sysfs, which says uid {owner}"
    (nic,) = (n for n in host.nics(site.lab) if n["ifname"] == card.ifname)
    return None if nic["uid"] == USER else f"listed as uid {nic['uid']}'s"


@attack(
    "carrier faked off, on all taps of the quota",
    "they look closed, and as many again are granted",
    not_for_peer="it has no quotas",
)
def carrier_and_quota(site: Site) -> str | None:
    cards = [site.card(site.user, "lan", n) for n in range(16)]
    for card in cards:
        done = card.ioctl(acts.TUNSETCARRIER, struct.pack("i", 0))
        control(done == 0, "TUNSETCARRIER is allowed")
    granted = site.user(acts.attach_many, 4, network="lan").get("granted", 0)
    return f"{granted} more than {len(cards)} were granted" if granted else None


@attack(
    "carrier flapped 2,000 times",
    "the broker takes the tap for gone, or others wait for it",
)
def carrier_flapping(site: Site) -> str | None:
    for ground in site.all_grounds():
        ground.attacker.agent(
            acts.flap, ground.attacker.number, acts.TUNSETCARRIER, 2000
        )
        if harm := ground.harm():
            return harm
        site.card(site.other, ground.name, 62)
    return None


@attack(
    "persistent taps beyond the quota",
    "each round leaves some, until the host has no place for others",
)
def persist_and_quota(site: Site) -> str | None:
    limit = 16
    for _ in range(3):
        for number in range(limit):
            try:
                card = site.card(site.user, site.grounds[0], number)
            except Exception as error:  # noqa: BLE001 - QuotaExceeded is good
                control(type(error).__name__ == "QuotaExceeded", repr(error))
                break
            card.agent(acts.persist, card.number)
        site.user.forget()

    def count() -> int:
        done = site.lab.host.run("sh", "-c", "ls /sys/class/net")
        return sum(name.startswith("tap") and not name.startswith("tapbr")
                   for name in done.stdout.split())  # fmt: skip

    if not eventually(lambda: count() <= limit):
        return f"{count()} taps of a user that holds none"
    return None


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
        card.agent(acts.persist, card.number)
        control(card.agent(acts.send, card.number, card.hello()) == 0, "it sends")
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
    found = {}
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
    for agent_line in ("true",):
        script = f"ip link set {card.ifname} netns $$ && {agent_line}"
        status, _ = card.agent(
            acts.run, "unshare", "--user", "--map-root-user", "--net", "sh", "-c",
            f"nsenter --net=/proc/{card.agent.pid}/ns/net {script}",
        )  # fmt: skip
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
