# SPDX-License-Identifier: LGPL-2.1-or-later
"""Attack tapster, and QEMU's helper beside it, as users without any privilege.

Everything happens in namespaces of its own. Status 1: tapster did not hold.

  tools/attacks.py                    all of them, as a table
  tools/attacks.py --list             what there is
  tools/attacks.py -k persist         those whose name or group has that word
  tools/attacks.py --site tapster     without the peer
  tools/attacks.py --json
  tools/attacks.py --write            into docs/attacks.md
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [
    str(ROOT / part)
    for part in ("tests", "tools", "src")
    if str(ROOT / part) not in sys.path
]

from attack import peer, registry, table  # noqa: E402
from attack.column import Outcome, column  # noqa: E402
from lab import why_not  # noqa: E402

PAGE = ROOT / "docs" / "attacks.md"


def arguments(words: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="attacks.py",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "-k", metavar="WORD", default="", help="choose by name or group"
    )
    parser.add_argument("--site", choices=["tapster", "peer"], help="only this one")
    form = parser.add_mutually_exclusive_group()
    form.add_argument("--list", action="store_true", help="attack nothing")
    form.add_argument("--json", action="store_true")
    form.add_argument("--markdown", action="store_true")
    form.add_argument("--write", action="store_true", help=f"into {PAGE.name}")
    return parser.parse_args(words)


def main(words: list[str]) -> int:
    chosen = arguments(words)
    attacks = [a for a in registry.load() if chosen.k in f"{a.name} {a.group}"]
    if chosen.list:
        print("\n".join(f"{a.group:8} {a.name}: {a.would}" for a in attacks))
        return 0
    sites = [chosen.site] if chosen.site else ["peer", "tapster"]
    reason = why_not() or (peer.why_not() if "peer" in sites else None)
    if reason or not attacks:
        print(f"attacks.py: {reason or 'there is no such attack'}", file=sys.stderr)
        return 2
    if chosen.write and (chosen.k or chosen.site):
        print("attacks.py: --write is for the whole table", file=sys.stderr)
        return 2

    def told(site: str, attack: registry.Attack, outcome: Outcome) -> None:
        print(f"{site:8} {attack.name}: {outcome}", file=sys.stderr, flush=True)

    columns = {
        site: column(site, attacks, lambda a, o, site=site: told(site, a, o))  # type: ignore[misc]
        for site in sites
    }
    if chosen.json:
        print(table.as_json(attacks, columns))
    elif chosen.markdown:
        print(table.as_markdown(attacks, columns), end="")
    elif chosen.write:
        page = PAGE.read_text(encoding="utf-8")
        text = table.put(page, table.as_markdown(attacks, columns))
        PAGE.write_text(text, encoding="utf-8")
    else:
        print(table.as_text(attacks, columns))
    ours = columns.get("tapster", {})
    failed = [a for a in attacks if a.name in ours and not a.known
              and not ours[a.name].held]  # fmt: skip
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
