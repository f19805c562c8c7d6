# SPDX-License-Identifier: LGPL-2.1-or-later
"""What callers are shown: the broker's own objects as the wire has them. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from ipaddress import IPv4Network, IPv6Network
from typing import NamedTuple, Protocol

from ...kernel.rtnetlink import Link
from ...model import Mode, NetworkDefinition, Peer
from ...policy.core.decide import Decision
from ...policy.core.explain import Step
from ...policy.core.facts import Facts
from ...policy.core.rulebook import Target
from ...wire import objects as wire
from ..nics.expiry import as_date
from ..nics.naming import TAP_ALIAS
from ..nics.nic import Nic
from ..publish.forward_table import Row
from .doctor.finding import Finding


class Running(Protocol):
    """What a view needs of a network that is up (networks.managed_network)."""

    @property
    def definition(self) -> NetworkDefinition: ...
    @property
    def bridge(self) -> str: ...
    @property
    def uid(self) -> int | None: ...
    @property
    def mtu(self) -> int: ...
    @property
    def subnet4(self) -> IPv4Network: ...
    @property
    def subnet6(self) -> IPv6Network | None: ...
    @property
    def collision(self) -> str | None: ...
    def differs(self, wanted: NetworkDefinition) -> list[str]: ...


class ShownState(NamedTuple):
    """In which state a network is, in a word and in sentences for people."""

    word: str
    notes: list[str]


# NICs


def nic(nic: Nic, link: Link | None) -> wire.Nic:
    """
    :param nic: from the ledger.
    :param link: the tap with its counters, as the kernel has it; None, or another
        device that took its name: the counters are 0.
    """
    is_its_tap = (
        link is not None
        and link.name == nic.ifname
        and link.alias.startswith(TAP_ALIAS)
    )
    tap = link if is_its_tap else None
    return wire.Nic(
        ifname=nic.ifname,
        mac=nic.mac,
        ipv4=nic.ipv4,
        ipv6=nic.ipv6,
        mtu=nic.mtu,
        bridge=nic.bridge,
        network=nic.network,
        uid=nic.uid,
        user=nic.user,
        pid=nic.pid,
        name=nic.name,
        state=nic.state.value,
        reason=nic.reason,
        expires=as_date(nic.expires),
        # What the host's end of the tap has sent, the guest has received.
        rx_bytes=tap.tx_bytes if tap else 0,
        rx_packets=tap.tx_packets if tap else 0,
        tx_bytes=tap.rx_bytes if tap else 0,
        tx_packets=tap.rx_packets if tap else 0,
    )


# Networks


def running_state(running: Running, configured: NetworkDefinition | None) -> ShownState:
    """The state of a network of ours that is up.

    :param running: it.
    :param configured: its definition in the configuration that holds now; None: it is
        no longer defined.
    """
    word, notes = "up", []
    if running.collision is not None:
        notes.append(
            f"subnet {running.subnet4} is now also {running.collision}"
            " of this host; it is found anew when the last guest has gone"
        )
    waiting = running.differs(configured) if configured is not None else []
    if configured is None:
        word = "removed"
        notes.append("its definition is gone; so is it, with its last guest")
    elif waiting:
        word = "pending"
        notes.append(
            f"changed: {', '.join(waiting)}; takes effect when the last guest has gone"
        )
    return ShownState(word, notes)


def bridge_state(definition: NetworkDefinition, link: Link | None) -> ShownState:
    """The state of a network of mode `bridge`.

    :param definition: of the network.
    :param link: the device that has its bridge's name, if there is one.
    """
    if link is not None and link.kind == "bridge":
        return ShownState("up", [])
    return ShownState("down", [f"there is no bridge {definition.bridge}"])


def network(
    definition: NetworkDefinition,
    running: Running | None,
    state: ShownState,
    *,
    user: str | None,
    forwards: Iterable[str],
    max_nics: int | None,
    nics: int,
) -> wire.NetworkInfo:
    """
    :param definition: what holds: that of the running network, if there is one.
    :param running: the network of ours that is up; None: it is down, or a Linux bridge.
    :param state: of the network.
    :param user: the name of the user whose instance it is; None: it is nobody's own.
    :param forwards: ports that lead to its guests, those that the caller may see.
    :param max_nics: that the caller may have there; None: that is not known.
    :param nics: that the caller has there.
    """
    is_ours = definition.mode is not Mode.BRIDGE
    v4 = running.subnet4 if running else definition.subnet
    v6 = running.subnet6 if running else definition.subnet6
    return wire.NetworkInfo(
        name=definition.name,
        mode=definition.mode.value,
        scope=definition.scope.value,
        uid=running.uid if running else None,
        user=user,
        state=state.word,
        bridge=running.bridge if running else definition.bridge,
        subnet4=str(v4) if v4 else None,
        subnet6=str(v6) if v6 else None,
        gateway4=str(v4[1]) if v4 else None,
        gateway6=str(v6[1]) if v6 else None,
        domain=definition.full_domain if is_ours else None,
        mtu=definition.mtu or (running.mtu if running else None),
        isolation=definition.is_isolating,
        egress=definition.egress.value if definition.mode is Mode.NAT else None,
        host_access=[str(port) for port in definition.host_access],
        egress_rate=definition.rate.egress,
        ingress_rate=definition.rate.ingress,
        dns=[str(server) for server in definition.dns],
        dhcp=definition.dhcp and is_ours,
        address_check=None if is_ours else definition.address_check.value,
        forwards=list(forwards),
        max_nics=max_nics,
        nics=nics,
        notes=state.notes,
    )


# Forwards


def forward_owner(row: Row) -> int | None:
    """The uid whose guest a forward leads to; None: that is not known yet."""
    if row.uid is None and row.nic is not None:
        return row.nic.uid
    return row.uid


def forward(row: Row, user: str | None) -> wire.ForwardInfo:
    """
    :param row: the forward.
    :param user: the name of its owner, if it has one.
    """
    return wire.ForwardInfo(
        network=row.network,
        uid=forward_owner(row),
        user=user,
        port=str(row.forward.port),
        guest=row.forward.guest,
        guest_port=row.forward.guest_port,
        state="active" if row.nic is not None else "waiting",
        ipv4=row.nic.ipv4 if row.nic is not None else None,
        ipv6=row.nic.ipv6 if row.nic is not None else None,
        static=row.uid is None,
    )


# Decisions and findings


class Explained(NamedTuple):
    """A decision with all that it was made by."""

    decision: Decision
    target: Target = Target()
    facts: Facts = Facts()
    steps: Sequence[Step] = ()
    hidden_steps: int = 0  # that are too many to be shown


def explanation(subject: Peer, user: str, what: Explained) -> wire.Explanation:
    """
    :param subject: whom the decision is about.
    :param user: its name.
    :param what: the decision, and how it came.
    """
    decision, target, facts = what.decision, what.target, what.facts
    nics = facts.usernet.used if facts.usernet is not None else 0
    if decision.rule is not None:
        of_bridges = decision.rule.max_nics is not None or target.bridge is not None
        nics = facts.used(decision.rule, of_bridges)
    notes = list(facts.verdict.notes) if facts.verdict is not None else []
    if what.hidden_steps:
        notes.append(f"{what.hidden_steps} more rules are not shown")
    return wire.Explanation(
        user=user,
        uid=subject.uid,
        allowed=decision.allowed,
        reason=decision.reason,
        rule=decision.location,
        polkit=decision.ask,
        max_nics=decision.max_nics,
        nics=nics,
        network_max_nics=facts.network_limit,
        network_nics=facts.network_nics if facts.network_limit is not None else None,
        steps=[wire.Step(s.location, s.effect, s.outcome) for s in what.steps],
        notes=notes,
    )


def finding(found: Finding) -> wire.Finding:
    return wire.Finding(found.code, found.severity, found.message, found.remedy)
