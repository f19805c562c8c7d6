# SPDX-License-Identifier: LGPL-2.1-or-later
"""Debian's qemu-bridge-helper, setuid root, on a plain bridge.

The bridge is as howtos have it: an address, forwarding, and masquerade for what
leaves. The real program runs, from a private mount of the lab's host.
"""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

from attack import acts
from attack.agent import Agent
from attack.site import LAN, LAN4, LAN6, Card, Ground, Site, eventually
from lab import Lab
from support.leases import party
from support.peer_helper import HELPER
from support.spoofs import Scene

PROGRAM = "/run/peer/qemu-bridge-helper"
SETUP = f"""
mkdir /run/peer
cp {HELPER} {PROGRAM}
chmod 4755 {PROGRAM}
echo 1 > /proc/sys/net/ipv4/ip_forward
"""
NAT = f"""table ip nat {{
    chain postrouting {{
        type nat hook postrouting priority srcnat;
        ip saddr {LAN4}0/24 oifname != "{LAN}" masquerade
    }}
}}
"""


def why_not() -> str | None:
    if not Path(HELPER).exists():
        return f"no {HELPER} (Debian: qemu-system-common)"
    return None


class PeerSite(Site):
    """All users may use br0, which is what bridge.conf can say."""

    name = "peer"
    bridge_conf = f"allow {LAN}\n"
    grounds = (LAN,)

    def __init__(self, lab: Lab) -> None:
        super().__init__(lab)
        lab.host.run("sh", "-ec", SETUP)
        lab.host.run("nft", "-f", "-", input=NAT)
        lab.bridge_conf(self.bridge_conf)
        self._numbers = itertools.count(1)

    def card(self, agent: Agent, ground: str, number: int = 60, **what: Any) -> Card:
        """Every network's name is br0 here, and a guest takes what MAC it likes."""
        bridge = what.get("bridge", LAN)
        fd, ifname = agent(acts.helper, PROGRAM, bridge, vnet=what.get("vnet", False))
        if fd < 0:
            raise RuntimeError(f"the helper refuses: {ifname}")
        mac = f"52:54:00:aa:{number:02x}:{next(self._numbers) % 256:02x}"
        addresses = party(mac, f"{LAN4}{number}", f"{LAN6}{number}")
        return Card(agent, fd, ifname, bridge, addresses, self.stack)

    def refusal(self, agent: Agent, bridge: str | bytes) -> str | None:
        fd, why = agent(acts.helper, PROGRAM, bridge)
        return None if fd >= 0 else str(why)

    def _make_scene(self, ground: str, trusted: bool) -> Scene:
        made: Ground = self.ground(ground)
        return self._scene(made, trusted=trusted)

    def settle(self) -> None:
        if not eventually(lambda: not self.taps(), 0.3):
            commands = "".join(f"link del {name}\n" for name in self.taps())
            self.lab.host.run("ip", "-batch", "-", input=commands)

    def taps(self) -> list[str]:
        done = self.lab.host.run("sh", "-c", "ls /sys/class/net")
        return [name for name in done.stdout.split() if name.startswith("tap")]
