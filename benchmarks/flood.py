# SPDX-License-Identifier: LGPL-2.1-or-later
"""`make flood`: what one user's flood does to another's attach, and to memory.

The victim attaches, closes, and waits a little, over and over; first in quiet,
then during each of the floods, then during all of them. Nothing here judges:
the status is 0 whatever comes of it.
"""

from __future__ import annotations

import argparse
import gc
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from benchmarks import report, space
from benchmarks.flooders import FLOODERS

_VICTIM = "--victim"
_ATTACHES, _QUICK_ATTACHES = 300, 60
_CYCLES, _QUICK_CYCLES = 10_000, 500
_PAUSE = 0.01  # seconds between two attaches of the victim's
_FACTOR = 5.0  # p99, against the quiet one
_RESIDENT_MIB = 45.0
_NICE = -10
FLOODER, VICTIM = 23001, 23002  # user ids that nobody has
_CYCLE_THREADS = 4
_BUSY = "none, but as many busy processes as in all"


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="benchmarks/flood.py",
        description="Measure one user's attaches while another floods the broker. Needs"
        " root; works in namespaces of its own and leaves nothing but its results.",
        allow_abbrev=False,
    )
    parser.add_argument("--attaches", type=int, metavar="N", help=f"({_ATTACHES})")
    parser.add_argument(
        "--cycles", type=int, metavar="N", help=f"attach/detach cycles ({_CYCLES})"
    )
    parser.add_argument("--only", metavar="NAME,…", help="not all floods")
    parser.add_argument("--quick", action="store_true", help="a check only")
    parser.add_argument(space.INSIDE, action="store_true", help=argparse.SUPPRESS)
    parser.add_argument(_VICTIM, type=int, metavar="N", help=argparse.SUPPRESS)
    options = parser.parse_args()
    quick = options.quick
    if options.attaches is None:
        options.attaches = _QUICK_ATTACHES if quick else _ATTACHES
    if options.cycles is None:
        options.cycles = _QUICK_CYCLES if quick else _CYCLES
    options.floods = options.only.split(",") if options.only else list(FLOODERS)
    if set(options.floods) - set(FLOODERS):
        parser.error(f"floods are {', '.join(FLOODERS)}")
    return options


# The victim


def be_victim(count: int) -> None:
    """Attach so many times; times in microseconds to stdout, as JSON."""
    import tapster

    samples, failures = [], []
    gc.disable()
    for _ in range(count):
        start = time.perf_counter()
        try:
            nic = tapster.attach()
        except tapster.TapsterError as err:
            failures.append(str(err))
        else:
            samples.append(round((time.perf_counter() - start) * 1e6))
            nic.close()
        time.sleep(_PAUSE)
    print(json.dumps({"samples_us": samples, "failures": failures}))


def _user(uid: int) -> dict[str, Any]:
    return {
        "user": uid,
        "group": uid,
        "extra_groups": [],
        "env": space.environment(),
        "cwd": space.CHECKOUT,
        "stdin": subprocess.DEVNULL,
        "start_new_session": True,  # as two users are not in one
    }


def victim(count: int) -> dict[str, Any]:
    done = subprocess.run(
        [sys.executable, __file__, f"{_VICTIM}={count}"],
        stdout=subprocess.PIPE,
        text=True,
        **_user(VICTIM),
    )
    if done.returncode:
        raise space.Failed("the victim failed")
    told = json.loads(done.stdout)
    if not told["samples_us"]:
        raise space.Failed(f"the victim was never served: {told['failures'][:3]}")
    seconds = [sample / 1e6 for sample in told["samples_us"]]
    return {
        **report.figures(seconds),
        "p99_ms": round(report.quantile(seconds, 0.99) * 1e3, 3),
        "max_ms": round(max(seconds) * 1e3, 3),
        "failures": told["failures"],
    }


# Floods


class Flood:
    """These flooders, each a process of the same user's."""

    def __init__(self, *names: str) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-m", "benchmarks.flooders", *names],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            **_user(FLOODER),
        )
        time.sleep(1.0)  # they are at it

    def end(self) -> None:
        os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()


def under(daemon: space.Daemon, count: int, *names: str) -> dict[str, Any]:
    before = daemon.resident_kib()
    flood = Flood(*names)
    try:
        cpu, start = daemon.processor_time()[2], time.monotonic()
        found = victim(count)
        busy = (daemon.processor_time()[2] - cpu) / (time.monotonic() - start)
        during = _resident(daemon)
    finally:
        flood.end()
    _wait_for_nics(1)
    found |= {
        "broker_busy": round(busy, 3),
        "resident_before_kib": before,
        "resident_during_kib": during,
        "resident_after_kib": daemon.resident_kib(),
    }
    return found


def _resident(daemon: space.Daemon) -> int:
    text = Path(f"/proc/{daemon.pid}/status").read_text(encoding="utf-8")
    return int(text.partition("VmRSS:")[2].split()[0])


def _wait_for_nics(count: int) -> None:
    deadline = time.monotonic() + 30
    while len(os.listdir(space.RECORDS)) > count:
        if time.monotonic() > deadline:
            raise space.Failed(f"NICs are left:\n{space.log_tail()}")
        time.sleep(0.05)


# Cycles


def cycles(daemon: space.Daemon, count: int) -> dict[str, Any]:
    """Attach and close so many times, by several threads, as root."""
    import threading

    import tapster

    errors: list[str] = []

    def work(times: int) -> None:
        try:
            for _ in range(times):
                tapster.attach().close()
        except tapster.TapsterError as err:
            errors.append(str(err))

    def many(times: int) -> None:
        threads = [
            threading.Thread(target=work, args=[times // _CYCLE_THREADS])
            for _ in range(_CYCLE_THREADS)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        _wait_for_nics(1)

    many(max(count // 20, 40))  # what grows once
    before, start = daemon.resident_kib(), time.monotonic()
    many(count)
    elapsed = time.monotonic() - start
    after = daemon.resident_kib()
    if errors:
        raise space.Failed(f"attaches failed: {errors[0]}")
    return {
        "count": count,
        "seconds": round(elapsed, 1),
        "resident_before_kib": before,
        "resident_after_kib": after,
    }


# Together


def table(result: Mapping[str, Any]) -> str:
    quiet = result["quiet"]["p99_ms"]
    head = ["flood", "p50", "p99", "max", "p99 to quiet", "not served", "broker busy"]
    lines = [[*head, "memory before, during, after"], ["---", *["--:"] * 7]]
    for name, found in (("none", result["quiet"]), *result["floods"].items()):
        times = [f"{found[key]:.1f} ms" for key in ("p50_ms", "p99_ms", "max_ms")]
        memory, busy = "", ""
        if "broker_busy" in found:
            busy = f"{found['broker_busy']:.0%}"
            kib = [
                found[f"resident_{when}_kib"] for when in ("before", "during", "after")
            ]
            memory = ", ".join(f"{k / 1024:.1f}" for k in kib) + " MiB"
        ratio = found["p99_ms"] / quiet
        shown = f"{ratio:.1f}" if ratio <= _FACTOR else f"**{ratio:.1f}**"
        failures = str(len(found["failures"]))
        name = name.replace("_", " ")
        lines.append([name, *times, shown, failures, busy, memory])
    return "".join(f"| {' | '.join(cells)} |\n" for cells in lines)


def text(result: Mapping[str, Any]) -> str:
    machine, done = result["machine"], result["cycles"]
    return f"""# What a flood does to others

`make flood`, {machine["date"]}, commit {machine["commit"]}, Linux {machine["kernel"]},
{machine["processors"]} processors ({machine["processor"]}), Python {machine["python"]};
load averages of the machine before it began: {", ".join(map(str, result["load"]))}.

One user floods, as benchmarks/flooders.py has it, as fast as it can; another attaches
and closes, one after the other, {result["quiet"]["n"]} times. Flooders, victim and
broker share the processors, the broker with nice {_NICE} as in data/tapsterd.service.
Wanted: p99 at most {_FACTOR:.0f} times the quiet one, nobody not served,
memory bounded (budget {_RESIDENT_MIB:.0f} MiB).

{table(result)}
{done["count"]} attach/close cycles by {_CYCLE_THREADS} threads: {done["seconds"]} s,
memory {done["resident_before_kib"] / 1024:.1f} MiB before,
{done["resident_after_kib"] / 1024:.1f} MiB after.
"""


def _come_first(pid: int) -> None:
    """Give the broker the priority that its unit has."""
    os.setpriority(os.PRIO_PROCESS, pid, _NICE)
    # Where the kernel makes a group of each session, as it does outside of systemd's
    # control groups, that counts within the group alone.
    with suppress(OSError):
        Path(f"/proc/{pid}/autogroup").write_text(f"{_NICE}\n", encoding="ascii")


def measure(options: argparse.Namespace) -> dict[str, Any]:
    import tapster

    daemon = space.Daemon()
    _come_first(daemon.pid)
    try:
        keeper = tapster.attach(network="default")  # root's own instance
        first = subprocess.Popen(  # and that of the victim, up all the time
            [
                sys.executable,
                "-c",
                (
                    "import tapster, time; n = tapster.attach(); print(1, flush=True);"
                    " time.sleep(1e6)"
                ),
            ],
            stdout=subprocess.PIPE,
            **_user(VICTIM),
        )
        assert first.stdout is not None
        first.stdout.readline()
        keeper.close()
        _wait_for_nics(1)
        try:
            victim(20)
            result: dict[str, Any] = {
                "machine": report.machine(),
                "load": [round(load, 1) for load in os.getloadavg()],
                "quiet": victim(2 * options.attaches),
                "floods": {},
            }
            for name in options.floods:
                result["floods"][name] = under(daemon, options.attaches, name)
                _progress(name, result)
            if len(options.floods) > 1:
                for name, names in (
                    (_BUSY, ["keep_busy"] * len(options.floods)),
                    ("all", options.floods),
                ):
                    result["floods"][name] = under(daemon, options.attaches, *names)
                    _progress(name, result)
            result["cycles"] = cycles(daemon, options.cycles)
        finally:
            first.kill()
            first.wait()
            first.stdout.close()
    finally:
        daemon.stop()
    return result


def _progress(name: str, result: Mapping[str, Any]) -> None:
    ratio = result["floods"][name]["p99_ms"] / result["quiet"]["p99_ms"]
    print(f"{name}: p99 {ratio:.1f} times the quiet one", file=sys.stderr, flush=True)


def main() -> int:
    options = parse()
    if options.victim:
        be_victim(options.victim)
        return 0

    def work() -> None:
        result = measure(options)
        if options.quick or options.only:
            print(table(result))
        else:
            report.keep("flood", result, text(result))
            print(text(result))

    return space.run(__file__, sys.argv[1:], work)


if __name__ == "__main__":
    sys.exit(main())
