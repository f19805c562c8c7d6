# SPDX-License-Identifier: LGPL-2.1-or-later
"""What users have of a port with all its checks: a guest's rates and its delay.

`datapath.py` times the kernel's part alone. Here is all of it: a program in a
booted guest, virtio, a VMM, the port, and a program on the host. Nothing here
judges: the status is 0 whether or not the budget holds.
"""

from __future__ import annotations

import argparse
import contextlib
import functools
import itertools
import json
import math
import os
import socket
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "tools"))

from benchmarks import report, space
from guest.build import GuestBuildError, Image, build
from guest.vm import Guest, GuestError, accelerators
from lab import USER, Lab, Space, why_not
from tapster.kernel import namespaces, tun

RATIO = 0.97  # wanted
KINDS = ("plain", "control", "beside", "lan", "nat")
NAMES = {
    "control": "plain, another",
    "beside": "plain, on tapsterd's host",
    "lan": "LAN",
    "nat": "NAT",
}
_PLAIN = {"plain": "10.90.0", "control": "10.91.0", "beside": "10.92.0"}
# Each is first, second, … equally often, and behind each other one equally often.
ORDERS = tuple(
    tuple((kind + shift) % len(KINDS) for kind in order)
    for shift in range(len(KINDS))
    for order in ((0, 1, 4, 2, 3), (3, 2, 4, 1, 0))
)

_SECONDS, _QUICK_SECONDS = 10.0, 0.1  # for each line, about
_LEAD, _BLOCK = 0.015, 0.05  # seconds of a port's turn: not counted, and counted
_ASKED = 8  # questions of a port's turn
_PORT, _PATIENCE = 5001, 20
_MSS = 160  # of small frames, both ways
_NO_OFFLOADS = "".join(
    f",{name}=off"
    for name in (
        *("csum", "gso", "host_tso4", "host_tso6", "host_ecn", "host_ufo"),
        *("guest_csum", "guest_tso4", "guest_tso6", "guest_ecn", "guest_ufo"),
    )
)
_CONFIG = f"""
[authorization]
bridge_conf = "/etc/qemu/bridge.conf"

[networks.default]
host_access = ["tcp/{_PORT}"]

[networks.lan]
mode = "bridge"
bridge = "br0"
address_check = "reserved"
reservations = {{ guest = {{ ipv4 = "10.97.0.2" }} }}

[[rules]]
networks = ["*"]
"""
_T = TypeVar("_T")


class Line(NamedTuple):
    """One thing that is measured."""

    what: str
    unit: str  # "Gbit/s", "k/s" or "us"
    program: str  # in the guest; its input and output are the connection
    buffer: int = 1 << 17
    """SO_SNDBUF and SO_RCVBUF: little is under way when it is the next one's turn"""
    to_guest: bool = False
    alone: bool = False
    """All of it on one processor, and by the time that it takes of that: every
    nanosecond counts, whoever spends it, and what else runs here does not."""


_FROM, _TO = "dd if=/dev/zero bs=64k", "dd of=/dev/null bs=64k"
_FRAMES = f"frames of {_MSS + 54} bytes"
LINES = {
    False: (
        Line("TCP, from the guest", "Gbit/s", _FROM),
        Line("TCP, from the guest", "Gbit/s", _FROM, alone=True),
        Line("TCP, to the guest", "Gbit/s", _TO, to_guest=True),
        Line("TCP, to the guest", "Gbit/s", _TO, to_guest=True, alone=True),
        Line("one byte and its answer", "us", "cat"),
    ),
    True: (
        Line(f"{_FRAMES}, from the guest", "k/s", _FROM, 1 << 14, alone=True),
        Line(
            f"{_FRAMES}, to the guest", "k/s", _TO, 1 << 13, to_guest=True, alone=True
        ),
    ),
}


def parse(arguments: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="benchmarks/vmm.py",
        description="Measure a guest on ports with all checks against the same guest"
        " on a plain tap on a plain bridge. Needs root; works in namespaces of its"
        " own and leaves nothing but its results.",
        allow_abbrev=False,
    )
    how_long = parser.add_mutually_exclusive_group()
    how_long.add_argument("--quick", action="store_true", help="a check only")
    how_long.add_argument(
        "--seconds",
        type=float,
        default=_SECONDS,
        metavar="N",
        help="for each line, about (default: %(default)g); more narrow the bounds",
    )
    return parser.parse_args(arguments)


def main(arguments: list[str]) -> int:
    options = parse(arguments)
    reason = why_not()
    if reason is not None:
        print(f"benchmarks: {reason}", file=sys.stderr)
        return 1
    space.stop_on_sigterm()
    try:
        result = measure(_QUICK_SECONDS if options.quick else options.seconds)
    except (GuestBuildError, GuestError, RuntimeError, space.Failed) as error:
        print(f"benchmarks: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130
    report.keep("vmm", result, document(result))
    print(table(result))
    return 0


def measure(seconds: float) -> dict[str, Any]:
    """All of it.

    :raise GuestError: a guest does not do what it is told.
    :raise Failed: something could not be measured.
    """
    start = time.monotonic()
    load = round(os.getloadavg()[0], 2)
    image = build()
    lines = []
    everywhere = os.sched_getaffinity(0)
    with tempfile.TemporaryDirectory(prefix="tapster-bench-") as name:
        os.chmod(name, 0o755)  # noqa: S103 - the guest's user looks in
        with Lab(Path(name)) as lab:
            furnish(lab, image)
            for small in LINES:
                with booted(lab, image, small=small) as (guest, ports):
                    for line in LINES[small]:
                        passed = time.monotonic() - start
                        print(f"{passed:6.1f} s  {line.what}", file=sys.stderr)
                        place(guest, {min(everywhere)} if line.alone else everywhere)
                        found = compare(guest, ports, line, seconds, small=small)
                        lines.append({"one_processor": line.alone} | found)
                    place(guest, everywhere)
    return {
        "machine": report.machine(),
        "accelerator": accelerators()[0],
        "load": load,
        "seconds": round(time.monotonic() - start),
        "lines": lines,
    }


# The hosts and the guest


def within(where: Space, function: Callable[[], _T]) -> _T:
    """In that network namespace; this process has no other thread."""
    with open("/proc/self/ns/net") as here, open(f"/proc/{where.pid}/ns/net") as there:
        namespaces.setns(there.fileno(), namespaces.CLONE_NEWNET)
        try:
            return function()
        finally:
            namespaces.setns(here.fileno(), namespaces.CLONE_NEWNET)


def _where(lab: Lab, name: str) -> Space:
    return lab.world if name in ("plain", "control") else lab.host


def furnish(lab: Lab, image: Image) -> None:
    """Bridges: of the lab's host, with tapsterd, and of the world, where there is
    no table of nftables."""
    bridges = {kind: f"{net}.1/24" for kind, net in _PLAIN.items()}
    for name, address in (bridges | {"br0": "10.97.0.1/24"}).items():
        where = _where(lab, name)
        where.run("ip", "link", "add", name, "type", "bridge")
        where.run("ip", "addr", "add", address, "dev", name)
        where.run("ip", "link", "set", name, "up")
    lab.host.run("mkdir", "/run/guest")
    lab.host.run("mount", "--bind", str(image.kernel.parent), "/run/guest")
    lab.bridge_conf("allow br0\n")
    lab.config(_CONFIG)
    lab.daemon("--config", "/run/config")


class Port:
    """One NIC of the guest, as its host sees it."""

    def __init__(
        self, where: Space, bridge: str, ifname: str, mac: str, ipv4: str, far: str
    ) -> None:
        self.where = where
        self.bridge = bridge
        self.mac, self.ipv4, self.far = mac, ipv4, far
        # This file tells of the namespace that it was opened in.
        flags = os.O_RDONLY | os.O_CLOEXEC
        self._devices = within(
            where, lambda: os.open("/proc/thread-self/net/dev", flags)
        )
        self._mark = f"{ifname}:".encode()

    def close(self) -> None:
        os.close(self._devices)

    def counters(self, *, to_guest: bool) -> tuple[int, int]:
        """Bytes and frames so far that way, as the kernel counts them."""
        for line in os.pread(self._devices, 1 << 16, 0).splitlines():
            words = line.split()
            if words[0] == self._mark:
                # What is sent through a tap is what its reader gets.
                at = 9 if to_guest else 1
                return int(words[at]), int(words[at + 1])
        raise space.Failed(f"{self._mark.decode()} is gone")


@contextlib.contextmanager
def booted(
    lab: Lab, image: Image, *, small: bool
) -> Iterator[tuple[Guest, list[Port]]]:
    """One guest with a NIC on each of the ports: what differs between two VMMs,
    or two runs of one, is then the same for all that is compared.

    :param small: frames are, and each is one by itself.
    """
    macs = {kind: f"02:fa:00:00:00:{n:02x}" for n, kind in enumerate(KINDS, 1)}
    taps = {}
    with contextlib.ExitStack() as ends:
        for kind in _PLAIN:
            create = functools.partial(tun.create, f"tap{kind}", vnet_hdr=True)
            fd = within(_where(lab, kind), create)
            ends.callback(os.close, fd)
            command = ("ip", "link", "set", f"tap{kind}", "master", kind, "up")
            _where(lab, kind).run(*command)
            taps[kind] = fd
        netdevs = {kind: f"tap,fd={fd}" for kind, fd in taps.items()}
        netdevs |= {"lan": "bridge,br=lan", "nat": "bridge,br=default"}
        extra = []
        for kind in KINDS:
            device = f"virtio-net-pci,netdev={kind},mac={macs[kind]}"
            extra += ["-netdev", f"{netdevs[kind]},id={kind}"]
            extra += ["-device", device + (_NO_OFFLOADS if small else "")]
        guest = Guest(
            "guest",
            prefix=lab.host.prefix(USER) + lab.tapster("run", "--name", "guest", "--"),
            extra=extra,
            words=["tapster.net=up"],
            image=Image(
                Path("/run/guest") / image.kernel.name,
                Path("/run/guest") / image.initramfs.name,
            ),
            popen={"pass_fds": tuple(taps.values())},
        )
        ends.enter_context(guest)
        guest.wait_ready(60)
        told = json.loads(lab.host.run(*lab.tapster("ls", "--json"), user=USER).stdout)
        by_mac = {nic["mac"]: nic for nic in told}
        ports = []
        for kind in KINDS:
            if kind in taps:
                bridge, ifname, ipv4 = kind, f"tap{kind}", f"{_PLAIN[kind]}.2"
            else:
                nic = by_mac[macs[kind]]
                bridge, ifname, ipv4 = nic["bridge"], nic["ifname"], nic["ipv4"]
            far = ipv4.rpartition(".")[0] + ".1"
            where = _where(lab, kind)
            port = Port(where, bridge, ifname, macs[kind], ipv4, far)
            ends.callback(port.close)
            ports.append(port)
            if small:
                where.run("ip", "link", "set", bridge, "gso_max_segs", "1")
            guest.run(
                f"nic=$(grep -l {macs[kind]} /sys/class/net/eth*/address)\n"
                "nic=${nic%/address}; nic=${nic##*/}\n"
                f"ip addr add {ipv4}/24 dev $nic && ip link set $nic up",
                check=True,
            )
        for port in ports:
            guest.run(
                f"until ping -c1 -W1 {port.far}; do :; done", _PATIENCE, check=True
            )
        yield guest, ports


def place(guest: Guest, processors: set[int]) -> None:
    """Where the VMM, all its threads, and we ourselves may run."""
    for pid in (guest.pid, os.getpid()):
        for task in os.listdir(f"/proc/{pid}/task"):
            with contextlib.suppress(ProcessLookupError):  # of a pool of workers
                os.sched_setaffinity(int(task), processors)


# Measuring


@contextlib.contextmanager
def connected(
    guest: Guest, ports: Sequence[Port], line: Line, *, small: bool
) -> Iterator[list[socket.socket]]:
    """A connection through each port, with that program at the guest's end.

    All stay open; one whose end here rests, rests as a whole.
    """
    with contextlib.ExitStack() as ends:
        streams = []
        for port in ports:

            def listen(far: str = port.far) -> socket.socket:
                return socket.create_server((far, _PORT))

            with within(port.where, listen) as server:
                server.settimeout(_PATIENCE)
                for option in (socket.SO_RCVBUF, socket.SO_SNDBUF):
                    server.setsockopt(socket.SOL_SOCKET, option, line.buffer)
                if small:
                    server.setsockopt(socket.IPPROTO_TCP, socket.TCP_MAXSEG, _MSS)
                guest.run(f"nc {port.far} {_PORT} -e {line.program} >/dev/null 2>&1 &")
                stream = ends.enter_context(server.accept()[0])
            stream.settimeout(_PATIENCE)
            stream.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            streams.append(stream)
        yield streams


def compare(
    guest: Guest, ports: Sequence[Port], line: Line, seconds: float, *, small: bool
) -> dict[str, Any]:
    """All ports in turns, by new connections every so often: how two ends of one
    fall into step may last as long as it does."""
    samples: list[list[float]] = [[] for _ in ports]
    sizes: list[float] = []
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        with connected(guest, ports, line, small=small) as streams:
            for stream in streams:
                _turn(stream, line, 4 * _LEAD)
            for which in itertools.chain.from_iterable(ORDERS):
                if line.unit == "us":
                    samples[which].append(_ask(streams[which]))
                    continue
                _turn(streams[which], line, _LEAD)
                timed = functools.partial(_turn, streams[which], line, _BLOCK)
                size, frames, passed = _timed(guest, ports[which], line, timed)
                sizes.append(size / max(1, frames))
                rate = size * 8e-9 if line.unit == "Gbit/s" else frames * 1e-3
                samples[which].append(rate / passed)
    result: dict[str, Any] = {"what": line.what, "unit": line.unit}
    result["rounds"] = len(samples[0])
    if sizes:
        result["bytes_per_frame"] = round(statistics.median(sizes), 1)
    by_kind = dict(zip(KINDS, samples, strict=True))
    for kind, found in by_kind.items():
        result[kind] = {"median": round(statistics.median(found), 4)}
        for other in ("plain", "beside"):
            pairs = zip(by_kind[other], found, strict=True)
            # Of times the lower one is the better one.
            ratios = [a / b if line.unit == "us" else b / a for a, b in pairs]
            result[kind][f"to_{other}"] = _ratio(ratios)
    return result


def _turn(stream: socket.socket, line: Line, seconds: float) -> None:
    """Keep one connection busy for so long."""
    end = time.perf_counter() + seconds
    if line.unit == "us":
        _ask(stream)
    elif line.to_guest:
        while time.perf_counter() < end:
            stream.send(_ZEROS)
    else:
        while time.perf_counter() < end:
            if not stream.recv_into(_ROOM):
                raise space.Failed(f"{line.what}: the guest's end is gone")


_ZEROS, _ROOM = bytes(1 << 16), bytearray(1 << 18)


def _timed(
    guest: Guest, port: Port, line: Line, turn: Callable[[], None]
) -> tuple[int, int, float]:
    """Bytes and frames of one turn, and its seconds."""
    clock = _processor_time if line.alone else _time
    before = port.counters(to_guest=line.to_guest)
    start = clock(guest)
    turn()
    after = port.counters(to_guest=line.to_guest)
    passed = clock(guest) - start
    return after[0] - before[0], after[1] - before[1], passed


def _time(_guest: Guest) -> float:
    return time.perf_counter()


def _processor_time(guest: Guest) -> float:
    """Seconds that the VMM and this process had so far: CPUCLOCK_SCHED."""
    return time.process_time() + time.clock_gettime((~guest.pid << 3) | 2)


def _ask(stream: socket.socket) -> float:
    """Microseconds until the answer, the median of a few."""
    times = []
    for _ in range(_ASKED):
        start = time.perf_counter()
        stream.send(b"?")
        if not stream.recv(1):
            raise space.Failed("the guest does not answer")
        times.append(time.perf_counter() - start)
    return statistics.median(times) * 1e6


def _ratio(ratios: Sequence[float]) -> dict[str, Any]:
    """The median, the quartiles, and what bounds the median in 19 of 20 cases."""
    share = 0.98 / math.sqrt(len(ratios))
    bounds = (max(0.0, 0.5 - share), min(1.0, 0.5 + share))
    return {
        "ratio": round(statistics.median(ratios), 4),
        "quartiles": [round(report.quantile(ratios, s), 4) for s in (0.25, 0.75)],
        "bounds": [round(report.quantile(ratios, s), 4) for s in bounds],
    }


# The results


def table(result: Mapping[str, Any]) -> str:
    """The table, in Markdown."""
    head = ["what", "processors", "port", "figure", "ratio", "its bounds"]
    head += ["quartiles", f"≥ {RATIO}", "ratio to a plain one on that host"]
    rows = [head, ["---", "---", "---", *["--:"] * 4, "---", "--:"]]
    for line in result["lines"]:
        what = [line["what"], "one, its time" if line["one_processor"] else "all"]
        unit = line["unit"]
        rows.append([*what, "plain", _figure(line["plain"]["median"], unit), *[""] * 5])
        for kind, name in NAMES.items():
            found, beside = line[kind]["to_plain"], line[kind]["to_beside"]
            low, high = found["bounds"]
            verdict = "yes" if low >= RATIO else "**no**" if high < RATIO else "open"
            more = ["", ""]
            if kind in ("lan", "nat"):
                bounds = "{:.3f} to {:.3f}".format(*beside["bounds"])
                more = [verdict, f"{beside['ratio']:.3f}, {bounds}"]
            rows.append(
                [
                    *("", "", name),
                    _figure(line[kind]["median"], unit),
                    f"{found['ratio']:.3f}",
                    f"{low:.3f} to {high:.3f}",
                    "{:.3f} to {:.3f}".format(*found["quartiles"]),
                    *more,
                ]
            )
    return "".join(f"| {' | '.join(cells)} |\n" for cells in rows)


def _figure(value: float, unit: str) -> str:
    if unit == "k/s":
        return f"{value:.1f} k/s, {1e3 / value:.1f} µs"
    return f"{value:.3f} Gbit/s" if unit == "Gbit/s" else f"{value:.0f} µs"


def document(result: Mapping[str, Any]) -> str:
    """The table with what it depends on."""
    host = result["machine"]
    conditions = (
        f"{host['date']}, tapster {host['commit']}, Linux {host['kernel']},"
        f" Python {host['python']}, {host['processors']} CPUs, {host['processor']}."
        f" QEMU {host['peer'].split()[-1]}, accelerator {result['accelerator']}."
        f" Load before {result['load']}; {len(result['lines'])} lines in"
        f" {result['seconds']} s."
    )
    lines = ["# What a port costs a guest", "", conditions, ""]
    lines += ["How it is measured: [README.md](../README.md#with-a-guest).", ""]
    return "\n".join(lines) + "\n" + table(result)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
