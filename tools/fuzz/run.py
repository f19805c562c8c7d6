# SPDX-License-Identifier: LGPL-2.1-or-later
"""Feed every target for some time; what it finds is told with the input.

With atheris, which is guided by the code that an input reaches, or else with
Hypothesis. Each target runs in a process of its own: seeds are from tests/corpus/,
and what a run finds stays in .cache/fuzz/, from where the next goes on.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import re
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT / "tools"), str(ROOT / "src")]

CORPUS = ROOT / "tests" / "corpus"
WORK = ROOT / ".cache" / "fuzz"
LONGEST = 4096  # bytes of an input
WORDS = Path(__file__).with_name("words.dict")
NAMES = (
    *("wire", "toml", "bridge_conf", "lxc_usernet", "qemu", "rtnetlink", "nflog"),
    *("leases", "conntrack", "record", "network_record", "store", "log", "dbus"),
    "reply",
)


def has_atheris() -> bool:
    try:
        import atheris  # noqa: F401
    except ImportError:
        return False
    return True


def feed_with_atheris(name: str, seconds: int) -> None:
    """Become libFuzzer; it exits by itself."""
    import atheris

    with atheris.instrument_imports(include=["tapster", "asyncvarlink", "json"]):
        from fuzz.targets import TARGETS

    work = WORK / name
    work.mkdir(parents=True, exist_ok=True)
    arguments = [
        *(
            "fuzz",
            str(work),
            *([str(CORPUS / name)] if (CORPUS / name).is_dir() else []),
        ),
        f"-max_total_time={seconds}",
        f"-artifact_prefix={WORK}/{name}.crash-",
        f"-max_len={LONGEST}",
        f"-dict={WORDS}",
        "-timeout=30",
        "-rss_limit_mb=1024",
        "-print_final_stats=1",
        "-verbosity=0",
    ]
    atheris.Setup(arguments, TARGETS[name])
    atheris.Fuzz()


def feed_with_hypothesis(name: str, seconds: int) -> None:
    """Bytes, and seeds with pieces put in other places."""
    from hypothesis import HealthCheck, given, settings
    from hypothesis import strategies as st

    from fuzz.targets import TARGETS

    seeds = [p.read_bytes() for p in sorted((CORPUS / name).glob("*"))] or [b""]
    end = time.monotonic() + seconds
    done = 0

    @st.composite
    def inputs(draw: st.DrawFn) -> bytes:
        data = bytearray(draw(st.sampled_from(seeds)))
        for _ in range(draw(st.integers(0, 4))):
            at = draw(st.integers(0, len(data)))
            piece = draw(st.binary(max_size=16) | st.sampled_from(seeds))
            data[at : at + draw(st.integers(0, 16))] = piece
        return bytes(data[:LONGEST])

    @settings(
        max_examples=2000,
        deadline=None,
        database=None,
        suppress_health_check=list(HealthCheck),
    )
    @given(inputs() | st.binary(max_size=LONGEST))
    def feed(data: bytes) -> None:
        nonlocal done
        done += 1
        try:
            TARGETS[name](data)
        except BaseException:
            (WORK / f"{name}.crash-hypothesis").write_bytes(data)
            raise

    WORK.mkdir(parents=True, exist_ok=True)
    while time.monotonic() < end:
        feed()
    print(f"stat::number_of_executed_units: {done}", file=sys.stderr)


def run_one(name: str, seconds: int, engine: str) -> tuple[bool, int]:
    """Feed one target in a process of its own.

    :returns: whether nothing was found, and how many inputs there were.
    """
    command = [sys.executable, __file__, f"--engine={engine}", f"--child={name}"]
    command.append(f"--seconds={seconds}")
    with (
        tempfile.TemporaryFile("w+", errors="replace") as output,
        tempfile.TemporaryDirectory(prefix="tapster-fuzz-") as directory,
    ):
        status = subprocess.run(
            command,
            stdout=output,
            stderr=output,
            stdin=subprocess.DEVNULL,
            cwd=ROOT,
            env={**os.environ, "TMPDIR": directory},  # libFuzzer ends without a word
        ).returncode
        output.seek(0)
        text = output.read()
    found = re.search(r"number_of_executed_units: *(\d+)", text)
    if status:
        print(text[-4000:])
    return status == 0, int(found[1]) if found else 0


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("targets", nargs="*", metavar="TARGET", help=", ".join(NAMES))
    parser.add_argument(
        "--seconds",
        type=int,
        default=300,
        help="for all targets together (default 300)",
    )
    parser.add_argument("--engine", choices=("atheris", "hypothesis"))
    parser.add_argument("--child", choices=NAMES, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if unknown := set(options.targets) - set(NAMES):
        parser.error(f"no such target: {', '.join(sorted(unknown))}")
    engine = options.engine or ("atheris" if has_atheris() else "hypothesis")
    if options.child:
        feed = feed_with_atheris if engine == "atheris" else feed_with_hypothesis
        feed(options.child, options.seconds)
        return 0
    names = options.targets or NAMES
    # The wire is what anybody reaches: it has half of the time.
    shares = {name: len(names) if name == "wire" else 1 for name in names}
    failed = total = 0
    for name in names:
        seconds = max(1, options.seconds * shares[name] // sum(shares.values()))
        start = time.monotonic()
        good, count = run_one(name, seconds, engine)
        total += count
        failed += not good
        taken = time.monotonic() - start
        print(
            f"{name:15} {count:10} inputs in {taken:6.0f} s",
            "" if good else "  FOUND",
            flush=True,
        )
    print(f"{engine}: {total} inputs; {failed} targets with findings")
    if failed:
        print(f"the inputs are in {os.path.relpath(WORK)}/*.crash-*")
    return 1 if failed else 0


if __name__ == "__main__":
    with contextlib.suppress(KeyboardInterrupt):
        sys.exit(main())
