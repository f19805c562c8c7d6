# SPDX-License-Identifier: LGPL-2.1-or-later
"""Where attacks happen: a host with a LAN, two users, and somebody who hands out
taps. What there is of it is the same whoever that is.

A *ground* is a segment that an attacker and a victim have taps on, each from its
own user: the LAN's bridge, or a network of the broker's.
"""

from __future__ import annotations

import os
import select
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import Any

from attack import acts
from attack.agent import Agent
from attack.registry import control
from lab import OTHER, USER, Daemon, Lab
from support import frames, host
from support.frames import BROADCAST, PLAIN, Station, Tap
from support.guest import Guest
from support.leases import party
from support.spoofs import Party, Scene

LAN = "br0"
OFFICE, OFFICE_TOO = "br7", "office7"  # a bridge that users may not have
LAN4, LAN6 = "10.99.0.", "2001:db8:1::"
PATIENCE = 3.0  # seconds in which damage has to be undone
LAN_SETUP = f"""
ip link add {LAN} type bridge mcast_snooping 0
ip link add lan0 type veth peer name lan0 netns WORLD
ip link set lan0 master {LAN}
for each in /proc/sys/net/bridge/bridge-nf-call-*; do
    [ ! -e $each ] || echo 0 > $each
done
sysctl -qw net.ipv6.conf.lan0.disable_ipv6=1
ip address add {LAN4}1/24 dev {LAN}
ip link set lan0 up
ip link set {LAN} up
ip link add {OFFICE} type bridge
ip link property add dev {OFFICE} altname {OFFICE_TOO}
ip link set {OFFICE} up
"""


class Wire(Tap):
    """An attacker's tap: what goes in is written by the attacker's own process;
    what comes out is read by us, through a duplicate that is ours to close."""

    def __init__(self, agent: Agent, number: int, mac: str) -> None:
        super().__init__(agent.lend(number), mac)
        self._agent, self._number = agent, number

    def send(self, frame: bytes) -> None:
        failed = self._agent(acts.send, self._number, frame)
        if failed:
            raise OSError(failed, "write to the tap")


@dataclass
class Card:
    """A guest's card: a tap that an agent holds as `number`."""

    agent: Agent
    number: int
    ifname: str
    bridge: str
    party: Party
    stack: ExitStack
    told: dict[str, Any] = field(default_factory=dict)
    _wire: Wire | None = None

    @property
    def mac(self) -> str:
        return self.party.mac

    @property
    def ipv4(self) -> str:
        return self.party.ipv4

    @property
    def wire(self) -> Wire:
        """The card's end of the cable; it keeps the tap open until the round's end,
        or `release()`."""
        if self._wire is None:
            self._wire = Wire(self.agent, self.number, self.mac)
            self.stack.callback(self.release)
        return self._wire

    @property
    def fd(self) -> int:
        return self.wire.fileno()

    def release(self) -> None:
        wire, self._wire = self._wire, None
        if wire is not None:
            os.close(wire.fileno())

    def ioctl(self, number: int, argument: int | bytes = 0) -> int:
        return int(self.agent(acts.ioctl, self.number, number, argument))

    def host_mac(self, mac: str) -> int:
        return int(self.agent(acts.host_mac, self.number, frames.mac(mac)))

    def hello(self, to: str = BROADCAST) -> bytes:
        """An ARP request in its own name."""
        return frames.arp(self.mac, self.mac, self.ipv4, self.ipv4, dst=to)

    def guest(self) -> Guest:
        """A guest on it. Its gateway is known."""
        guest = Guest(self)  # type: ignore[arg-type]  # it has what is needed
        guest.tap = self.wire
        guest.find_router()
        return guest


@dataclass
class Ground:
    """An attacker, a victim, and a third station that both may talk to: the LAN's
    router, or the host's own end of the segment."""

    name: str
    attacker: Card
    victim: Card
    station: Station

    def start(self) -> None:
        """:raises NotShown: the victim cannot be reached anyway."""
        self.victim.wire.send(self.victim.hello())  # bridges learn it by this
        control(self.victim_hears(), f"{self.name}: the victim hears the station")
        control(self.victim_is_heard(), f"{self.name}: the station hears the victim")

    def victim_hears(self) -> bool:
        """Whether a frame for the victim gets to it."""
        mac = self.station.mac
        frame = frames.ethernet(mac, self.victim.mac, PLAIN, b"")
        good = frames.ethernet(mac, BROADCAST, PLAIN, b"")
        return arrives(frame, self.station, self.victim.wire, good)

    def victim_is_heard(self) -> bool:
        """Whether what the victim sends to the station gets there."""
        good = self.victim.hello()
        to = self.victim.hello(self.station.mac)
        return arrives(to, self.victim.wire, self.station, good)

    def harm(self) -> str | None:
        """What the victim lacks, still lacking it after a while."""
        if not eventually(self.victim_hears):
            return f"{self.name}: the victim gets nothing that is sent to it"
        if not eventually(self.victim_is_heard):
            return f"{self.name}: nothing of the victim's gets to the router"
        return None


def arrives(
    frame: bytes,
    sender: frames.Wire,
    receiver: frames.Wire,
    good: bytes,
    seconds: float = 5,
) -> bool:
    """As in support.frames; where nothing arrives at all that is no, too. What
    waits at the receiver is dropped first: a queue that is full proves nothing."""
    drain(receiver)
    try:
        return frames.arrives(frame, sender, receiver, good, seconds)
    except (AssertionError, OSError):
        return False


def drain(wire: frames.Wire) -> int:
    """Read all that waits there; how many frames that was."""
    count, poll = 0, select.poll()
    poll.register(wire.fileno(), select.POLLIN)
    while poll.poll(0):
        next(wire.frames(1))
        count += 1
    return count


def eventually(condition: Callable[[], bool], seconds: float = PATIENCE) -> bool:
    """Whether it becomes true within the time."""
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.02)
    return True


class Site(ABC):
    """A host whose users get taps. `close()` ends all of it."""

    name: str
    bridge_conf: str  # as it is between attacks
    grounds: tuple[str, ...]  # each with taps of two users
    daemon: Daemon  # tapster's alone; nobody else has one

    def __init__(self, lab: Lab) -> None:
        self.lab = lab
        self._stack = ExitStack()
        self._round = ExitStack()
        self._scenes: dict[tuple[str, bool], Scene] = {}
        with ExitStack() as undo:
            setup = LAN_SETUP.replace("WORLD", str(lab.world.pid))
            lab.host.run("sh", "-ec", setup)
            quiet = "echo 1 > /proc/sys/net/ipv6/conf/lan0/disable_ipv6"
            lab.world.run("sh", "-c", quiet)
            lab.world.run("ip", "link", "set", "lan0", "up")
            self.router = undo.enter_context(Station(lab.world, "lan0"))
            self.user = self.agent(USER, undo)
            self.other = self.agent(OTHER, undo)
            self._stack = undo.pop_all()

    def agent(self, uid: int, stack: ExitStack | None = None) -> Agent:
        """Another process of a user's; it ends with the round."""
        agent = Agent(self.lab.host, uid, self.lab.python)
        (self._round if stack is None else stack).callback(agent.close)
        return agent

    def close(self) -> None:
        self._round.close()
        self._stack.close()

    def __enter__(self) -> Site:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @contextmanager
    def allowing(self, text: str) -> Iterator[None]:
        """That is in bridge.conf for a while."""
        self.lab.bridge_conf(text)
        try:
            yield
        finally:
            self.lab.bridge_conf(self.bridge_conf)

    @abstractmethod
    def refusal(self, agent: Agent, bridge: str | bytes) -> str | None:
        """Why a tap on that bridge is not granted; None if it is."""

    @contextmanager
    def round(self) -> Iterator[None]:
        """One attack; at its end nobody holds anything."""
        try:
            yield
        finally:
            self._scenes.clear()
            self._round.close()
            self._round = ExitStack()
            for agent in (self.user, self.other):
                agent.forget()
            self.settle()

    @abstractmethod
    def settle(self) -> None:
        """Wait until what nobody holds is gone; remove what stays."""

    @abstractmethod
    def card(self, agent: Agent, ground: str, number: int = 60, **what: Any) -> Card:
        """A tap for that user. `number` makes the addresses on the LAN."""

    @property
    def stack(self) -> ExitStack:
        """What is closed when the round is over."""
        return self._round

    def ground(self, name: str, *, by: Agent | None = None) -> Ground:
        """Two users' taps on it; the attacker is another process if need be."""
        attacker = self.card(by or self.user, name, 60)
        victim = self.card(self.other, name, 61)
        station = self.router
        if attacker.bridge != LAN:
            station = self._round.enter_context(Station(self.lab.host, attacker.bridge))
        bridge = attacker.bridge  # one that is new may not send at once
        control(eventually(lambda: self.is_up(bridge)), f"{bridge} is up")
        ground = Ground(name, attacker, victim, station)
        ground.start()
        return ground

    def all_grounds(self) -> Iterator[Ground]:
        for name in self.grounds:
            yield self.ground(name)

    def scene(self, ground: str, *, trusted: bool = False) -> Scene:
        """The ground as support/spoofs.py has it; the same one for a whole round."""
        key = ground, trusted
        if key not in self._scenes:
            self._scenes[key] = self._make_scene(ground, trusted)
        return self._scenes[key]

    @abstractmethod
    def _make_scene(self, ground: str, trusted: bool) -> Scene: ...

    def _scene(self, ground: Ground, *, trusted: bool = False) -> Scene:
        station, me, other = ground.station, ground.attacker, ground.victim
        gateway = party(station.mac, f"{LAN4}1", f"{LAN6}1")
        if me.bridge != LAN:
            guest = Guest(me)  # type: ignore[arg-type]  # for its gateway's address
            ipv6 = me.party.ipv6.rpartition("::")[0] + "::1"
            gateway = party(station.mac, guest.gateway, ipv6)
        return Scene(me=me.party, other=other.party, gateway=gateway, to=other.mac,
                     sender=me.wire, receiver=other.wire, trusted=trusted)  # fmt: skip

    # Looking

    def bridge_mac(self, bridge: str) -> str:
        return str(host.link(self.lab.host, bridge)["address"])

    def exists(self, device: str) -> bool:
        return os.path.exists(host.inside(self.lab, f"/sys/class/net/{device}"))

    def is_up(self, device: str) -> bool:
        path = host.inside(self.lab, f"/sys/class/net/{device}/operstate")
        with open(path) as file:
            return file.read() == "up\n"

    def is_gone(self, device: str, seconds: float = PATIENCE) -> bool:
        """Whether the device goes within the time."""
        return eventually(lambda: not self.exists(device), seconds)
