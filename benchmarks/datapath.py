# SPDX-License-Identifier: LGPL-2.1-or-later
"""What a port with all its checks costs a packet, next to a plain tap.

Nothing here judges: the status is 0 whether or not the budget holds.
"""

from __future__ import annotations

import argparse
import gc
import os
import statistics
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from benchmarks import report, space

RATIO = 0.97  # wanted

_SECONDS, _QUICK_SECONDS = 2.5, 0.3  # for each line, about
_BLOCK = 0.004  # seconds of one kind, before it is the other's turn
_CONF_D = "/run/tapster-config/conf.d"
_LAN = f"""
[networks.lan]
mode = "bridge"
bridge = "{space.BRIDGE}"
address_check = "reserved"
reservations = {{ guest = {{ ipv4 = "10.97.0.2", ipv6 = "fd97::2" }} }}

[[rules]]
networks = ["*"]
"""


class Line(NamedTuple):
    """One thing that is measured; `frames` are arguments of `ports.Traffic`."""

    kind: str  # of port: "nat" or "lan"
    what: str
    frames: dict[str, Any]
    bridge_netfilter: bool = False


SMALL, FULL, LARGE = {"size": 64}, {"size": 1514}, {"size": 65000, "segments": True}
TO = {"to_guest": True}
LINES = [
    Line(kind, f"{what}, {way}", {"version": version, **frames, **to})
    for kind in ("nat", "lan")
    for way, to in (("from the guest", {}), ("to the guest", TO))
    for what, version, frames in (
        ("64 bytes, IPv4", 4, SMALL),
        ("64 bytes, IPv6", 6, SMALL),
        ("1514 bytes, IPv4", 4, FULL),
        ("64 KiB of TCP, IPv4", 4, LARGE),
    )
] + [
    Line(kind, "64 bytes, IPv4, from the guest", {"version": 4, **SMALL}, True)
    for kind in ("nat", "lan")
]


def parse(arguments: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="benchmarks/datapath.py",
        description="Measure a port with all checks against a plain tap on a plain"
        " bridge. Needs root; works in namespaces of its own and leaves nothing but"
        " its results.",
        allow_abbrev=False,
    )
    parser.add_argument("--quick", action="store_true", help="a check only")
    parser.add_argument(space.INSIDE, action="store_true", help=argparse.SUPPRESS)
    return parser.parse_args(arguments)


def main(arguments: list[str]) -> int:
    options = parse(arguments)

    def work() -> None:
        os.mkdir(_CONF_D)
        Path(_CONF_D, "lan.toml").write_text(_LAN, encoding="ascii")
        result = measure(_QUICK_SECONDS if options.quick else _SECONDS)
        report.keep("datapath", result, document(result))
        print(table(result))

    return space.run(__file__, arguments, work)


def measure(seconds: float) -> dict[str, Any]:
    """All of it.

    :raise Failed: something could not be measured.
    """
    import tapster
    from benchmarks import ports

    start = time.monotonic()
    load = round(os.getloadavg()[0], 2)
    daemon = space.Daemon(processors=space.divide_processors())
    here, elsewhere = ports.Host(new=False), ports.Host(new=True)
    try:
        plain = ports.plain(elsewhere)
        nat = ports.checked(here, "farnat", tapster.attach(name="guest"))
        nic = tapster.attach(network="lan", name="guest")
        found = {"nat": nat, "lan": ports.checked(here, "farlan", nic)}
        daemon.rest()
        for port in found.values():
            ports.try_to_spoof(port)
        gc.collect()
        gc.freeze()
        lines = []
        for line in LINES:
            for host in (here, elsewhere):
                known = host.bridge_netfilter(line.bridge_netfilter)
            if line.bridge_netfilter and not known:
                continue
            what = f"{line.kind}, {line.what}"
            print(f"{time.monotonic() - start:6.1f} s  {what}", file=sys.stderr)
            lines.append(
                {"kind": line.kind, "what": line.what}
                | {
                    "bridge_netfilter": line.bridge_netfilter,
                    "bytes": line.frames["size"],
                }
                | _compare(plain, found[line.kind], line, seconds)
            )
    finally:
        daemon.stop()
        here.close()
        elsewhere.close()
    return {
        "machine": report.machine(),
        "load": load,
        "seconds": round(time.monotonic() - start),
        "lines": lines,
    }


def _compare(plain: Any, checked: Any, line: Line, seconds: float) -> dict[str, Any]:
    """Both ports in turns, and who comes first in turns as well."""
    from benchmarks import ports

    traffic = ports.Traffic(**line.frames)
    streams = [ports.Stream(plain, traffic), ports.Stream(checked, traffic)]
    for stream in streams:
        stream.open()
    each = min(stream.time(50) for stream in streams) / 50
    batches = max(1, round(_BLOCK / each))
    times: list[list[float]] = [[], []]
    loops: list[float] = []
    end = time.monotonic() + seconds
    while time.monotonic() < end or len(loops) < 8:
        first = len(loops) % 2
        for which in (first, 1 - first):
            times[which].append(streams[which].time(batches))
        loops.append(ports.loop_cost(traffic, max(1, batches // 8)))
    for stream in streams:
        stream.check()
    count = batches * ports.BATCH
    loop = statistics.median(loops)
    pairs = [
        (one / count - loop, other / count - loop)
        for one, other in zip(*times, strict=True)
    ]
    ratios = [one / other for one, other in pairs]
    costs = [statistics.median(side) for side in zip(*pairs, strict=True)]
    return {
        "blocks": len(pairs),
        "frames": count,
        "plain_ns": round(costs[0] * 1e9, 1),
        "checked_ns": round(costs[1] * 1e9, 1),
        "more_ns": round(statistics.median(b - a for a, b in pairs) * 1e9, 1),
        "loop_ns": round(loop * 1e9, 1),
        "ratio": round(statistics.median(ratios), 4),
        "ratio_quartiles": [
            round(report.quantile(ratios, share), 4) for share in (0.25, 0.75)
        ],
        "ratio_with_loop": round(
            statistics.median(a / b for a, b in zip(*times, strict=True)), 4
        ),
    }


def table(result: Mapping[str, Any]) -> str:
    """The table, in Markdown."""
    names = {"nat": "NAT", "lan": "LAN"}
    head = ["port", "frames", "plain", "checked", "the checks", "ratio", "quartiles"]
    head += [f"≥ {RATIO}"]
    rows = [head, ["---", "---", *["--:"] * 5, "---"]]
    for line in result["lines"]:
        what = line["what"]
        if line["bridge_netfilter"]:
            what += ", `bridge-nf-call-iptables`"
        low, high = line["ratio_quartiles"]
        rows.append(
            [
                names[line["kind"]],
                what,
                _cost(line["plain_ns"], line["bytes"]),
                _cost(line["checked_ns"], line["bytes"]),
                f"{line['more_ns']:.0f} ns",
                f"{line['ratio']:.3f}",
                f"{low:.3f} to {high:.3f}",
                "yes" if line["ratio"] >= RATIO else "**no**",
            ]
        )
    return "".join(f"| {' | '.join(cells)} |\n" for cells in rows)


def _cost(ns: float, size: int) -> str:
    rate = f"{1e6 / ns:.0f} k/s" if size < 1514 else f"{size * 8 / ns:.1f} Gbit/s"
    return f"{ns:.0f} ns, {rate}"


def document(result: Mapping[str, Any]) -> str:
    """The table with what it depends on."""
    host = result["machine"]
    conditions = (
        f"{host['date']}, tapster {host['commit']}, Linux {host['kernel']},"
        f" Python {host['python']}, {host['processors']} CPUs, {host['processor']}."
        f" Load before {result['load']}; {len(result['lines'])} comparisons in"
        f" {result['seconds']} s."
    )
    lines = ["# What a port costs a packet", "", conditions, ""]
    lines += ["How it is measured: [README.md](../README.md#the-data-path).", ""]
    return "\n".join(lines) + "\n" + table(result)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
