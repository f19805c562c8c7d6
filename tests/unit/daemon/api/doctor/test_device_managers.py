# SPDX-License-Identifier: LGPL-2.1-or-later
"""`tapster.daemon.api.doctor.device_managers`: by which files NetworkManager and
systemd-networkd would manage our devices, and that the remedies help."""

from __future__ import annotations

import subprocess
from dataclasses import replace
from pathlib import Path

import pytest

from tapster.daemon.api.doctor.device_managers import (
    networkd_file,
    networkmanager_leaves_us,
)
from tapster.daemon.api.doctor.finding import Finding
from tapster.daemon.api.doctor.findings import diagnose
from tapster.daemon.api.doctor.host_facts import HostFacts

ROOT = Path(__file__).resolve().parents[5]
V4 = HostFacts({"ipv6/conf/all/disable_ipv6": "1"}, ("eth0",))


def write(root: Path, files: dict[str, str]) -> str:
    for name, text in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return str(root)


CONF = "NetworkManager/conf.d"
OURS = "[keyfile]\nunmanaged-devices+=interface-name:tapster*;interface-name:tapbr*\n"


@pytest.mark.parametrize(
    ("files", "covered"),
    [
        ({}, False),
        ({f"etc/{CONF}/tapster.conf": OURS}, True),
        ({f"usr/lib/{CONF}/tapster.conf": OURS}, True),
        ({f"run/{CONF}/tapster.conf": OURS}, True),
        ({"etc/NetworkManager/NetworkManager.conf": OURS}, True),
        ({f"etc/{CONF}/a.conf": "[keyfile]\nunmanaged-devices=*\n"}, True),
        ({f"etc/{CONF}/a.conf": "[main]\nunmanaged-devices=*\n"}, False),
        ({f"etc/{CONF}/a.conf":
          "[keyfile]\nunmanaged-devices=interface-name:tap*\n"}, True),
        ({f"etc/{CONF}/a.conf":
          "[keyfile]\nunmanaged-devices=interface-name:tapbr*\n"}, False),
        ({f"etc/{CONF}/a.conf":
          "[keyfile]\nunmanaged-devices=type:tun,type:bridge\n"}, True),
        ({f"etc/{CONF}/a.conf":
          "[keyfile]\nunmanaged-devices=*;except:type:bridge\n"}, False),
        # what is set later, and without a plus, is all there is
        ({f"usr/lib/{CONF}/tapster.conf": OURS, f"etc/{CONF}/b.conf":
          "[keyfile]\nunmanaged-devices=mac:00:00:00:00:00:01\n"}, False),
        ({f"usr/lib/{CONF}/tapster.conf": OURS, f"etc/{CONF}/b.conf":
          "[keyfile]\nunmanaged-devices+=mac:00:00:00:00:00:01\n"}, True),
        # a file of the same name in /etc hides the other
        ({f"usr/lib/{CONF}/tapster.conf": OURS,
          f"etc/{CONF}/tapster.conf": "# nothing\n"}, False),
    ],
)  # fmt: skip
def test_networkmanager_leaves_us_by_its_files(
    tmp_path: Path, files: dict[str, str], covered: bool
) -> None:
    root = write(tmp_path, files)
    assert networkmanager_leaves_us(root) is covered


def test_our_file_and_the_remedy_make_networkmanager_leave_us(tmp_path: Path) -> None:
    text = (ROOT / "data/NetworkManager/tapster.conf").read_text()
    root = write(tmp_path, {f"usr/lib/{CONF}/tapster.conf": text})
    assert networkmanager_leaves_us(root)
    (found, _) = diagnose([], [], replace(V4, networkmanager=False))
    assert found.code == "networkmanager"
    _run_remedy(tmp_path / "b", found, "nmcli")
    assert networkmanager_leaves_us(str(tmp_path / "b"))
    assert [f.code for f in diagnose([], [], replace(V4, networkmanager=True))] == [
        "no-ipv6"
    ]


@pytest.mark.parametrize(
    ("files", "by"),
    [
        ({}, None),
        ({"etc/systemd/network/80-all.network": "[Match]\nName=*\n"}, "80-all"),
        ({"usr/lib/systemd/network/80-t.network": "[Match]\nName=tap*\n"}, "80-t"),
        ({"run/systemd/network/80-b.network": "[Match]\nType=bridge\n"}, "80-b"),
        ({"run/systemd/network/80-e.network": "[Match]\nType=ether\n"}, "80-e"),
        ({"run/systemd/network/80-k.network": "[Match]\nKind=tun\n"}, "80-k"),
        ({"run/systemd/network/80-n.network": "[Match]\nName=!eth0\n"}, "80-n"),
        ({"run/systemd/network/80-n.network": "[Match]\nName=!tap*\n"}, None),
        ({"run/systemd/network/80-p.network":
          "[Match]\nType=ether\nPath=pci-*\n"}, None),
        ({"etc/systemd/network/80-e.network": "[Match]\nName=en* eth*\n"}, None),
        ({"etc/systemd/network/80-v.network":
          "[Match]\nKind=veth\nName=*\n"}, None),
        ({"etc/systemd/network/80-a.network":
          "[Match]\nName=*\n[Link]\nUnmanaged=yes\n"}, None),
        ({"etc/systemd/network/80-a.network":
          "[Match]\nName=*\n[Link]\nUnmanaged=no\n"}, "80-a"),
        # an empty file of the same name hides it
        ({"usr/lib/systemd/network/80-a.network": "[Match]\nName=*\n",
          "etc/systemd/network/80-a.network": ""}, None),
    ],
)  # fmt: skip
def test_networkd_manages_us_by_a_file(
    tmp_path: Path, files: dict[str, str], by: str | None
) -> None:
    found = networkd_file(write(tmp_path, files))
    assert (found and Path(found).stem) == by


@pytest.mark.parametrize("name", ["80-all", "00-all", "0-all"])
def test_the_remedy_is_a_file_that_networkd_reads_first(
    tmp_path: Path, name: str
) -> None:
    path = f"etc/systemd/network/{name}.network"
    root = write(tmp_path, {path: "[Match]\nName=*\n"})
    culprit = networkd_file(root)
    found = diagnose([], [], replace(V4, networkd=culprit))[0]
    assert found.code == "networkd" and path in found.message
    _run_remedy(tmp_path, found, "networkctl")
    assert networkd_file(root) is None


def test_our_file_keeps_networkd_away(tmp_path: Path) -> None:
    text = (ROOT / "data/networkd/00-tapster.network").read_text()
    root = write(tmp_path, {
        "usr/lib/systemd/network/00-tapster.network": text,
        "etc/systemd/network/10-all.network": "[Match]\nName=*\n",
    })  # fmt: skip
    assert networkd_file(root) is None


def _run_remedy(root: Path, finding: Finding, last: str) -> None:
    """The remedy's files, below a root of the test's; its last command is for a
    program that does not run here."""
    assert finding.remedy is not None
    command, _, reload = finding.remedy.rpartition(" && ")
    assert reload.startswith(last)
    command = command.replace("/etc/", f"{root}/etc/")
    subprocess.run(["sh", "-e", "-c", command], check=True)
