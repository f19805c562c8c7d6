# SPDX-License-Identifier: LGPL-2.1-or-later
"""What networks and bridges say that was hardly meant, and where."""

from __future__ import annotations

from support.linting import findings, one, rules, said


def test_a_linux_bridge_that_is_none_is_told_where_it_is_named_first() -> None:
    text = '[networks.l]\nmode = "bridge"\nbridge = "br7"\n'
    assert said(
        text.replace("br7", "br8"),  # is not in force
        text,
        rules('networks = ["l"], bridges = ["br7", "br1", "eth0"]'),
    ) == [
        "1:3:1 note no-such-bridge",
        "2:1:54 warning not-a-bridge",
    ]


def test_an_address_for_two_guests_of_a_bridge_is_told() -> None:
    def network(name: str, bridge: str, guest: str) -> str:
        text = f'[networks.{name}]\nmode = "bridge"\nbridge = "{bridge}"\n'
        text += f'reservations.{guest} = {{mac = "52:54:00:00:00:01"}}\n'
        return text + f'[[rules]]\nusers = ["root"]\nnetworks = ["{name}"]\n'

    finding = one(network("a", "br0", "web"), network("b", "br0", "db"))
    assert (finding.location, finding.code) == ("1:4:14", "reserved-twice")
    whose = "guest web's on network a, which is on Linux bridge br0 too"
    assert finding.message == f"52:54:00:00:00:01 is {whose}"
    assert finding.related == ("0:4",)
    assert findings(network("a", "br0", "web"), network("b", "br1", "db")) == []
    assert findings(network("a", "br0", "web"), network("b", "br0", "web")) == []
