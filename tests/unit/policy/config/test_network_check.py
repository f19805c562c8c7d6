# SPDX-License-Identifier: LGPL-2.1-or-later
"""Keys of networks that do not go together are refused."""

from __future__ import annotations

import pytest

from support.configuring import SHARED, fails, net, net_fails, networks
from tapster.model import Mode
from tapster.policy.config.network_check import MODES
from tapster.policy.config.network_file import CONVERT


@pytest.mark.parametrize("mode", list(Mode))
@pytest.mark.parametrize("key", [key for key in CONVERT if key != "mode"])
def test_a_key_is_refused_for_a_mode_that_it_is_not_for(mode: Mode, key: str) -> None:
    values = {
        "scope": '"shared"',
        "bridge": '"br0"',
        "subnet": '"10.0.0.0/24"\nscope = "shared"',
        "subnet6": '"none"',
        "domain": '"a.b"',
        "egress": '"any"',
        "mtu": "1400",
        "max_nics": "9",
        "rate": "{}",
        "address_check": '"off"',
    }
    lists = ("dns", "host_access", "forward")
    value = values.get(key, "[]" if key in lists else "true")
    text = f'{key} = {value}\nmode = "{mode}"\n'
    if mode is Mode.BRIDGE and key != "bridge":
        text += 'bridge = "br0"\n'
    if mode in MODES.get(key, tuple(Mode)):
        assert net(text).mode is mode
    else:
        message = net_fails(text)
        assert message.startswith(f"0:2:1: {key}: only for mode ")
        assert f'network x has mode "{mode}"' in message


@pytest.mark.parametrize(
    ("address", "says"),
    [
        ("10.1.3.9", "10.1.3.9 is not in 10.1.2.0/24"),
        ("10.1.2.0", "10.1.2.0 is the address of 10.1.2.0/24 itself"),
        ("10.1.2.1", "10.1.2.1 is the gateway's"),
        ("10.1.2.255", "10.1.2.255 is the broadcast address of 10.1.2.0/24"),
        ("fd00:0:0:1::9", "is not in fd00::/64"),
        ("fd00::", "fd00:: is the address of fd00::/64 itself"),
        ("fd00::1", "fd00::1 is the gateway's"),
    ],
)
def test_a_reserved_address_has_to_be_one_that_a_guest_of_the_subnet_can_have(
    address: str, says: str
) -> None:
    text = SHARED + 'subnet = "10.1.2.0/24"\nsubnet6 = "fd00::/64"\n'
    assert says in net_fails(f'{text}reservations.web = "{address}"')
    for good in ("10.1.2.2", "10.1.2.254", "fd00::2", "fd00::ffff:ffff:ffff:ffff"):
        assert net(f'{text}reservations.web = "{good}"').reservations


def test_overlapping_subnets_are_refused() -> None:
    text = (
        f'[networks.a]\n{SHARED}subnet = "10.0.0.0/16"\n'
        f'[networks.b]\n{SHARED}subnet6 = "fd00::/64"\n[networks.c]\n{SHARED}'
    )
    assert fails(text + 'subnet = "10.0.9.0/24"') == (
        "0:9:1: subnet: 10.0.9.0/24 overlaps 10.0.0.0/16 of network a, at 0:3:1"
    )
    assert "of network b, at 0:6:1" in fails(text + 'subnet6 = "fd00::/64"')
    assert networks(text + 'subnet = "10.1.0.0/24"\nsubnet6 = "fd00:0:0:1::/64"')


def test_a_port_is_forwarded_to_one_network_only() -> None:
    text = '[networks.{}]\nforward = ["{}/80 web:80"]\n'
    assert "0:4:12: forward: tcp/80 is forwarded already, at 0:2:12" in fails(
        text.format("a", "tcp") + text.format("b", "tcp")
    )
    assert networks(text.format("a", "tcp") + text.format("b", "udp"))


def test_keys_have_to_go_together_once_all_files_are_read() -> None:
    shared = '[networks.x]\nscope = "shared"\nsubnet = "10.0.0.0/24"\n'
    # Alone it would not do, but it is not alone.
    assert networks('[networks.x]\nsubnet = "10.0.0.0/24"\n', shared)["x"].subnet
    assert networks('[networks.x]\nmode = "bridge"\n', '[networks.x]\nbridge = "b"\n')
    # The location is that of the key which was set last.
    message = fails(shared, '\n[networks.x]\nscope = "user"\n')
    assert message.startswith("0:3:1: subnet: only for scope")
    message = fails(shared, '\n[networks.x]\nscope = "user"\nsubnet = "10.0.1.0/24"')
    assert message.startswith("1:4:1: subnet: only for scope")
    message = fails(shared, "[networks.x]\nreservations.a = '10.0.1.2'\n")
    assert message.startswith("1:2:14: reservations.a.ipv4: 10.0.1.2 is not in")
    # What is wrong in itself is wrong, whatever comes later.
    assert fails("[networks.x]\nmtu = 1\n", "[networks.x]\nmtu = 1500\n")
