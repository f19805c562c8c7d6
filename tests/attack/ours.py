# SPDX-License-Identifier: LGPL-2.1-or-later
"""tapsterd, with all the kinds of networks that two users may be on together.

The default network, where every user has one of their own, would let most attacks
look harmless. So they are made where users are meant to reach each other: on a
LAN's bridge, and on a shared network whose guests are not isolated.
"""

from __future__ import annotations

from typing import Any

from attack import acts
from attack.agent import Agent
from attack.site import LAN, LAN4, LAN6, Card, Site
from lab import OTHER, USER, Lab, until
from support import host
from support.leases import give, party
from support.spoofs import Scene

QUOTA = 16
CONFIG = f"""
[authorization]
strict_includes = true

[limits]
idle_connection_seconds = 2

[networks.lan]
mode = "bridge"
bridge = "{LAN}"

[networks.open]
scope = "shared"
isolation = false
[networks.open.reservations]
printer = {{ mac = "52:54:00:77:00:01", user = {OTHER} }}

[networks.limited]
scope = "shared"
isolation = false
rate = {{ egress = "1mbit" }}

[networks.routers]
scope = "shared"
isolation = false

[networks.lanrouters]
mode = "bridge"
bridge = "{LAN}"

[networks.office]
scope = "shared"

[networks.brief]

[networks.asked]

[networks.served]
host_access = ["tcp/2222"]

[[rules]]
networks = ["routers", "lanrouters"]
trusted = true

[[rules]]
networks = ["default", "lan", "open", "limited", "served"]
max_nics = {QUOTA}

[[rules]]
users = [{USER}]
networks = ["office"]
guests = ["vm2", "web-*"]
macs = ["52:54:00:01:*"]

[[rules]]
users = [{OTHER}]
networks = ["office"]

[[rules]]
networks = ["brief"]
ttl = 1

[[rules]]
networks = ["asked"]
effect = "polkit"

[[rules]]
networks = ["*"]
effect = "deny"
guests = ["gateway"]
"""


class TapsterSite(Site):
    name = "tapster"
    bridge_conf = ""
    grounds = ("lan", "open")

    def __init__(self, lab: Lab) -> None:
        super().__init__(lab)
        try:
            lab.bridge_conf(self.bridge_conf)
            lab.config(CONFIG)
            self.daemon = lab.daemon("--config", "/run/config")
        except BaseException:
            super().close()
            raise

    def close(self) -> None:
        super().close()
        self.daemon.stop()

    def card(self, agent: Agent, ground: str, number: int = 60, **what: Any) -> Card:
        fd, nic = agent(acts.attach, network=ground, **what)
        ipv4 = nic["ipv4"] or f"{LAN4}{number}"
        addresses = party(nic["mac"], ipv4, nic["ipv6"] or f"{LAN6}{number}")
        return Card(agent, fd, nic["ifname"], nic["bridge"], addresses, self.stack, nic)

    def refusal(self, agent: Agent, bridge: str | bytes) -> str | None:
        reply = agent(acts.ask, "Attach", {"bridge": bridge})
        return str(reply["error"]) if "error" in reply else None

    def _make_scene(self, ground: str, trusted: bool) -> Scene:
        kinds = {"lan": "lanrouters", "open": "routers"}
        made = self.ground(kinds[ground] if trusted else ground)
        if ground == "lan" and not trusted:
            for card in (made.attacker, made.victim):
                give(self.lab, self.router, card.party, f"{LAN4}1")
        return self._scene(made, trusted=trusted)

    def settle(self) -> None:
        def gone() -> bool:
            return not host.links(self.lab.host, "tapster") and not host.nics(self.lab)

        if not self._within(gone, 0.5):
            for name in host.links(self.lab.host, "tapster"):
                self.lab.host.run("ip", "link", "del", name, check=False)
            until("the broker forgets its NICs", gone)

    @staticmethod
    def _within(condition: Any, seconds: float) -> bool:
        try:
            until("it", condition, seconds)
        except TimeoutError:
            return False
        return True
