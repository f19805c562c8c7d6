# SPDX-License-Identifier: LGPL-2.1-or-later
"""net.* settings: those of the namespace one is in, and nothing outside net."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import pytest

from tapster.kernel import sysctl
from tapster.networks.ip_forwarding import IpForwarding

pytestmark = pytest.mark.own_network


def shown(key: str) -> str:
    command = ["cat", f"/proc/sys/net/{key}"]
    return subprocess.run(command, capture_output=True, text=True).stdout.strip()


def test_value_is_read_and_written() -> None:
    assert sysctl.read("ipv4/ip_forward") == shown("ipv4/ip_forward")
    sysctl.write("ipv4/ip_forward", "1")
    assert shown("ipv4/ip_forward") == "1"
    sysctl.write("ipv4/ip_forward", "0")
    assert shown("ipv4/ip_forward") == "0"


def test_missing_setting_is_none_and_cannot_be_written() -> None:
    assert sysctl.read("ipv4/no_such_setting") is None
    with pytest.raises(FileNotFoundError):
        sysctl.write("ipv4/no_such_setting", "1")
    assert sysctl.children("no_such_directory") == []
    assert "lo" in sysctl.children("ipv6/conf")


def test_device_names_may_hold_dots() -> None:
    command = ["ip", "link", "add", "br.a", "type", "bridge"]
    subprocess.run(command, check=True)
    sysctl.write("ipv6/conf/br.a/accept_ra", "2")
    assert shown("ipv6/conf/br.a/accept_ra") == "2"


@pytest.mark.parametrize(
    "key", ["", "/etc/passwd", "../kernel/hostname", "ipv4/../../kernel/x", "ipv4//x"]
)
def test_nothing_outside_is_reached(key: str) -> None:
    with pytest.raises(ValueError, match="not a sysctl"):
        sysctl.read(key)


def test_new_namespace_is_not_the_initial_one() -> None:
    assert not sysctl.in_initial_namespace()


def test_forwarding_is_put_back_as_it_was(tmp_path: object) -> None:
    path = f"{tmp_path}/sysctl.json"
    subprocess.run(["ip", "link", "add", "br-a", "type", "bridge"], check=True)
    subprocess.run(["ip", "link", "add", "br-b", "type", "bridge"], check=True)
    sysctl.write("ipv6/conf/br-a/accept_ra", "1")
    sysctl.write("ipv6/conf/br-b/accept_ra", "0")
    keys = ["ipv4/ip_forward", "ipv6/conf/all/forwarding"]
    keys += [f"ipv6/conf/br-{x}/{k}" for x in "ab" for k in ("accept_ra", "forwarding")]
    for start in ("0", "1"):
        for key in keys[:2]:
            sysctl.write(key, start)
        before = {key: shown(key) for key in keys}
        IpForwarding(path).enable()
        assert shown("ipv4/ip_forward") == shown("ipv6/conf/all/forwarding") == "1"
        assert shown("ipv6/conf/br-a/accept_ra") == ("2" if start == "0" else "1")
        assert shown("ipv6/conf/br-b/accept_ra") == "0"
        # Another broker, after a crash, knows from the file what there was.
        IpForwarding(path).enable()
        after = IpForwarding(path)
        assert after.changed is (start == "0")
        after.restore()
        assert {key: shown(key) for key in keys} == before
        assert not IpForwarding(path).changed


def test_forwarding_with_a_device_gone_meanwhile_puts_the_rest_back(
    tmp_path: object,
) -> None:
    path = f"{tmp_path}/sysctl.json"
    subprocess.run(["ip", "link", "add", "br-a", "type", "bridge"], check=True)
    sysctl.write("ipv6/conf/br-a/accept_ra", "1")
    IpForwarding(path).enable()
    subprocess.run(["ip", "link", "del", "br-a"], check=True)
    IpForwarding(path).restore()
    assert shown("ipv4/ip_forward") == shown("ipv6/conf/all/forwarding") == "0"


def test_what_forwarding_was_is_known_where_its_file_is_lost(tmp_path: Path) -> None:
    path, spare = tmp_path / "sysctl.json", tmp_path / "spare.json"
    IpForwarding(str(path), str(spare)).enable()
    path.unlink()
    IpForwarding(str(path), str(spare)).restore()
    assert shown("ipv4/ip_forward") == shown("ipv6/conf/all/forwarding") == "0"
    assert not path.exists() and not spare.exists()


def test_what_forwarding_was_elsewhere_is_not_put_back_here(tmp_path: Path) -> None:
    """Before a reboot, or in another namespace."""
    path, spare = tmp_path / "sysctl.json", tmp_path / "spare.json"
    IpForwarding(str(path), str(spare)).enable()
    path.unlink()
    data = json.loads(spare.read_text())
    spare.write_text(json.dumps(data | {"where": f"x{data['where']}"}))
    IpForwarding(str(path), str(spare)).restore()
    assert shown("ipv4/ip_forward") == "1"
    assert not spare.exists()


@pytest.mark.parametrize("text", ["", "{", "[]", "null", '{"ipv4/ip_forward": {}}'])
def test_damaged_record_of_forwarding_changes_nothing(
    tmp_path: object, text: str
) -> None:
    path = f"{tmp_path}/sysctl.json"
    with open(path, "w") as file:
        file.write(text)
    sysctl.write("ipv4/ip_forward", "1")
    IpForwarding(path).restore()
    assert shown("ipv4/ip_forward") == "1"


def test_forged_record_of_forwarding_reaches_nothing_else(tmp_path: object) -> None:
    path = f"{tmp_path}/sysctl.json"
    with open(path, "w") as file:
        file.write('{"../kernel/hostname": "x", "ipv4/ip_forward": "0"}')
    sysctl.write("ipv4/ip_forward", "1")
    IpForwarding(path).restore()
    assert shown("ipv4/ip_forward") == "0"
