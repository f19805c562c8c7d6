# SPDX-License-Identifier: LGPL-2.1-or-later
"""What becomes of a QEMU command line. Real QEMU: kernel/test_qemu_cmdline_real."""

from __future__ import annotations

import shlex
import subprocess
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tapster.errors import UsageError
from tapster.vmm.net_option import Grant
from tapster.vmm.qemu import CommandLine, is_qemu, parse

QEMU = "qemu-system-x86_64"


def read(line: str) -> CommandLine:
    return parse([QEMU, *shlex.split(line)])


def rewritten(line: str) -> str:
    """With taps 10, 11, ... and MACs M0, M1, ..."""
    command = read(line)
    grants = [Grant(10 + n, f"M{n}") for n in range(len(command.requests))]
    return shlex.join(command.with_taps(grants)[1:])


def asked(line: str) -> list[tuple[str | None, str | None]]:
    return [(request.bridge, request.mac) for request in read(line).requests]


REWRITES = {
    "a netdev and the device on it": (
        "-netdev bridge,id=n0,br=br0,helper=/h -device virtio-net-pci,netdev=n0",
        "-netdev tap,fd=10,id=n0 -device virtio-net-pci,netdev=n0,mac=M0",
    ),
    "the device may come first": (
        "-device e1000,netdev=n0,addr=5 -m 1G -netdev bridge,id=n0",
        "-device e1000,netdev=n0,addr=5,mac=M0 -m 1G -netdev tap,fd=10,id=n0",
    ),
    "two dashes, explicit type, any order, unknown properties": (
        "--netdev id=n0,sndbuf=0,type=bridge,queues=1,br=x",
        "--netdev tap,fd=10,id=n0,sndbuf=0,queues=1",
    ),
    "the last of several types counts": (
        "-netdev user,br=a,type=bridge,id=n0",
        "-netdev tap,fd=10,id=n0",
    ),
    "commas within values stay": (
        "-netdev bridge,id=n0,x=a,,b,br=c,,d,y=,,",
        "-netdev tap,fd=10,id=n0,x=a,,b,y=,,",
    ),
    "a comma at the end does not swallow the MAC": (
        "-netdev bridge,id=n0 -device e1000,netdev=n0,",
        "-netdev tap,fd=10,id=n0 -device e1000,netdev=n0,mac=M0",
    ),
    "JSON": (
        (
            """-netdev '{"type":"bridge","id":"n0","br":"b"}'"""
            """ -device '{"driver":"e1000","netdev":"n0","addr":5}'"""
        ),
        (
            """-netdev '{"type": "tap", "fd": "10", "id": "n0"}'"""
            """ -device '{"driver": "e1000", "netdev": "n0", "addr": 5, "mac": "M0"}'"""
        ),
    ),
    "a MAC of the user's stays": (
        "-netdev bridge,id=n0 -device e1000,mac=A,netdev=n0",
        "-netdev tap,fd=10,id=n0 -device e1000,mac=A,netdev=n0",
    ),
    "a netdev nobody uses yet": (
        "-netdev bridge,id=n0 -device virtio-rng-pci",
        "-netdev tap,fd=10,id=n0 -device virtio-rng-pci",
    ),
    "each device gets its own netdev's MAC": (
        (
            "-netdev bridge,id=a -netdev bridge,id=b -device e1000,netdev=b "
            "-device e1000,netdev=a"
        ),
        (
            "-netdev tap,fd=10,id=a -netdev tap,fd=11,id=b "
            "-device e1000,netdev=b,mac=M1 -device e1000,netdev=a,mac=M0"
        ),
    ),
    "-nic is both, and keeps its model": (
        "-nic bridge,br=br0,model=e1000 -nic bridge,mac=A",
        "-nic tap,fd=10,model=e1000,mac=M0 -nic tap,fd=11,mac=A",
    ),
    "-net with its NIC": (
        "-net nic,model=e1000 -net bridge,br=x",
        "-net nic,model=e1000,macaddr=M0 -net tap,fd=10",
    ),
    "-net without a NIC": ("-net bridge", "-net tap,fd=10"),
    "-net: the first NIC has the first tap, whoever is left over": (
        "-net bridge -net bridge -net nic",
        "-net tap,fd=10 -net tap,fd=11 -net nic,macaddr=M0",
    ),
    "vlan=0 is the hub that -net has anyway, name= is an id": (
        "-net nic,vlan=0,name=a -net bridge,vlan=0,name=b,br=x",
        "-net nic,id=a,macaddr=M0 -net tap,fd=10,id=b",
    ),
    "another vlan is another hub": (
        "-net nic,vlan=2 -net bridge,vlan=2",
        (
            "-netdev hubport,id=tapster1,hubid=2 -net nic,netdev=tapster1,macaddr=M0 "
            "-netdev tap,fd=10,id=tapster2 "
            "-netdev hubport,id=tapster3,hubid=2,netdev=tapster2"
        ),
    ),
    "other backends come along into today's words": (
        "-net bridge -net user,vlan=1 -net none",
        (
            "-net tap,fd=10 -netdev user,id=tapster2 "
            "-netdev hubport,id=tapster3,hubid=1,netdev=tapster2 -net none"
        ),
    ),
    "-net nic on a netdev": (
        "-netdev bridge,id=n0 -net nic,netdev=n0",
        "-netdev tap,fd=10,id=n0 -net nic,netdev=n0,macaddr=M0",
    ),
    "a NIC behind a hub": (
        (
            "-netdev bridge,id=n0 -netdev hubport,id=p,hubid=7,netdev=n0 "
            "-netdev hubport,id=q,hubid=7 -device e1000,netdev=q"
        ),
        (
            "-netdev tap,fd=10,id=n0 -netdev hubport,id=p,hubid=7,netdev=n0 "
            "-netdev hubport,id=q,hubid=7 -device e1000,netdev=q,mac=M0"
        ),
    ),
    "other networks stay": (
        "-nic user -netdev tap,id=t,br=b,helper=/h -nic bridge -net nic,vlan=3",
        (
            "-nic user -netdev tap,id=t,br=b,helper=/h -nic tap,fd=10,mac=M0 "
            "-net nic,vlan=3"
        ),
    ),
}


@pytest.mark.parametrize(("line", "expected"), REWRITES.values(), ids=REWRITES)
def test_bridge_options_become_taps(line: str, expected: str) -> None:
    assert rewritten(line) == expected


ADDED = "-netdev tap,id=tapster0,fd=10 -device virtio-net-pci,netdev=tapster0,mac=M0"


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("", ADDED),
        ("-m 1G disk.img", f"-m 1G disk.img {ADDED}"),
        ("-nic user", f"-nic user {ADDED}"),
        ("-nodefaults", f"-nodefaults {ADDED}"),
        ("-append '-netdev bridge'", f"-append '-netdev bridge' {ADDED}"),
        ("-append -netdev bridge", f"-append -netdev bridge {ADDED}"),
        ("-name '-nic bridge' -S", f"-name '-nic bridge' -S {ADDED}"),
        ("-netdev tap,id=t,br=x", f"-netdev tap,id=t,br=x {ADDED}"),
        # What lacks its argument would take the added option for it.
        ("-S -m", f"-S {ADDED} -m"),
        ("-device x,id=tapster0", "-device x,id=tapster0 " + ADDED.replace("r0", "r1")),
        (
            "-M microvm,pcie=on",
            "-M microvm,pcie=on " + ADDED.replace("-pci", "-device"),
        ),
    ],
)
def test_without_a_bridge_option_one_virtio_nic_is_added(
    line: str, expected: str
) -> None:
    assert rewritten(line) == expected
    assert asked(line) == [(None, None)]


@pytest.mark.parametrize(
    ("program", "driver"),
    [
        ("/usr/bin/qemu-system-aarch64", "virtio-net-pci"),
        ("qemu-system-s390x", "virtio-net"),
        ("qemu-kvm", "virtio-net"),
        ("qemu-system-x86_64-microvm", "virtio-net-device"),
    ],
)
def test_the_added_nic_is_one_the_machine_has(program: str, driver: str) -> None:
    assert parse([program]).with_taps([Grant(3, "M")])[-1].split(",")[0] == driver


@pytest.mark.parametrize(
    "line",
    [
        "-nic none",
        "-net none -m 1G",
        "-machine none",
        "-version",
        "-m 1G --help",
        "-M help",
        "-device help",
        "-device e1000,help",
        "-nic model=help",
        "-netdev ?",
        "-nic bridge -version",
    ],
)
def test_no_tap_is_asked_for_where_there_is_to_be_no_nic(line: str) -> None:
    assert asked(line) == []
    assert read(line).with_taps([]) == [QEMU, *shlex.split(line)]


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("-nic bridge", (None, None)),
        ("-nic bridge,br=a,br=b", ("b", None)),
        ("-nic bridge,br=", ("", None)),
        ("-nic bridge,br=a,,b", ("a,b", None)),
        ("-nic bridge,br", ("on", None)),
        ("-nic bridge,nobr", ("off", None)),
        ("-nic bridge,mac=A", (None, "A")),
        ("-netdev bridge,id=n -device e1000,netdev=n,mac=A,mac=B", (None, "B")),
        ("-netdev bridge,id=n,id=m -device e1000,netdev=n,mac=A", (None, "A")),
        ("-net nic,macaddr=A -net bridge,br=x", ("x", "A")),
        ("-net nic,vlan=1,macaddr=A -net bridge,vlan=0", (None, None)),
        ("-net nic,vlan=01,macaddr=A -net bridge,vlan=1", (None, "A")),
        ("-nic hubport,hubid=0,mac=A -net bridge", (None, "A")),
    ],
)
def test_bridge_and_mac_are_asked_for_as_written(
    line: str, expected: tuple[str | None, str | None]
) -> None:
    assert asked(line) == [expected]


def test_requests_come_in_order_and_say_where_they_come_from() -> None:
    requests = read("-nic bridge,br=a --netdev type=bridge,id=n -net bridge").requests
    assert [request.option for request in requests] == [
        "-nic bridge,br=a",
        "--netdev type=bridge,id=n",
        "-net bridge",
    ]


@pytest.mark.parametrize(
    ("line", "name"),
    [
        ("", None),
        ("-name web", "web"),
        ("-name guest=web,debug-threads=on", "web"),
        ("-name debug-threads=on", None),
        ("-name a -name guest=b,process=c", "b"),
        ("-name a,,b", "a,b"),
        ("-name ''", None),
        ("-append -name x", None),
    ],
)
def test_the_guest_has_the_name_of_dash_name(line: str, name: str | None) -> None:
    assert read(line).guest_name == name


REFUSED = {
    "-netdev nic,id=x": "network backend 'nic' is not compiled into this binary",
    "-netdev none,id=x": "network backend 'none' is not compiled into this binary",
    "-netdev foo,id=x": "Parameter 'type' does not accept value 'foo'",
    "--netdev foo,id=x": "Parameter 'type' does not accept value 'foo'",
    "-netdev bridge,type=foo,id=x": "Parameter 'type' does not accept value 'foo'",
    "-netdev bridge": "Parameter 'id' is missing",
    "-netdev bridge,id=x,fd=3": "Invalid parameter 'fd'",
    '-netdev \'{"type":"nic","id":"x"}\'': "network backend 'nic' is not",
    '-netdev \'{"type":"bridge","id":"n","id":"m"}\'': "JSON parse error, duplicate",
    "-nic nic": "network backend 'nic' is not compiled into this binary",
    "-nic foo": "Parameter 'type' does not accept value 'foo'",
    "-net foo": "Parameter 'type' does not accept value 'foo'",
    "-net dump": "Parameter 'type' does not accept value 'dump'",
    "-net hubport,hubid=0": "network backend 'hubport' is only supported with "
    "-netdev/-nic",
}


@pytest.mark.parametrize(("line", "why"), REFUSED.items())
def test_what_qemu_refuses_is_refused_in_its_words(line: str, why: str) -> None:
    with pytest.raises(UsageError) as caught:
        read(line)
    shown = " ".join(shlex.split(line))
    assert caught.value.message.startswith(f"{QEMU}: {shown}: {why}")


@pytest.mark.parametrize(
    "line",
    [
        "-net bridge,vlan=x",
        "-netdev '{'",
        "-netdev \"{'type':'bridge','id':'n'}\"",
        "-device \"{'driver':'e1000','netdev':'n'}\"",
    ],
)
def test_what_cannot_be_understood_is_refused(line: str) -> None:
    with pytest.raises(UsageError):
        read(line)


@pytest.mark.parametrize("count", [0, 2])
def test_each_request_needs_one_tap(count: int) -> None:
    with pytest.raises(ValueError, match="requests"):
        read("-nic bridge").with_taps([Grant(3, "M")] * count)


def test_qemu_is_known_by_its_name() -> None:
    known = ["qemu-system-x86_64", "/usr/libexec/qemu-kvm", "./kvm", "qemu"]
    assert [is_qemu(name) for name in known] == [True] * 4
    others = ["", "qemu-img", "/qemu-system-x86_64/sh", "firecracker", "qemu/"]
    assert [is_qemu(name) for name in others] == [False] * 5


def test_importing_it_drags_in_nothing_slow() -> None:
    slow = {"argparse", "dataclasses", "json", "re", "typing", "inspect"}
    script = f"import sys, tapster.vmm.qemu; print({slow!r} & set(sys.modules))"
    path = f"import sys; sys.path[:] = {sys.path!r}; {script}"
    shown = subprocess.run(
        [sys.executable, "-I", "-S", "-c", path], capture_output=True, check=True
    )
    assert shown.stdout.strip() == b"set()"


# Words of which command lines are made, so that most of them mean something.
WORDS = """
    -net -netdev --netdev -nic -device -name -M -S -m - -- -append -unknown bridge nic
    bridge,id=n,br=b type=bridge,id=n e1000,netdev=n virtio-net,netdev=n,mac=A
    bridge,vlan=1 nic,vlan=1,name=x hubport,id=h,hubid=1,netdev=n user none {} ,, =
    bridge,,, {"type":"bridge","id":"n"} {"driver":"e1000","netdev":"n"}
"""
words = st.sampled_from(WORDS.split())
argvs = st.lists(words | st.text(max_size=12), max_size=8)


@given(argvs)
def test_any_command_line_is_understood_or_a_usage_error(argv: list[str]) -> None:
    try:
        command = parse(argv)
    except UsageError:
        return
    grants = [Grant(n, "M") for n in range(len(command.requests))]
    result = command.with_taps(grants)
    assert result[0] == argv[0]
    assert len(result) >= len(argv)


@given(argvs)
def test_without_a_bridge_option_every_argument_stays(argv: list[str]) -> None:
    argv = [QEMU, *(word for word in argv if "bridge" not in word)]
    try:
        command = parse(argv)
    except UsageError:
        return
    result = command.with_taps([Grant(3, "M")] * len(command.requests))
    if command.requests:
        start = next(
            at for at, word in enumerate(result) if word.startswith("tap,id=tapster")
        )
        assert result[start - 1] == "-netdev"
        assert result[start + 1] == "-device"
        del result[start - 1 : start + 3]
    assert result == argv
