# SPDX-License-Identifier: LGPL-2.1-or-later
"""What the QEMU that is installed makes of the rewritten command lines."""

from __future__ import annotations

import functools
import shlex
import shutil
import subprocess
import sys

import pytest

from tapster.errors import UsageError
from tapster.vmm.qemu import parse

QEMU = "qemu-system-x86_64"
BASE = "-accel tcg -display none -nodefaults -S"
MACS = ["52:54:00:aa:00:00", "52:54:00:aa:00:01"]

pytestmark = pytest.mark.skipif(not shutil.which(QEMU), reason=f"no {QEMU}")

# Runs in a network namespace of its own, which ends with it: makes the taps
# that argv needs and becomes QEMU, or stops short of that without any argv.
CHILD = """
import fcntl, os, struct, sys
sys.path[:] = PATH
from tapster.vmm.net_option import Grant
from tapster.vmm.qemu import parse
def tap(name):
    fd = os.open("/dev/net/tun", os.O_RDWR)
    # TUNSETIFF with IFF_TAP | IFF_NO_PI | IFF_VNET_HDR
    fcntl.ioctl(fd, 0x400454CA, struct.pack("16sH22x", name, 0x5002))
    os.set_inheritable(fd, True)
    return fd
if sys.argv[1:]:
    line = parse(sys.argv[1:])
    taps = [tap(b"tapster%d" % at) for at, _ in enumerate(line.requests)]
    argv = line.with_taps([Grant(*both) for both in zip(taps, MACS)])
    print("argv:", *argv, flush=True)
    os.execvp(argv[0], argv)
tap(b"tapster0")
"""


def in_own_network(*argv: str, said: str = "") -> subprocess.CompletedProcess[str]:
    child = f"PATH = {sys.path!r}; MACS = {MACS!r}\n{CHILD}"
    return subprocess.run(
        ["unshare", "--net", sys.executable, "-I", "-c", child, *argv],
        input=said,
        capture_output=True,
        text=True,
        timeout=60,
    )


@functools.cache
def can_make_taps() -> bool:
    return in_own_network().returncode == 0


def run(line: str, machine: str = "q35") -> subprocess.CompletedProcess[str]:
    """Start QEMU with that, ask it for its network and end it."""
    if not can_make_taps():
        pytest.skip("no tap can be made in a network namespace here")
    argv = [QEMU, "-M", machine, *shlex.split(f"{BASE} -monitor stdio {line}")]
    return in_own_network(*argv, said="info network\nquit\n")


NICS = {
    "": (1, MACS[:1]),
    "-nic user": (1, MACS[:1]),
    "-netdev bridge,id=n0 -device virtio-net-pci,netdev=n0": (1, MACS[:1]),
    "-device e1000,netdev=n0, --netdev br=x,id=n0,type=bridge": (1, MACS[:1]),
    "-device e1000,netdev=n0,mac=52:54:00:bb:00:00 -netdev bridge,id=n0": (
        1,
        ["52:54:00:bb:00:00"],
    ),
    '-netdev \'{"type":"bridge","id":"n0"}\' '
    '-device \'{"driver":"e1000","netdev":"n0"}\'': (1, MACS[:1]),
    "-nic bridge -nic bridge,model=e1000": (2, MACS),
    "-nic bridge,id=n0,mac=52:54:00:bb:00:00": (1, ["52:54:00:bb:00:00"]),
    "-net nic -net bridge": (1, MACS[:1]),
    "-net nic,vlan=0,name=a -net bridge,vlan=0,name=b,br=x": (1, MACS[:1]),
    "-net nic,vlan=3,name=a -net bridge,vlan=3,name=b -net nic -net bridge": (2, MACS),
    "-net bridge -net nic -net user,vlan=1 -net nic,vlan=1": (1, MACS[:1]),
    "-netdev bridge,id=n0 -net nic,netdev=n0,model=e1000": (1, MACS[:1]),
    "-netdev bridge,id=n0 -netdev hubport,id=p,hubid=7,netdev=n0 "
    "-netdev hubport,id=q,hubid=7 -device e1000,netdev=q": (1, MACS[:1]),
}


@pytest.mark.parametrize(("line", "expected"), NICS.items(), ids=list(NICS))
def test_qemu_has_the_taps_and_the_macs(
    line: str, expected: tuple[int, list[str]]
) -> None:
    taps, macs = expected
    ended = run(line)
    assert ended.returncode == 0, ended.stderr
    assert ended.stdout.count("type=tap,fd=") == taps
    for mac in macs:
        assert f"macaddr={mac}" in ended.stdout
    assert "no peer" not in ended.stderr


@pytest.mark.parametrize("machine", ["pc", "q35", "microvm", "microvm,pcie=on"])
def test_the_added_nic_is_there_on_any_machine(machine: str) -> None:
    ended = run("", machine)
    assert ended.returncode == 0, ended.stderr
    assert "model=virtio-net" in ended.stdout
    assert f"macaddr={MACS[0]}" in ended.stdout


@pytest.mark.parametrize("line", ["-nic none", "-net none"])
def test_none_is_none(line: str) -> None:
    ended = run(line)
    assert ended.returncode == 0, ended.stderr
    assert "type=" not in ended.stdout


def qemu_says(*argv: str) -> str:
    """The first line of its complaint about a command line that it refuses."""
    ended = subprocess.run(
        [QEMU, *argv], stdin=subprocess.DEVNULL, capture_output=True, timeout=60
    )
    assert ended.returncode == 1
    return ended.stderr.decode().splitlines()[0]


@pytest.mark.parametrize(
    "line",
    [
        "-netdev nic,id=x",
        "-netdev none,id=x",
        "-netdev foo,id=x",
        "--netdev bridge,type=foo,id=x",
        "-netdev bridge",
        "-netdev bridge,id=x,fd=3",
        '-netdev \'{"type":"nic","id":"x"}\'',
        '-netdev \'{"type":"foo","id":"x"}\'',
        '-netdev \'{"type":"bridge","id":"n","id":"m"}\'',
        "-nic nic",
        "-nic foo",
        '-nic \'{"type":"bridge"}\'',
        "-net foo",
        "-net dump",
        "-net hubport,hubid=0",
    ],
)
def test_a_refusal_has_the_words_of_qemu_itself(line: str) -> None:
    argv = ["-M", "none", *shlex.split(f"{BASE} {line}")]
    with pytest.raises(UsageError) as caught:
        parse([QEMU, *argv])
    assert caught.value.message == qemu_says(*argv)


def test_every_option_of_qemu_takes_an_argument_or_is_known_not_to() -> None:
    """QEMU names the first word that it takes for an option and does not know."""
    shown = subprocess.run([QEMU, "--help"], capture_output=True, text=True, check=True)
    lines = (line.split() for line in shown.stdout.splitlines())
    names = {
        word.lstrip("-")
        for first, *_ in filter(None, lines)
        for word in first.split("/")
        if word.startswith("-") and word.strip("-")
    }
    assert len(names) > 100
    # These three have no argument of that kind: parse() refuses it.
    for name in sorted(names - {"net", "netdev", "nic"}):
        said = qemu_says(f"-{name}", "-zzz", "-yyy")
        assert said.endswith(("-zzz: invalid option", "-yyy: invalid option"))
        read_as_option = parse([QEMU, f"-{name}", "-name", "x"]).guest_name == "x"
        assert read_as_option == ("-zzz" in said), name
