# SPDX-License-Identifier: LGPL-2.1-or-later
"""What the holder of a tap's descriptor may do to it, and to others by it.

A tap's own ioctls ask for no capability: whoever has the descriptor may use them.
"""

from __future__ import annotations

import os
import struct
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
    eventually,
)
from lab import OTHER, USER
from support import frames, host

LOW = "00:00:00:00:00:05"  # lower than any a bridge's other ports have


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
            return f"{ground.name}: the bridge's MAC became {after}"
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
    when = "at once" if passed < 0.1 else f"after {passed:.1f} seconds"
    return (
        f"{ground.name}: {card.ifname} was opened {when},"
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
