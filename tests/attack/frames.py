# SPDX-License-Identifier: LGPL-2.1-or-later
"""What a guest may put on its segment, in nobody's name but its own.

The frames are those of support/spoofs.py, which tests/kernel/test_spoof.py sends
one by one on each kind of port. Here they are what somebody would do with them.
For each the control is that it gets to the victim from a guest whose rule says
`trusted = true`, on the same kind of network.
"""

from __future__ import annotations

from attack.registry import attack, control
from attack.site import Site
from support import frames, spoofs, spoofs6
from support.frames import BROADCAST, PLAIN
from support.spoofs import Case, Scene

CASES = {
    case.name: case
    for group in (
        spoofs.LINK, spoofs.ARPS, spoofs.IPV4S, spoofs.DHCPS, spoofs6.SOURCES,
        spoofs6.NEIGHBOURS, spoofs6.ROUTERS, spoofs6.DHCPS6,
    )
    for case in group
}  # fmt: skip


def pick(*words: str) -> list[Case]:
    """The cases whose names begin so."""
    found = [case for name, case in CASES.items() if name.startswith(words)]
    for word in words:
        if not any(case.name.startswith(word) for case in found):
            raise ValueError(f"no frame is called {word!r}")
    return found


def got_through(scene: Scene, cases: list[Case]) -> list[str]:
    return [case.name for case in cases if scene.passes(case.frame(scene))]


def spoof(site: Site, *words: str) -> str | None:
    """Send these to the victim, on each ground; nothing may arrive."""
    cases = [case for case in pick(*words) if case.bridged]
    control(cases, "there are frames to send")
    for name in site.grounds:
        if site.name == "tapster":
            trusted = site.scene(name, trusted=True)
            passed = [case for case in cases if sent_trusted(trusted, case)]
            control(len(passed) == len(cases), f"{name}: {len(passed)} of {len(cases)}"
                    " frames get there from a trusted guest")  # fmt: skip
        scene = site.scene(name)
        passing = got_through(scene, cases)
        if passing:
            return (
                f"{name}: {len(passing)} of {len(cases)} kinds of frames got to the"
                f" victim: {passing[0]}"
            )
    return None


def sent_trusted(scene: Scene, case: Case) -> bool:
    """Whether the bridge carries it. A frame with another's source MAC makes the
    bridge learn that MAC here; the other says where it is before the next."""
    hello = frames.ethernet(scene.to, BROADCAST, PLAIN, b"")
    control(frames.arrives(hello, scene.receiver, scene.sender, hello), "the way back")
    return scene.passes(case.frame(scene))


def spoofing(name: str, would: str, *words: str) -> None:
    attack(name, would)(Spoof(words))


class Spoof:
    """An attack that is a list of frames."""

    __module__ = __name__

    def __init__(self, words: tuple[str, ...]) -> None:
        self.words = words
        self.__name__ = words[0]

    def __call__(self, site: Site) -> str | None:
        return spoof(site, *self.words)


spoofing(
    "source MAC of another guest",
    "its traffic comes to the attacker",
    "source MAC of another guest",
)
spoofing(
    "source MAC of the gateway",
    "all traffic for the gateway comes to the attacker",
    "source MAC of the gateway",
)
spoofing(
    "ARP in another's name",
    "a neighbour's table says that the victim is the attacker",
    "request in another's name",
    "answer in another's name",
    "request with another's address",
    "answer with another's address",
    "probe for the own address by another's MAC",
)
spoofing(
    "ARP as the gateway",
    "the attacker is in the middle of all that leaves",
    "gratuitous request, the gateway's",
    "gratuitous answer, the gateway's",
    "request with sender MAC of the gateway",
    "answer with sender MAC of the gateway",
)
spoofing(
    "ARP that denies an address",
    "the victim gives its address up (RFC 5227)",
    "probe for another guest's",
    "probe for the gateway's",
    "gratuitous request, another guest's",
    "gratuitous answer, another guest's",
)
spoofing(
    "ARP of other kinds and lengths",
    "what checks ARP for Ethernet passes it, what receives it does not mind",
    "own address, ",
)
spoofing(
    "IPv4 with another guest's address",
    "requests in another's name",
    "source of another guest",
    "source of the gateway",
)
spoofing(
    "IPv4 with an address of outside",
    "floods that nobody can trace",
    "source of outside",
    "source of loopback",
    "source of a group",
    "source of nobody in the subnet",
    "source of all",
)
spoofing(
    "IPv4 fragments and options in another's name",
    "a filter that looks at whole packets passes pieces",
    "source of another guest, with options",
    "source of another guest, fragment",
    "source of another guest, later",
)
spoofing(
    "DHCP server",
    "guests get the attacker for gateway and name server",
    "server's answer",
)
spoofing(
    "DHCP server in fragments",
    "the ports that a filter looks for are in another piece",
    "server's answer, first fragment",
    "DISCOVER of another in fragments",
    "DISCOVER in fragments, the second",
)
spoofing(
    "DHCP client in another's name",
    "another's lease is released or taken",
    "DISCOVER with another guest's chaddr",
    "DISCOVER with a chaddr of nobody",
    "renewal with another guest's chaddr",
    "renewal from another",
)
spoofing(
    "ICMP redirect as the gateway",
    "the victim sends what it has elsewhere",
    "ICMP redirect of the gateway",
)
spoofing(
    "IPv6 with another guest's address",
    "requests in another's name",
    "source: link-local of another guest",
    "source: another guest's",
    "source: link-local of the gateway",
    "source: the gateway's",
    "source: of outside",
    "source: nobody's in the prefix",
)
spoofing(
    "neighbour advertisement of another's address",
    "the attacker is in the middle, by IPv6",
    "advert of another guest's",
    "advert of the gateway's",
    "advert at the gateway's MAC",
    "advert at another's MAC",
)
spoofing(
    "duplicate address detection answered for all",
    "nobody gets an IPv6 address",
    "DAD for another guest's",
    "DAD for the gateway's",
    "advert of nobody's",
)
spoofing(
    "router advertisement",
    "all guests take the attacker for their router",
    "router advertisement, plain",
    "router advertisement from",
)
spoofing(
    "router advertisement behind extension headers and in fragments",
    "RA guard that looks at the first header passes it (RFC 7113)",
    "router advertisement, behind",
    "router advertisement, in",
    "router advertisement in the second fragment",
)
spoofing("ICMPv6 redirect", "the victim sends what it has elsewhere", "redirect")
spoofing(
    "DHCPv6 server",
    "guests get the attacker for name server",
    "DHCPv6 server",
    "DHCPv6 relay",
)
spoofing(
    "multicast listener report in another's name",
    "groups that another left, or wants, change",
    "MLD report from another's",
)
spoofing(
    "spanning tree",
    "the attacker becomes root of the LAN's tree, or a loop"
    " guard shuts the host's uplink",
    "spanning tree",
)
spoofing(
    "802.1Q and priority tags", "another VLAN behind the bridge is reached", "802.1Q"
)
spoofing(
    "802.1ad and Q-in-Q",
    "a filter sees a tag, what is behind it takes the inner one",
    "802.1ad",
    "Q-in-Q",
)
spoofing(
    "ARP and IPv4 in 802.3 frames", "what looks for ethertypes passes them", "802.3"
)
spoofing(
    "other protocols: PPPoE, MPLS, RARP, wake on LAN",
    "servers for protocols that nobody filters",
    "ethertype",
    "RARP",
)
