# SPDX-License-Identifier: LGPL-2.1-or-later
"""`make bench`: measure everything in one run, print the table, keep the figures.

Nothing here judges: the status is 0 whether or not a budget holds.
"""

from __future__ import annotations

import argparse
import gc
import json
import os
import sys
import time
from bisect import bisect_left
from functools import partial
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from benchmarks import report, space

_ATTACHES, _PORTS, _ROUNDS = 200, (10, 200, 900), 5
_QUICK_ATTACHES, _QUICK_PORTS, _QUICK_ROUNDS = 40, (10, 60), 1
_BRIDGE_PORTS = 1023  # what a Linux bridge takes
_TRACE = "/run/trace.json"


def parse(arguments: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="benchmarks/run.py",
        description="Measure tapster against qemu-bridge-helper. Needs root; works in"
        " namespaces of its own and leaves nothing but its results.",
        allow_abbrev=False,
    )
    parser.add_argument(
        "--attaches", type=int, metavar="N", help=f"of each kind (default {_ATTACHES})"
    )
    ports = ",".join(map(str, _PORTS))
    parser.add_argument(
        "--ports", metavar="N,…", help=f"NICs on the bridge (default {ports})"
    )
    parser.add_argument(
        "--quick", action="store_true", help="few of each, a check only"
    )
    parser.add_argument(
        "--pin",
        action="store_true",
        help="the broker on a processor of its own, all else on another",
    )
    parser.add_argument(space.INSIDE, action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    default = _QUICK_ATTACHES if options.quick else _ATTACHES
    options.attaches = default if options.attaches is None else options.attaches
    options.rounds = _QUICK_ROUNDS if options.quick else _ROUNDS
    try:
        given = [int(word) for word in (options.ports or "").split(",") if word]
    except ValueError:
        parser.error("--ports: numbers with commas between them")
    options.ports = sorted(given or (_QUICK_PORTS if options.quick else _PORTS))
    if (
        options.attaches < 1
        or not 1 <= options.ports[0] <= options.ports[-1] < _BRIDGE_PORTS
    ):
        parser.error(f"at least one attach, and 1 to {_BRIDGE_PORTS - 1} ports")
    return options


def main(arguments: list[str]) -> int:
    options = parse(arguments)

    def work() -> None:
        result = measure(options)
        report.keep("latest", result, report.document(result))
        print(report.table(result))

    return space.run(__file__, arguments, work)


class _Progress:
    """Lines on stderr, each with the seconds since the start."""

    def __init__(self) -> None:
        self.start = time.monotonic()

    def __call__(self, text: str) -> None:
        print(
            f"{time.monotonic() - self.start:6.1f} s  {text}",
            file=sys.stderr,
            flush=True,
        )


def measure(options: argparse.Namespace) -> dict[str, Any]:
    """All of it.

    :raise Failed: something could not be measured.
    """
    space.raise_descriptor_limit()
    progress = _Progress()
    result: dict[str, Any] = {
        "machine": report.machine(),
        "attaches": options.attaches,
        "pinned": options.pin,
        "load": {"before": round(os.getloadavg()[0], 2)},
    }
    progress("a broker of its own")
    options.processors = space.divide_processors() if options.pin else None
    daemon = space.Daemon(processors=options.processors)
    try:
        result |= _with_broker(options, daemon, progress)
    finally:
        daemon.stop()
    progress("a broker whose calls are timed")
    result["outside"] = {
        "traced": _traced(options, progress),
        "processor": result.pop("processor"),
    }
    result["load"]["after"] = round(os.getloadavg()[0], 2)
    result["seconds"] = round(time.monotonic() - progress.start)
    progress("done")
    return result


def _with_broker(
    options: argparse.Namespace, daemon: space.Daemon, progress: _Progress
) -> dict[str, Any]:
    """What is measured with an ordinary broker."""
    import tapster
    from benchmarks import kinds
    from benchmarks.holder import Holder

    gc.collect()
    gc.freeze()
    ways: dict[str, kinds.Timed] = {"bridge": kinds.attach_to_bridge}
    kinds.interleave(ways, 20, daemon, progress=progress)
    fresh = daemon.resident_kib()

    qemu = kinds.Qemu()
    ways = {
        "bridge": kinds.attach_to_bridge,
        "peer_helper": kinds.peer_helper,
        "peer_in_qemu": qemu.peer,
        "qmp": qemu.without,
        "network": kinds.attach_to_network,
        "own_helper": kinds.own_helper,
        "run": kinds.run_command(kinds.tapster_command()),
        "bare": kinds.bare_command,
    }
    try:
        with tapster.attach(name="keeper"):  # or the network would come and go
            base = kinds.interleave(ways, options.attaches, daemon, progress=progress)
    finally:
        qemu.close()
    answer = report.quantile(base["qmp"], 0.5)
    base["peer_in_qemu"] = [whole - answer for whole in base["peer_in_qemu"]]
    daemon.wait_for_records(0)
    alone = report.quantile(base["bare"], 0.5)
    before_exec = [whole - alone for whole in base["run"]]
    used = daemon.resident_kib()

    levels: dict[str, Any] = {}
    with Holder() as holder:
        few = {kind: ways[kind] for kind in ("bridge", "peer_helper")}
        for level in options.ports:
            holder.grow(level)
            daemon.wait_for_records(level)
            progress(f"{level} NICs on the bridge")
            if level == options.ports[-1]:
                full = daemon.resident_kib()
            found = kinds.interleave(few, options.attaches, daemon, progress=progress)
            levels[str(level)] = {kind: report.figures(t) for kind, t in found.items()}
        holder.drop()
        daemon.wait_for_records(0)
        dropped = daemon.resident_kib()
        processor = _processor_time(options, daemon, holder, progress)
    return {
        "base": {kind: report.figures(times) for kind, times in base.items()},
        "own_helper_path": os.path.relpath(kinds.own_helper_path()),
        "run_before_exec": report.figures(before_exec),
        "levels": levels,
        "memory": {
            "fresh_kib": fresh,
            "used_kib": used,
            "many": options.ports[-1],
            "many_kib": full,
            "dropped_kib": dropped,
            "per_nic_kib": round((full - fresh) / options.ports[-1], 2),
            "per_nic_warm_kib": round((full - used) / options.ports[-1], 2),
        },
        "processor": processor,
    }


def _processor_time(
    options: argparse.Namespace, daemon: space.Daemon, holder: Any, progress: _Progress
) -> dict[str, Any]:
    """User and system time of broker and client, over attaches back to back.

    The taps are kept until each round's end, as closing them is work too.
    """
    count = min(options.attaches, 200)
    broker_user = broker_system = broker_exact = user = system = seconds = 0.0
    for number in range(options.rounds):
        before = daemon.processor_time()
        took = holder.grow(count)
        daemon.rest()
        after = daemon.processor_time()
        broker_user += after[0] - before[0]
        broker_system += after[1] - before[1]
        broker_exact += after[2] - before[2]
        user, system = user + took["user"], system + took["system"]
        seconds += took["seconds"]
        holder.drop()
        daemon.wait_for_records(0)
        progress(f"{count} attaches back to back, {number + 1}/{options.rounds}")
    attaches = count * options.rounds
    each = 1e6 / attaches
    share = broker_user / ((broker_user + broker_system) or 1)
    whole = broker_exact + user + system
    return {
        "attaches": attaches,
        "each_us": round(seconds * each, 1),
        "broker_us": round(broker_exact * each, 1),
        "broker_user_share": round(share, 3),
        "client_user_us": round(user * each, 1),
        "client_system_us": round(system * each, 1),
        "share": round((broker_exact * share + user) / whole, 3),
    }


def _traced(options: argparse.Namespace, progress: _Progress) -> dict[str, Any]:
    """Take attaches apart, with a broker and a client that note their calls."""
    import tapster
    from benchmarks import kinds
    from benchmarks.edges import Edge, Edges, summarize, take_apart

    ours = Edges()
    overhead = ours.overhead()
    spans: dict[str, list[tuple[float, float]]] = {"bridge": [], "network": []}

    def attach(kind: str) -> tuple[float, str | None]:
        bridge, mac = (space.BRIDGE, kinds.MAC) if kind == "bridge" else (None, None)
        start = time.perf_counter()
        nic = tapster.attach(bridge=bridge, mac=mac)
        end = time.perf_counter()
        spans[kind].append((start, end))
        nic.close()
        return end - start, nic.ifname

    ways = {f"{kind}, traced": partial(attach, kind) for kind in spans}
    count = options.attaches
    daemon = space.Daemon(
        "-m", "benchmarks.traced_daemon", _TRACE, processors=options.processors
    )
    try:
        with tapster.attach(name="keeper"):
            ours.install()
            try:
                kinds.interleave(ways, count, daemon, progress=progress)
            finally:
                ours.uninstall()
    finally:
        daemon.stop()
    noted = json.loads(Path(_TRACE).read_text(encoding="utf-8"))
    theirs = sorted((Edge(*edge) for edge in noted["edges"]), key=lambda e: e.start)
    mine = sorted((Edge(*edge) for edge in ours.log), key=lambda e: e.start)

    def around(edges: list[Edge], start: float, end: float) -> list[Edge]:
        first = bisect_left(edges, start, key=lambda e: e.start)
        last = bisect_left(edges, end, key=lambda e: e.start)
        # The call that was waiting when the attach began is among them.
        return edges[max(0, first - 1) : last]

    cost = (overhead + noted["overhead"]) / 2
    return {
        kind: summarize(
            [
                take_apart(*s, around(mine, *s), around(theirs, *s))
                for s in found[-count:]
            ],
            cost,
        )
        for kind, found in spans.items()
    }


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
