# SPDX-License-Identifier: LGPL-2.1-or-later
"""The test guest itself: it builds the same twice, boots, and does as told.

Other guest tests stand on this one: if it fails, look here first.
"""

from __future__ import annotations

import base64
import ipaddress
import os
import pwd
import shutil
import stat
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from guest.build import GuestBuildError, Image, build, cpio
from guest.vm import QEMU, Guest, GuestDied, GuestError, GuestTimeout

needs_apt = pytest.mark.skipif(
    not (shutil.which("apt-get") and shutil.which("dpkg-deb")),
    reason="the guest is made from Debian's packages",
)
needs_qemu = pytest.mark.skipif(not shutil.which(QEMU), reason=f"no {QEMU}")
pytestmark = needs_apt


@pytest.fixture(scope="module")
def guest_image() -> Image:
    """The image in the checkout's cache."""
    return build()


@pytest.fixture(scope="module")
def guest(guest_image: Image) -> Iterator[Guest]:
    """A guest without a NIC, for the tests that only talk to it."""
    with Guest("plain", nics=["none"], image=guest_image) as guest:
        yield guest


# --- building


def test_build_is_reproducible(tmp_path: Path) -> None:
    first, second = build(tmp_path / "a"), build(tmp_path / "b")
    assert first.initramfs.read_bytes() == second.initramfs.read_bytes()
    assert first.kernel.read_bytes() == second.kernel.read_bytes()


def test_build_is_not_repeated(tmp_path: Path) -> None:
    first = build(tmp_path)
    before = first.initramfs.stat()
    assert build(tmp_path) == first
    assert first.initramfs.stat().st_ino == before.st_ino
    assert sorted(p.name for p in tmp_path.iterdir()) == sorted(
        [first.kernel.parent.name, "current.json", "lock"]
    )


def test_build_reports_what_is_missing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(GuestBuildError, match=r"apt-cache .*Debian") as caught:
        build(tmp_path / "cache")
    assert "\n" not in str(caught.value)


def test_cpio_is_sorted_and_has_a_trailer() -> None:
    file = (stat.S_IFREG | 0o644, b"hello")
    one = cpio({"b": file, "a": file})
    assert one == cpio({"a": file, "b": file})
    assert one.index(b"a\0") < one.index(b"b\0") < one.index(b"TRAILER!!!\0")
    assert len(one) % 512 == 0


# --- the agent


@needs_qemu
def test_status_and_output(guest: Guest) -> None:
    assert guest.run("true").status == 0
    assert guest.run("true").output == ""
    assert guest.run("echo out; echo err >&2; exit 7").status == 7
    assert guest.run("echo out; echo err >&2").output == "out\nerr\n"
    assert guest.run("hostname").output == "plain\n"


@needs_qemu
def test_quotes_newlines_and_bytes(guest: Guest) -> None:
    assert guest.run("""echo "it's" '"$HOME"'\necho ü""").output == 'it\'s "$HOME"\nü\n'
    assert guest.run("printf 'begin 1\\nend 1 0 0\\n'").output == "begin 1\nend 1 0 0\n"
    # far more than a shell's argument may be long
    text = base64.b64encode(os.urandom(200_000)).decode()
    assert guest.run(f"cat <<E\n{text}\nE", timeout=30).output == text + "\n"


@needs_qemu
def test_long_output_is_whole(guest: Guest) -> None:
    lines = guest.run("seq 200000", timeout=30).output.splitlines()
    assert lines == [str(n) for n in range(1, 200_001)]


@needs_qemu
def test_a_command_that_takes_too_long_is_killed(guest: Guest) -> None:
    with pytest.raises(GuestTimeout, match="started"):
        guest.run("echo started; sleep 1000 | cat", timeout=1)
    assert guest.run("pidof sleep").status == 1


@needs_qemu
def test_background_commands_stay(guest: Guest) -> None:
    guest.run("sleep 1000 &", check=True)
    assert guest.run("killall sleep").status == 0


@needs_qemu
def test_check_names_the_command_and_shows_the_console(guest: Guest) -> None:
    guest.run("echo seen on the console >/dev/console")
    with pytest.raises(GuestError, match=r"(?s)ls /no.*seen on the console"):
        guest.run("ls /no/where", check=True)


# --- the network


@needs_qemu
def test_dhcp_and_slaac() -> None:
    nic = "user,hostname=given,ipv6-net=fd00:7a::/64,dnssearch=example.test"
    with Guest("lease", nics=[nic]) as guest:
        assert guest.wait_for_address(4) == ipaddress.ip_interface("10.0.2.15/24")
        address = guest.wait_for_address(6)
        assert address in ipaddress.ip_network("fd00:7a::/64")
        assert address in guest.addresses()["eth0"]
        assert guest.run("ping -c1 -W2 10.0.2.2").status == 0
        routes = guest.run("ip route").output
        assert "default via 10.0.2.2 dev eth0" in routes
        resolver = guest.run("cat /etc/resolv.conf").output.splitlines()
        assert "search example.test" in resolver
        assert "nameserver 10.0.2.3" in resolver


@needs_qemu
def test_nics_can_stay_down() -> None:
    with Guest("down", nics=["user"], words=["tapster.net=none"]) as guest:
        assert guest.addresses() == {}
        flags = guest.run("ip link show eth0", check=True).output.split(">")[0]
        assert "UP" not in flags


# --- life and death


@needs_qemu
def test_power_off_ends_it(guest_image: Image) -> None:
    with Guest("off", image=guest_image) as guest:
        guest.wait_ready()
        assert guest.shutdown() == 0
        with pytest.raises(GuestDied, match="exit status 0"):
            guest.run("true")


@needs_qemu
def test_it_goes_when_nobody_holds_the_agents_port(guest_image: Image) -> None:
    with Guest("orphan", image=guest_image) as guest:
        guest.wait_ready()
        assert guest._agent is not None
        guest._agent.close()
        assert guest.wait(timeout=20) == 0


@needs_qemu
def test_a_guest_that_cannot_start_says_why(guest_image: Image) -> None:
    bad = Guest("bad", image=guest_image, extra=["-device", "no-such"])
    with bad, pytest.raises(GuestDied, match="'no-such' is not a valid device"):
        bad.wait_ready()
    with pytest.raises(FileNotFoundError), Guest("bad", prefix=["/no/such/program"]):
        pass


@needs_qemu
@pytest.mark.skipif(os.geteuid() != 0, reason="only root can start it as another user")
def test_runs_as_another_user(guest_image: Image) -> None:
    nobody = pwd.getpwnam("nobody")
    popen = {"user": nobody.pw_uid, "group": nobody.pw_gid, "extra_groups": []}
    # The checkout may be where only root can go.
    with tempfile.TemporaryDirectory(prefix="tapster-test-") as directory:
        os.chmod(directory, 0o755)
        files = [
            Path(shutil.copy(path, directory))
            for path in (guest_image.kernel, guest_image.initramfs)
        ]
        for path in files:
            path.chmod(0o644)
        with Guest("nobody", image=Image(*files), popen=popen, prefix=["env"]) as guest:
            guest.wait_ready()
            assert os.stat(f"/proc/{guest.pid}").st_uid == nobody.pw_uid
            assert guest.run("id -u").output == "0\n"
