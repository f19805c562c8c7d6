# SPDX-License-Identifier: LGPL-2.1-or-later
"""All tests, in two halves side by side, as most of their time is waiting.

Each half has a PID namespace of its own: a test that leaves a process behind is
found by what runs, and the other half's processes would be taken for its own.
tests/seconds.json says how long each file takes, so that both halves end at about
the same time; `make seconds` measures it again. Where no such namespace can be
made, or with arguments for pytest, the tests run one after the other.
"""

from __future__ import annotations

import json
import os
import signal
import statistics
import subprocess
import sys
import tempfile
import xml.etree.ElementTree as ET
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
SECONDS = ROOT / "tests" / "seconds.json"
UNKNOWN = 1.0  # seconds of a file nobody has measured, where none is measured
PYTEST = (sys.executable, "-m", "pytest")
# The namespace's first process has to wait for orphans, which a shell does.
APART = (
    *("unshare", "--pid", "--fork", "--mount-proc", "--kill-child"),
    *("bash", "-c", '"$@"; exit $?', "--"),
)


def unit_of(file: str) -> str:
    """What is never divided: a file, or all files that share the guest's image,
    which two of them would build at the same time."""
    return "tests/guest" if file.startswith("tests/guest/") else file


def divide(files: Iterable[str], known: Mapping[str, float]) -> list[list[str]]:
    """Two lists of these files that take about the same time, each in order.

    :param files: paths from the top of the repository.
    :param known: seconds that a file takes; one that is missing is taken to need
        the median of those that are there.
    """
    usual = statistics.median(known.values()) if known else UNKNOWN
    units: dict[str, list[str]] = {}
    for file in sorted(files):
        units.setdefault(unit_of(file), []).append(file)
    costs = {
        unit: sum(known.get(file, usual) for file in members)
        for unit, members in units.items()
    }
    halves: list[list[str]] = [[], []]
    totals = [0.0, 0.0]
    for unit in sorted(units, key=lambda unit: (-costs[unit], unit)):
        shorter = totals.index(min(totals))
        halves[shorter] += units[unit]
        totals[shorter] += costs[unit]
    return [sorted(half) for half in halves]


def file_of(classname: str) -> str | None:
    """The file of a test by its name in JUnit's XML, `tests.unit.test_x.TestY`."""
    parts = classname.split(".")
    for length in range(len(parts), 0, -1):
        path = f"{'/'.join(parts[:length])}.py"
        if (ROOT / path).is_file():
            return path
    return None


def measured(report: Path) -> dict[str, float]:
    """Seconds of each file, by pytest's report of a run."""
    found: dict[str, float] = {}
    for case in ET.parse(report).iter("testcase"):  # noqa: S314 - we wrote it
        file = file_of(case.get("classname", ""))
        if file is not None:
            found[file] = found.get(file, 0.0) + float(case.get("time", 0))
    return found


def write_seconds(reports: Iterable[Path]) -> None:
    """Note for the next runs what this one took."""
    found: dict[str, float] = {}
    for report in reports:
        found.update(measured(report))
    rounded = {file: round(seconds, 1) for file, seconds in sorted(found.items())}
    SECONDS.write_text(json.dumps(rounded, indent=0) + "\n")


def run(halves: Sequence[Sequence[str]], measure: bool) -> int:
    """Run both; what the first says is seen at once, the other's at its end.

    :param halves: the files of each.
    :param measure: write tests/seconds.json from what they took.
    :returns: the first status that is not 0, else 0.
    """
    with tempfile.TemporaryDirectory() as name, open(f"{name}/log", "w+b") as log:
        reports = [Path(name, f"{number}.xml") for number in range(len(halves))]
        running: list[subprocess.Popen[bytes]] = []
        try:
            for number, half in enumerate(halves):
                noted = [f"--junitxml={reports[number]}"] if measure else []
                command = [*APART, *PYTEST, "-p", "no:cacheprovider", *noted, *half]
                output = None if number == 0 else log
                running.append(subprocess.Popen(command, stdout=output, stderr=output))
            statuses = [process.wait() for process in running]
        finally:
            for process in running:
                process.kill()  # unshare blocks what is milder; its namespace ends
            for process in running:
                process.wait()
            sys.stdout.flush()
            log.seek(0)
            sys.stdout.buffer.write(log.read())
            sys.stdout.flush()
        if measure and not any(statuses):
            write_seconds(reports)
    return next((status for status in statuses if status), 0)


def can_be_apart() -> bool:
    """May this user have a PID namespace?"""
    return not subprocess.run([*APART, "true"], stderr=subprocess.DEVNULL).returncode


def main() -> int:
    arguments = sys.argv[1:]
    measure = arguments == ["--measure"]
    os.chdir(ROOT)
    if (arguments and not measure) or not can_be_apart():
        return subprocess.call([*PYTEST, *([] if measure else arguments)])
    for number in signal.SIGINT, signal.SIGTERM, signal.SIGHUP:
        signal.signal(number, signal.default_int_handler)
    files = [str(p.relative_to(ROOT)) for p in (ROOT / "tests").rglob("test_*.py")]
    known = json.loads(SECONDS.read_text()) if SECONDS.exists() else {}
    try:
        return run(divide(files, known), measure)
    except KeyboardInterrupt:
        return 130


if __name__ == "__main__":
    sys.exit(main())
