# SPDX-License-Identifier: LGPL-2.1-or-later
"""What an unprivileged user gets: booted guests on networks, and nothing left."""

from __future__ import annotations

import os
import signal
import subprocess

import pytest

from guest.build import Image
from guest.vm import Guest, GuestDied
from lab import OTHER, USER, Lab, until
from support.booted import PAGE, devices, nics, page, run_guest, serve


def test_rootless_guests_reach_each_other_and_the_outside_and_leave_nothing(
    lab: Lab, lab_image: Image
) -> None:
    with run_guest(lab, lab_image, "a") as a, run_guest(lab, lab_image, "b") as b:
        for guest in (a, b):
            guest.wait_ready(60)
            guest.wait_for_address(4, timeout=30)
        a.wait_for_address(6, timeout=30)
        b.wait_for_address(6, timeout=30)
        by_name = {nic["name"]: nic for nic in nics(lab)}
        assert sorted(by_name) == ["a", "b"]
        told = {str(i.ip) for i in a.addresses()["eth0"]}
        assert by_name["a"]["ipv4"] in told
        assert by_name["a"]["ipv6"] in told
        assert (
            a.run("cat /sys/class/net/eth0/address").output.strip()
            == by_name["a"]["mac"]
        )
        # tapster run has become QEMU: the pid is the VMM's own.
        assert by_name["a"]["pid"] == a.pid
        a.run("ping -c1 -W5 b", timeout=20)
        b.run("ping -c1 -W5 a.default.internal", timeout=20)
        a.run(f"ping -c1 -W5 {by_name['b']['ipv4']}", timeout=20)
        assert PAGE in page(a)
        # Neither the host's loopback nor its own address leads to the host.
        serve(lab, "127.0.0.1")
        gateway = by_name["a"]["ipv4"].rpartition(".")[0] + ".1"
        assert a.run(f"nc -w 2 {gateway} 7777 </dev/null", check=False).status != 0

        a.kill()
        a.wait()
        until("a's NIC to go", lambda: [n["name"] for n in nics(lab)] == ["b"])
        until(
            "a's name to go",
            lambda: (
                "NXDOMAIN"
                in b.run("nslookup a.default.internal 2>&1", check=False).output
            ),
        )
        assert PAGE in page(b)
    until("b's NIC to go", lambda: nics(lab) == [])
    assert devices(lab) == []  # nothing was ever made in the host's own namespace


def test_system_guests_of_two_users_have_networks_of_their_own(
    lab: Lab, lab_image: Image
) -> None:
    daemon = lab.daemon()
    with (
        run_guest(lab, lab_image, "a") as a,
        run_guest(lab, lab_image, "a", user=OTHER) as other,
    ):
        for guest in (a, other):
            guest.wait_ready(60)
            guest.wait_for_address(4, timeout=30)
        everything = nics(lab, None)
        assert {nic["uid"] for nic in everything} == {USER, OTHER}
        assert len({nic["bridge"] for nic in everything}) == 2
        assert [nic["uid"] for nic in nics(lab)] == [USER]
        theirs = next(nic for nic in everything if nic["uid"] == OTHER)
        assert (
            a.run(f"ping -c1 -W2 {theirs['ipv4']}", timeout=20, check=False).status != 0
        )
        assert PAGE in page(a)
        assert a.run("ping -c1 -W5 192.0.2.1", timeout=20).status == 0
        # A service of the host, on all its addresses, is not for guests.
        serve(lab, "0.0.0.0")
        gateway = nics(lab)[0]["ipv4"].rpartition(".")[0] + ".1"
        for address in (gateway, "192.0.2.2"):
            assert a.run(f"nc -w 2 {address} 7777 </dev/null", check=False).status != 0
    until("all NICs to go", lambda: nics(lab, None) == [])
    until("all devices to go", lambda: devices(lab) == [], 15)
    assert daemon.stop() == 0
    assert "tapster" not in lab.host.run("nft", "list", "tables").stdout


@pytest.mark.parametrize(
    "option",
    [
        "-nic bridge,br=br0,model=virtio-net-pci,helper={helper}",
        "-netdev bridge,id=n,helper={helper} -device virtio-net-pci,netdev=n",
        "-netdev tap,id=n,helper={helper}\t--br=br0 -device virtio-net-pci,netdev=n",
        "-sandbox on -nic bridge,br=lan0,model=virtio-net-pci,helper={helper}",
    ],
    ids=["nic", "netdev", "tap-helper", "sandbox-lan"],
)
def test_unmodified_qemu_with_our_helper_gets_a_network(
    lab: Lab, lab_image: Image, option: str
) -> None:
    lab.host.run("ip", "link", "add", "lan0", "type", "bridge")
    lab.host.run("ip", "link", "set", "lan0", "up")
    lab.host.run("ip", "addr", "add", "198.51.100.1/24", "dev", "lan0")
    lab.bridge_conf("allow lan0\n")
    lab.daemon()
    words = [
        word.format(helper=lab.helper) for word in option.replace("\t", "\0").split()
    ]
    words = [word.replace("\0", " ") for word in words]
    with Guest(
        "h", prefix=lab.host.prefix(USER), extra=words, image=lab_image
    ) as guest:
        guest.wait_ready(60)
        if "lan0" in option:
            guest.run("ip addr add 198.51.100.9/24 dev eth0")
            guest.run(
                "for i in 1 2 3 4 5; do ping -c1 -W2 198.51.100.1 && exit; done",
                timeout=20,
            )
        else:
            guest.wait_for_address(4, timeout=40)
            assert PAGE in page(guest)
        (nic,) = nics(lab)
        assert nic["state"] == "active"
        assert nic["mac"] == guest.run("cat /sys/class/net/eth0/address").output.strip()
        assert nic["pid"] == guest.pid
    until("the NIC to go", lambda: nics(lab) == [])


def test_guest_with_another_guests_mac_stays_shut(lab: Lab, lab_image: Image) -> None:
    lab.daemon()
    nic_option = f"-nic bridge,model=virtio-net-pci,mac=%s,helper={lab.helper}"
    with run_guest(lab, lab_image, "first") as first:
        first.wait_ready(60)
        first.wait_for_address(4, timeout=30)
        mac = nics(lab)[0]["mac"]
        words = (nic_option % mac).split()
        with Guest(
            "twin", prefix=lab.host.prefix(USER), extra=words, image=lab_image
        ) as twin:
            twin.wait_ready(60)
            until(
                "the twin to be refused", lambda: len(nics(lab)) == 2 and _refused(lab)
            )
            table = lab.host.run(*lab.tapster("ls"), user=USER).stdout
            assert "refused" in table
            assert mac in table
            assert PAGE in page(first)


def _refused(lab: Lab) -> bool:
    return any(
        nic["state"] == "refused" and "another guest" in nic["reason"]
        for nic in nics(lab)
    )


def test_exit_status_and_signals_are_the_vmms_own(lab: Lab, lab_image: Image) -> None:
    lab.daemon()
    with run_guest(lab, lab_image, "s") as guest:
        guest.wait_ready(60)
        guest.run("true")
        assert (
            lab.host.run("readlink", f"/proc/{guest.pid}/exe")
            .stdout.strip()
            .endswith("qemu-system-x86_64")
        )
        os.kill(guest.pid, signal.SIGTERM)
        assert guest.wait() == 0  # QEMU's own status for SIGTERM
    done = lab.host.run(
        *lab.tapster("run", "--", "sh", "-c", "exit 37"), user=USER, check=False
    )
    assert done.returncode == 37
    killed = lab.host.popen(
        *lab.tapster("run", "--", "sh", "-c", "kill -9 $$"), user=USER
    )
    assert killed.wait(20) == -signal.SIGKILL


def test_denied_bridge_is_one_line_and_no_guest(lab: Lab, lab_image: Image) -> None:
    lab.host.run("ip", "link", "add", "lan0", "type", "bridge")
    lab.daemon()
    words = f"-nic bridge,br=lan0,model=virtio-net-pci,helper={lab.helper}".split()
    with Guest(
        "d", prefix=lab.host.prefix(USER), extra=words, image=lab_image
    ) as guest:
        with pytest.raises(GuestDied) as caught:
            guest.wait_ready(60)
        assert "you may not use 'lan0', or it does not exist" in str(caught.value)
        assert "bridge helper failed" in str(caught.value)
    done = lab.host.run(
        *lab.tapster("run", "--bridge", "lan0", "--", "qemu-system-x86_64"),
        user=USER,
        check=False,
        stdin=subprocess.DEVNULL,
    )
    assert done.returncode == 1
    assert done.stderr.count("\n") == 1
    assert "lan0" in done.stderr
