# SPDX-License-Identifier: LGPL-2.1-or-later
"""Holds each tap that was handed out to what it was made as.

What a holder does to its tap with the descriptor alone is undone as soon as the
kernel tells of it; what that did to others, whose forwarding entries a stolen MAC
displaces, in the same breath. It then ends as the policy says. What else is
changed takes CAP_NET_ADMIN, and is no attack, but an administrator's error or
another program's: it is looked at a moment later, since a tap that just goes away
is told of in the same way, and is told and put back.

Nobody is fought with: what has to be put back again and again ends in quarantine.
"""

from __future__ import annotations

import asyncio
import errno
import logging
from collections import deque
from collections.abc import Callable, Sequence

from ...errors import BrokerFailure
from ...kernel import rtnetlink
from ...kernel.netlink import NetlinkError, Reply, Request
from ...kernel.rtnetlink import Link, Neighbour
from ...model import OnTamper, State
from ..broker import Broker
from ..nics import expected as tamper
from ..nics.expected import Change
from ..nics.ledger import Nic
from .fdb import Entries, has_entry
from .orphans import Sweep

_log = logging.getLogger(__name__)

LOOK_AFTER = 0.05  # seconds until a tap is looked at that seems to be changed
RESTORATIONS, WITHIN = 5, 60.0  # of one NIC, seconds


class Guard:
    """Watches over all NICs of one broker."""

    def __init__(self, broker: Broker) -> None:
        self._broker = broker
        self._ledger = broker.ledger
        self._netlink = broker.env.netlink
        self._suspects: dict[int, Nic] = {}
        self._timer: asyncio.TimerHandle | None = None
        self._restored: dict[str, deque[float]] = {}
        self._told: dict[str, set[Change]] = {}  # of what can't be undone
        self._entries = Entries(self._netlink, broker.ledger, self._tell)
        self.sweep = Sweep(broker)
        # What else is to be done about a tap that was tampered with.
        self.on_tampered: Callable[[Nic, str], None] = lambda *_: None

    def stop(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        self.sweep.stop()

    # What the kernel tells

    def link(self, reply: Reply) -> None:
        """RTM_NEWLINK, of any device."""
        nic = self._ledger.by_index(rtnetlink.link_index(reply))
        if nic is None:
            return
        if rtnetlink.link_family(reply) == rtnetlink.AF_BRIDGE:
            if not tamper.is_as_set(nic, bytes(reply.payload)) and (
                tamper.changed_settings(nic, rtnetlink.parse_port(reply))
            ):
                self._look_soon(nic)
            return
        # Nothing else has changed in that moment. It is how each attach ends, and
        # what went down before is looked at.
        if rtnetlink.link_came_up(reply) and nic.state is not State.QUARANTINED:
            return
        link = rtnetlink.parse_link(reply)
        found = tamper.changes(nic, link)
        if nic.state is State.QUARANTINED:
            if found:
                self._look_soon(nic)
            return
        # A message may be of a while ago, and what it says undone by now, but its
        # holder did it, and somebody's entry may be gone by it.
        if found and found[0].is_of_holder:
            self._of_holder(nic, link, found)
        elif found:
            self._look_soon(nic)
        self.sweep.consider(nic, link)

    def left(self, reply: Reply) -> None:
        """RTM_DELLINK in AF_BRIDGE: a port left its bridge, or is about to end."""
        nic = self._ledger.by_index(rtnetlink.link_index(reply))
        if nic is not None:
            self._look_soon(nic)

    def entry_gone(self, entry: Neighbour) -> None:
        """RTM_DELNEIGH: a bridge forgot a MAC."""
        if entry.family != rtnetlink.AF_BRIDGE or entry.state != rtnetlink.NUD_NOARP:
            return
        nic = self._ledger.by_index(entry.ifindex)
        if nic is None:
            self._entries.stranger_lost(entry)
        elif nic.mac == entry.mac and nic.ifindex not in self._suspects:
            self._entries.put_back(nic)  # else it is going, or looked at anyway

    # Looking

    def _look_soon(self, nic: Nic) -> None:
        self._suspects[nic.ifindex] = nic
        if self._timer is None:
            loop = asyncio.get_running_loop()
            self._timer = loop.call_later(LOOK_AFTER, self._look)

    def _look(self) -> None:
        self._timer = None
        suspects, self._suspects = self._suspects, {}
        for nic in suspects.values():
            if self._ledger.by_ifname(nic.ifname) is nic:
                link = rtnetlink.get_link(self._netlink, nic.ifindex)
                self._compare(nic, link)
                self._entries.put_back(nic)

    def look_at_all(self) -> None:
        """Compare every NIC with what it should be: at the start, and where the
        kernel told more than could be heard.

        :raises NetlinkError: the kernel would not even answer.
        """
        links = {link.ifindex: link for link in rtnetlink.links(self._netlink)}
        for nic in list(self._ledger):
            link = links.get(nic.ifindex)
            if not nic.host_mac and link is not None:  # an older broker's
                nic.host_mac = link.address
            self._compare(nic, link)
        self._entries.look_at_all(set(links))

    def _compare(self, nic: Nic, link: Link | None) -> None:
        if link is None or not tamper.is_of(nic, link):
            self._broker.nic_gone(nic)
            return
        found = tamper.changes(nic, link)
        if nic.state is State.QUARANTINED:
            if found:
                self._shut_again(nic, found)
        elif found and found[0].is_of_holder:
            self._of_holder(nic, link, found)
        elif found:
            self._of_others(nic, link, found)
        self.sweep.consider(nic, link)

    # What a holder did

    def _of_holder(self, nic: Nic, link: Link, found: list[Change]) -> None:
        told = self._told.setdefault(nic.ifname, set())
        new = [c for c in found if c.is_of_holder and c not in told]
        if not new:  # as it was told before, and can't be undone
            rest = [c for c in found if not c.is_of_holder]
            if rest:
                self._of_others(nic, link, rest)
            return
        policy = self._broker.config.guard.on_tamper
        words = f"tampered with: {tamper.in_words(new)}"
        if policy is OnTamper.RESTORE and self._may_restore(nic):
            told.update(c for c in new if c.what in tamper.FOR_GOOD)
            self._restore(nic, link, found, words)
            return
        self._cut(nic, link)
        if policy is OnTamper.DETACH:
            self._tell(nic, f"{words}; taken away")
            self._take_away(nic, words)
            return
        if policy is OnTamper.RESTORE:
            words += f", more than {RESTORATIONS} times within {WITHIN:.0f} s"
        self._tell(nic, f"{words}; in quarantine")
        self._quarantine(nic, words)

    def _of_others(self, nic: Nic, link: Link, found: list[Change]) -> None:
        """What takes CAP_NET_ADMIN."""
        found = [c for c in found if not self._follows_bridge(nic, c)]
        if not found:
            return
        words = f"changed by who has CAP_NET_ADMIN: {tamper.in_words(found)}"
        if self._may_restore(nic):
            self._restore(nic, link, found, words)
            return
        self._cut(nic, link)
        words += f", more than {RESTORATIONS} times within {WITHIN:.0f} s"
        self._tell(nic, f"{words}; in quarantine")
        self._quarantine(nic, words)

    def _follows_bridge(self, nic: Nic, change: Change) -> bool:
        """Whether a greater MTU is the bridge's by now: so it is meant."""
        if change.what != tamper.MTU or int(change.found) < nic.mtu:
            return False
        bridge = rtnetlink.get_link(self._netlink, nic.bridge_index)
        if bridge is None or change.found != str(bridge.mtu):
            return False
        nic.mtu = bridge.mtu
        self._keep(nic)
        return True

    def _may_restore(self, nic: Nic) -> bool:
        now = asyncio.get_running_loop().time()
        times = self._restored.setdefault(nic.ifname, deque(maxlen=RESTORATIONS))
        if len(times) == RESTORATIONS and now - times[0] < WITHIN:
            return False
        times.append(now)
        if len(self._restored) > 2 * len(self._ledger) + 64:
            self._forget_gone()
        return True

    def _forget_gone(self) -> None:
        for kept in (self._restored, self._told):
            for ifname in list(kept):
                if self._ledger.by_ifname(ifname) is None:
                    del kept[ifname]

    # What is done about it

    def _restore(self, nic: Nic, link: Link, found: list[Change], words: str) -> None:
        """Undo what can be undone; what can't is at least not forgotten."""
        requests = [*_undo(nic, found), *self._entries.under(nic, link, itself=True)]
        try:
            if requests:
                self._netlink.transact(requests)
        except NetlinkError as err:
            if err.errno == errno.ENODEV and self._has_gone(nic):
                return
            _log.error("%s: %s", nic.ifname, err)
            self._cut(nic, link)
            self._tell(nic, f"{words}; could not be put back ({err}); in quarantine")
            self._quarantine(nic, f"{words}; could not be put back")
            return
        if any(c.what in (tamper.BRIDGE, tamper.UP) for c in found):
            self._look_soon(nic)  # of what is down nothing more was told
        undone = [c for c in found if c.what not in tamper.FOR_GOOD]
        self._tell(nic, f"{words}; {'put back' if undone else 'it ends when closed'}")

    def _cut(self, nic: Nic, link: Link) -> None:
        """Take a port off its bridge, as fast as can be. The MAC stays, for a
        broker that starts before this one has written down what became of it."""
        try:
            self._netlink.transact(
                [
                    rtnetlink.set_link(nic.ifindex, nic.ifname, master=0, up=False),
                    *self._entries.under(nic, link, itself=False),
                ]
            )
        except NetlinkError as err:
            if err.errno != errno.ENODEV:
                _log.error("%s: %s", nic.ifname, err)

    def _quarantine(self, nic: Nic, reason: str) -> None:
        """Have nothing of a port that was cut be left but who has it and why."""
        guest = nic.guest
        nic.state, nic.reason = State.QUARANTINED, reason
        self._keep(nic)
        self._broker.open_forwards.guest_gone(nic)
        self._broker.provisioner.shut(nic, guest)
        self._broker.events.about("quarantined", nic, reason)
        self.sweep.add(nic)

    def _shut_again(self, nic: Nic, found: Sequence[Change]) -> None:
        """Somebody with CAP_NET_ADMIN would use a tap that is in quarantine; or a
        broker was killed before it was cut."""
        request = rtnetlink.set_link(nic.ifindex, nic.ifname, master=0, up=False)
        try:
            self._netlink.transact([request])
        except NetlinkError as err:
            if err.errno != errno.ENODEV:
                _log.error("%s: %s", nic.ifname, err)
        if self._may_restore(nic):
            words = tamper.in_words(found)
            self._tell(nic, f"changed in quarantine: {words}; put back")

    def _take_away(self, nic: Nic, reason: str) -> None:
        try:
            self._broker.take_away(nic)
        except BrokerFailure as err:
            _log.error("%s: %s", nic.ifname, err)
            self._quarantine(nic, reason)

    def _has_gone(self, nic: Nic) -> bool:
        if rtnetlink.get_link(self._netlink, nic.ifindex) is not None:
            return False
        self._broker.nic_gone(nic)
        return True

    def _tell(self, nic: Nic, words: str) -> None:
        self._broker.events.about("tampered", nic, words)
        self.on_tampered(nic, words)

    def _keep(self, nic: Nic) -> None:
        try:
            self._ledger.update(nic)
        except OSError as err:
            _log.error("%s: its record: %s", nic.ifname, err)


def _undo(nic: Nic, found: Sequence[Change]) -> list[Request]:
    """What makes a tap what it was. One that was off its bridge stays down until
    the port is locked again."""
    what = {change.what for change in found}
    index, name = nic.ifindex, nic.ifname
    requests = []
    joins = tamper.BRIDGE in what
    if joins:
        requests.append(rtnetlink.set_link(index, name, up=False))
    clear = sum(bit for flag, bit in tamper.FLAGS.items() if flag in what)
    if joins or clear or what & {tamper.MAC, tamper.MTU, tamper.NAME, tamper.ALIAS}:
        requests.append(
            rtnetlink.set_link(
                index,
                name,
                mac=nic.host_mac if tamper.MAC in what else None,
                mtu=nic.mtu if tamper.MTU in what else None,
                name=name if tamper.NAME in what else None,
                alias=tamper.alias(nic) if tamper.ALIAS in what else None,
                master=nic.bridge_index if joins else None,
                clear=clear,
            )
        )
    settings = tamper.port_settings(nic)
    if joins or what & settings.keys():
        requests.append(rtnetlink.set_port(index, name, **settings))
    if joins and has_entry(nic):
        requests.append(rtnetlink.add_fdb(index, str(nic.mac), replace=True))
    if joins or tamper.UP in what:
        requests.append(rtnetlink.set_link(index, name, up=True))
    return requests


def name_again(broker: Broker, nic: Nic, link: Link) -> None:
    """Have a recorded tap be called what it was made as, before rules are made that
    name it; one that can't be is in quarantine."""
    if link.name == nic.ifname:
        return
    words = f"changed by who has CAP_NET_ADMIN: name {nic.ifname} -> {link.name}"
    try:
        broker.env.netlink.transact(
            [rtnetlink.set_link(nic.ifindex, link.name, name=nic.ifname)]
        )
    except NetlinkError as err:
        nic.state = State.QUARANTINED
        nic.reason = f"{words}; could not be put back"
        broker.events.about("tampered", nic, f"{words}; could not be put back ({err})")
        broker.events.about("quarantined", nic, nic.reason)
        return
    broker.events.about("tampered", nic, f"{words}; put back")
