# SPDX-License-Identifier: LGPL-2.1-or-later
"""Kill the broker again and again under load, and compare the host each time.

The same as a few rounds of it in tests/kernel/test_crash.py, for as long as one
likes: `make crash ARGS="--kills 1000 --seed 7"`.
"""

from __future__ import annotations

import argparse
import secrets
import sys
import tempfile
import time
from pathlib import Path

sys.path[:0] = [str(Path(__file__).resolve().parents[1] / "tests")]

from lab import Lab, why_not  # noqa: E402
from support.storm import Storm  # noqa: E402


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kills", type=int, default=200, help="how often (200)")
    parser.add_argument("--seed", type=int, help="what is done, and when; else random")
    options = parser.parse_args()
    seed = options.seed if options.seed is not None else secrets.randbits(32)
    if reason := why_not():
        print(reason)
        return 1
    print(f"seed {seed}", flush=True)
    began = time.monotonic()
    with tempfile.TemporaryDirectory() as directory, Lab(Path(directory)) as lab:
        storm = Storm(lab, seed, lambda text: print(text, flush=True))
        storm.run(options.kills)
        storm.close()
    for text in storm.found:
        print(text)
    for what, count in storm.counts.items():
        print(f"{count:7} {what}")
    print(f"{len(storm.found):7} left over or wrong")
    print(f"{time.monotonic() - began:7.0f} seconds")
    return 1 if storm.found else 0


if __name__ == "__main__":
    sys.exit(main())
