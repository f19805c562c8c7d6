# SPDX-License-Identifier: LGPL-2.1-or-later
"""How long a stolen MAC stays stolen: from SIOCSIFHWADDR to what the guard does.

Nothing here judges: the status is 0 whatever comes out.
"""

from __future__ import annotations

import argparse
import fcntl
import gc
import os
import socket
import struct
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from benchmarks import report, space
from benchmarks.holder import Holder

LEVELS, _QUICK_LEVELS = (10, 900), (10,)
_TIMES, _QUICK_TIMES = 300, 10  # each level, each policy
_CONFIG = "/run/tapster-config/tapster.toml"
_SIOCGIFHWADDR, _SIOCGIFFLAGS, _SIOCSIFHWADDR = 0x8927, 0x8913, 0x8924
_IFF_UP = 1
_PATIENCE = 5.0  # seconds
POLICIES = {
    "restore": "the host's end has its own MAC again",
    "quarantine": "the thief's port is down and on no bridge",
}
ENTRY = "the victim has its forwarding entry again"


def parse(arguments: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="benchmarks/guard.py",
        description="Measure how soon a stolen MAC is given back. Needs root; works in"
        " namespaces of its own and leaves nothing but its results.",
        allow_abbrev=False,
    )
    parser.add_argument("--quick", action="store_true", help="a check only")
    parser.add_argument(
        "--times", type=int, default=_TIMES, metavar="N", help="thefts of each line"
    )
    parser.add_argument(space.INSIDE, action="store_true", help=argparse.SUPPRESS)
    return parser.parse_args(arguments)


def main(arguments: list[str]) -> int:
    options = parse(arguments)

    def work() -> None:
        space.raise_descriptor_limit()
        levels = _QUICK_LEVELS if options.quick else LEVELS
        result = measure(levels, _QUICK_TIMES if options.quick else options.times)
        if not options.quick:
            report.keep("guard", result, document(result))
        print(table(result))

    return space.run(__file__, arguments, work)


class Thief:
    """The measuring end. It looks, without sleeping, at what a thief's tap is like
    by ioctls that take no lock, and hears of the victim's entry."""

    def __init__(self, victim: Any) -> None:
        from tapster.kernel import netlink_monitor, rtnetlink

        self._rtnetlink = rtnetlink
        self._monitor = netlink_monitor.NetlinkMonitor(
            [rtnetlink.RTNLGRP_NEIGH], [rtnetlink.RTM_NEWNEIGH]
        )
        self._socket = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self._victim = victim
        self._index = socket.if_nametoindex(victim.ifname)
        raw = bytes.fromhex(victim.mac.replace(":", ""))
        self._steal = struct.pack("16sH6s16x", b"", 1, raw)

    def close(self) -> None:
        self._monitor.close()
        self._socket.close()

    def _is_back(self) -> bool:
        for reply in self._monitor.read() or ():
            entry = self._rtnetlink.parse_neighbour(reply)
            if (entry.mac, entry.ifindex) == (self._victim.mac, self._index):
                return True
        return False

    def _is_undone(self, ifreq: bytes, own: bytes, policy: str) -> bool:
        if policy == "restore":
            asked = fcntl.ioctl(self._socket, _SIOCGIFHWADDR, ifreq)
            return bytes(asked[18:24]) == own
        asked = fcntl.ioctl(self._socket, _SIOCGIFFLAGS, ifreq)
        return not struct.unpack_from("H", asked, 16)[0] & _IFF_UP

    def steal(self, nic: Any, policy: str) -> tuple[float, float, float]:
        """Seconds from before the ioctl until it returned, until the thief's tap was
        harmless, and until the victim had its entry back.

        :raise space.Failed: that never came.
        """
        while self._monitor.read() is not None:
            pass  # of before
        ifreq = struct.pack("16s24x", nic.ifname.encode())
        own = bytes(fcntl.ioctl(self._socket, _SIOCGIFHWADDR, ifreq)[18:24])
        undone = back = 0.0
        start = time.perf_counter()
        fcntl.ioctl(nic.fd, _SIOCSIFHWADDR, self._steal)
        returned = time.perf_counter() - start
        while not (undone and back):
            if not undone and self._is_undone(ifreq, own, policy):
                undone = time.perf_counter() - start
            if not back and self._is_back():
                back = time.perf_counter() - start
            if time.perf_counter() - start > _PATIENCE:
                raise space.Failed(f"nothing was done about it:\n{space.log_tail()}")
        return returned, undone, back


def measure(levels: Sequence[int], times: int) -> dict[str, Any]:
    """All of it.

    :raise Failed: something could not be measured.
    """
    import tapster

    start, load = time.monotonic(), round(os.getloadavg()[0], 2)
    lines = []
    others = space.divide_processors()
    for policy in POLICIES:
        before = Path(_CONFIG).read_text(encoding="ascii")
        text = f'{before}[guard]\non_tamper = "{policy}"\n'
        Path(_CONFIG).write_text(text, encoding="ascii")
        daemon = space.Daemon(processors=others)
        try:
            with Holder() as holder, tapster.attach(bridge=space.BRIDGE) as victim:
                thief = Thief(victim)
                for level in levels:
                    holder.grow(level)
                    daemon.wait_for_records(level + 1)
                    gc.collect()
                    lines += _level(daemon, thief, policy, level, times)
                    print(
                        f"{time.monotonic() - start:6.1f} s  {policy}, {level} NICs",
                        file=sys.stderr,
                    )
                thief.close()
        finally:
            daemon.stop()
            Path(_CONFIG).write_text(before, encoding="ascii")
    return {"machine": report.machine(), "load": load, "lines": lines}


def _level(
    daemon: space.Daemon, thief: Thief, policy: str, level: int, times: int
) -> list[dict[str, Any]]:
    import tapster

    samples: list[tuple[float, float, float]] = []
    for number in range(times + 3):
        nic = tapster.attach(bridge=space.BRIDGE)
        daemon.rest()
        found = thief.steal(nic, policy)
        if number >= 3:
            samples.append(found)
        nic.close()
        daemon.settle(nic.ifname)
    returned, undone, back = zip(*samples, strict=True)
    return [
        {"policy": policy, "nics": level, "what": what, **_figures(values)}
        for what, values in (
            ("the ioctl itself", returned),
            (POLICIES[policy], undone),
            (ENTRY, back),
        )
    ]


def _figures(values: Sequence[float]) -> dict[str, Any]:
    return {
        **report.figures(values),
        "p99_ms": round(report.quantile(values, 0.99) * 1e3, 4),
        "max_ms": round(max(values) * 1e3, 4),
    }


def table(result: Mapping[str, Any]) -> str:
    """The table, in Markdown."""
    head = "| `on_tamper` | NICs | until | p50 | p99 | max |\n"
    text = head + "| --- | --: | --- | --: | --: | --: |\n"
    for line in result["lines"]:
        times = " | ".join(f"{line[k]:.2f} ms" for k in ("p50_ms", "p99_ms", "max_ms"))
        text += f"| {line['policy']} | {line['nics']} | {line['what']} | {times} |\n"
    return text


def document(result: Mapping[str, Any]) -> str:
    """The table with what it depends on."""
    machine = result["machine"]
    return (
        "# From SIOCSIFHWADDR to its undoing\n\n"
        f"{machine['date']}, tapster {machine['commit']}, Linux {machine['kernel']},"
        f" Python {machine['python']}, {machine['processors']} CPUs,"
        f" {machine['processor']}. Load before {result['load']};"
        f" {result['lines'][0]['n']} times each.\n\n"
        "How it is measured: [README.md](../README.md#the-guard).\n\n" + table(result)
    )


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
