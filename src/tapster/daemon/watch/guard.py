# SPDX-License-Identifier: LGPL-2.1-or-later
"""Holds each tap that was handed out to what it was made as.

The kernel tells of each change (`netlink.py`), `expected.link_drift` says what is
not as it should be, `reaction.decide_reaction` what is to be done, and this does it.
Tampering is undone in the same breath, and so is what a stolen MAC did to others,
whose forwarding entries it displaces. What takes CAP_NET_ADMIN is looked at a moment
later, since the kernel tells of a tap that just goes away in the same way.
"""

from __future__ import annotations

import asyncio
import errno
import logging
from collections.abc import Sequence

from ...errors import BrokerFailure
from ...kernel import rtnetlink
from ...kernel.netlink import NetlinkError, NetlinkSocket, Reply, Request
from ...kernel.rtnetlink import Link, Neighbour
from ...model import State
from ...policy.config.current import CurrentConfig
from ..audit.events import Events
from ..detach import Detacher
from ..nics import expected
from ..nics.expected import Drift
from ..nics.ledger import Ledger
from ..nics.nic import Nic
from ..publish.hooks.lifecycle import Hooks
from ..publish.open_forwards import OpenForwards
from . import repair
from .fdb import FdbGuard
from .orphans import OrphanReaper
from .reaction import (
    Action,
    History,
    Reaction,
    decide_reaction,
    irreversible,
    new_tampering,
)

_log = logging.getLogger(__name__)

LOOK_AFTER = 0.05  # seconds until a tap is looked at that seems to be changed


class Guard:
    """Watches over all NICs of one broker."""

    def __init__(
        self,
        netlink: NetlinkSocket,
        ledger: Ledger,
        current: CurrentConfig,
        events: Events,
        hooks: Hooks,
        forwards: OpenForwards,
        detacher: Detacher,
        orphans: OrphanReaper,
    ) -> None:
        self._netlink = netlink
        self._ledger = ledger
        self._current = current
        self._events = events
        self._hooks = hooks
        self._forwards = forwards
        self._detacher = detacher
        self._orphans = orphans
        self._fdb = FdbGuard(netlink, ledger, self._tell)
        self._suspects: dict[int, None] = {}  # indices of taps to look at
        self._timer: asyncio.TimerHandle | None = None
        self._histories: dict[str, History] = {}

    def stop(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    # What the kernel tells

    def link_changed(self, reply: Reply) -> None:
        """RTM_NEWLINK, of any device."""
        nic = self._ledger.by_index(rtnetlink.link_index(reply))
        if nic is None:
            return
        if rtnetlink.link_family(reply) == rtnetlink.AF_BRIDGE:
            if not expected.has_settings(nic, bytes(reply.payload)) and (
                expected.port_drift(nic, rtnetlink.parse_port(reply))
            ):
                self._look_soon(nic)
            return
        quarantined = nic.state is State.QUARANTINED
        # Each attach ends with this message, and nothing else has changed in that
        # moment; a tap that went down before is looked at anyway.
        if rtnetlink.link_came_up(reply) and not quarantined:
            return
        link = rtnetlink.parse_link(reply)
        drift = expected.link_drift(nic, link)
        if drift and (quarantined or not drift[0].is_unprivileged):
            self._look_soon(nic)
        elif drift:
            # The message may be old, and what it says undone by now. But the holder
            # did it, and somebody's forwarding entry may be gone because of it.
            self._react(nic, link, drift)
        now = self._ledger.current(nic)
        if now is not None and not quarantined:
            self._orphans.track(now, link)

    def port_left(self, reply: Reply) -> None:
        """RTM_DELLINK in AF_BRIDGE: a port left its bridge, or is about to end."""
        nic = self._ledger.by_index(rtnetlink.link_index(reply))
        if nic is not None:
            self._look_soon(nic)

    def entry_deleted(self, entry: Neighbour) -> None:
        """RTM_DELNEIGH: a bridge forgot a MAC."""
        if entry.family != rtnetlink.AF_BRIDGE or entry.state != rtnetlink.NUD_NOARP:
            return
        nic = self._ledger.by_index(entry.ifindex)
        if nic is None:
            self._fdb.foreign_entry_deleted(entry)
        elif nic.mac == entry.mac and nic.ifindex not in self._suspects:
            self._fdb.ensure_entry(nic)  # a suspect is looked at anyway, or is going

    # Looking

    def _look_soon(self, nic: Nic) -> None:
        self._suspects[nic.ifindex] = None
        if self._timer is None:
            loop = asyncio.get_running_loop()
            self._timer = loop.call_later(LOOK_AFTER, self._look)

    def _look(self) -> None:
        self._timer = None
        suspects, self._suspects = self._suspects, {}
        for index in suspects:
            nic = self._ledger.by_index(index)
            if nic is not None:
                self._compare(nic, rtnetlink.get_link(self._netlink, index))
                now = self._ledger.current(nic)
                if now is not None:
                    self._fdb.ensure_entry(now)

    def look_at_all(self) -> None:
        """Compare every NIC with what it should be: at the start, and where the
        kernel told more than could be heard.

        :raises NetlinkError: the kernel would not even answer.
        """
        links = {link.ifindex: link for link in rtnetlink.links(self._netlink)}
        for nic in list(self._ledger):
            link = links.get(nic.ifindex)
            if not nic.host_mac and link is not None:  # a record of an older broker
                nic = self._keep(nic, host_mac=link.address)
            self._compare(nic, link)
        self._fdb.look_at_all(set(links))

    def _compare(self, nic: Nic, link: Link | None) -> None:
        if link is None or not expected.is_tap_of(nic, link):
            self._detacher.gone(nic)
            return
        self._react(nic, link, expected.link_drift(nic, link))
        now = self._ledger.current(nic)
        if now is not None:
            self._orphans.track(now, link)

    # What is done about it

    def _react(self, nic: Nic, link: Link, drift: Sequence[Drift]) -> None:
        if not drift:
            return
        history = self._histories.get(nic.ifname) or History()
        if not new_tampering(drift, history):
            nic, drift = self._follow_bridge(nic, drift)
        now = asyncio.get_running_loop().time()
        policy = self._current.value.guard.on_tamper
        reaction = decide_reaction(nic.state, policy, drift, history, now)
        if reaction.action is Action.RESTORE or (
            reaction.action is Action.SHUT and reaction.words
        ):
            self._remember(nic, history).restored.append(now)
        self._apply(nic, link, reaction)

    def _apply(self, nic: Nic, link: Link, reaction: Reaction) -> None:
        words = reaction.words
        match reaction.action:
            case Action.RESTORE:
                self._restore(nic, link, reaction.drift, words)
            case Action.QUARANTINE:
                self._cut(nic, link)
                self._tell(nic, f"{words}; in quarantine")
                self._quarantine(nic, words)
            case Action.DETACH:
                self._cut(nic, link)
                self._tell(nic, f"{words}; taken away")
                self._take_away(nic, words)
            case Action.SHUT:
                self._shut(nic, words)

    def _follow_bridge(
        self, nic: Nic, drift: Sequence[Drift]
    ) -> tuple[Nic, Sequence[Drift]]:
        """Accept a greater MTU that is the bridge's by now: so it is meant."""
        change = next((d for d in drift if d.what == expected.MTU), None)
        if change is None:
            return nic, drift
        bridge = rtnetlink.get_link(self._netlink, nic.bridge_index)
        if (
            int(change.found) < nic.mtu
            or bridge is None
            or change.found != str(bridge.mtu)
        ):
            return nic, drift
        nic = self._keep(nic, mtu=bridge.mtu)
        return nic, [d for d in drift if d is not change]

    def _restore(
        self, nic: Nic, link: Link, drift: Sequence[Drift], words: str
    ) -> None:
        """Undo what can be undone. The rest is not told again."""
        for_good = irreversible(drift)
        if for_good:
            self._remember(nic, None).told.update(for_good)
        requests = [
            *repair.restore(nic, drift),
            *self._fdb.restore_displaced(nic, link, itself=True),
        ]
        try:
            if requests:
                self._netlink.transact(requests)
        except NetlinkError as err:
            if err.errno == errno.ENODEV and self._detacher.clear_if_gone(nic):
                return
            _log.error("%s: %s", nic.ifname, err)
            self._cut(nic, link)
            self._tell(nic, f"{words}; could not be put back ({err}); in quarantine")
            self._quarantine(nic, f"{words}; could not be put back")
            return
        if any(d.what in (expected.BRIDGE, expected.UP) for d in drift):
            self._look_soon(nic)  # the kernel told nothing more of a tap that was down
        undone = len(for_good) < len(drift)
        self._tell(nic, f"{words}; {'put back' if undone else 'it ends when closed'}")

    def _cut(self, nic: Nic, link: Link) -> None:
        """Take a port off its bridge, as fast as can be. Its MAC stays: a broker
        that starts before this one has written down what became of the NIC sees
        by it what happened."""
        self._transact_if_there(
            nic,
            [repair.cut(nic), *self._fdb.restore_displaced(nic, link, itself=False)],
        )

    def _shut(self, nic: Nic, words: str) -> None:
        """Somebody with CAP_NET_ADMIN would use a tap that is in quarantine; or a
        broker was killed before it was cut."""
        self._transact_if_there(nic, [repair.cut(nic)])
        if words:
            self._tell(nic, words)

    def _transact_if_there(self, nic: Nic, requests: list[Request]) -> None:
        try:
            self._netlink.transact(requests)
        except NetlinkError as err:
            if err.errno != errno.ENODEV:
                _log.error("%s: %s", nic.ifname, err)

    def _quarantine(self, nic: Nic, reason: str) -> None:
        """Leave nothing of a port that was cut but who has it, and why."""
        nic = self._ledger.transition(nic, State.QUARANTINED, reason=reason)
        self._forwards.guest_gone(nic)
        self._events.about("quarantined", nic, reason)
        self._orphans.add(nic)

    def _take_away(self, nic: Nic, reason: str) -> None:
        try:
            self._detacher.take_away(nic)
        except BrokerFailure as err:
            _log.error("%s: %s", nic.ifname, err)
            self._quarantine(nic, reason)

    # What is remembered and told

    def _remember(self, nic: Nic, history: History | None) -> History:
        """The history of a NIC, kept from now on."""
        if len(self._histories) > 2 * len(self._ledger) + 64:
            for ifname in list(self._histories):
                if self._ledger.by_ifname(ifname) is None:
                    del self._histories[ifname]
        return self._histories.setdefault(nic.ifname, history or History())

    def _keep(self, nic: Nic, **changes: object) -> Nic:
        """A NIC with other values; as it is if its record can't be written."""
        try:
            return self._ledger.transition(nic, **changes)
        except OSError as err:
            _log.error("%s: its record: %s", nic.ifname, err)
            return nic

    def _tell(self, nic: Nic, words: str) -> None:
        self._events.about("tampered", nic, words)
        self._hooks.tampered(nic, words)
