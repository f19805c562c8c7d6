# SPDX-License-Identifier: LGPL-2.1-or-later
"""Collect the fragments of news.d/ into NEWS.md, below the version's heading.

A fragment is a file `news.d/WORD.md` with list items as they stand in NEWS.md. Two
changes that are made at the same time never touch the same line so.
"""

from __future__ import annotations

import argparse
import re
import sys
from collections.abc import Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
NEWS, FRAGMENTS = ROOT / "NEWS.md", ROOT / "news.d"
TITLE = "# News\n"
WIDTH = 88


def fragments(folder: Path) -> list[Path]:
    """All fragments, in the order in which they are collected."""
    return sorted(path for path in folder.glob("*.md") if path.name != "README.md")


def mistakes(text: str) -> list[str]:
    """What of a fragment is not as NEWS.md wants it."""
    found = []
    if not text.endswith("\n") or text.endswith("\n\n"):
        found.append("it ends with one newline")
    for number, line in enumerate(text.splitlines(), 1):
        if not re.match(r"(\* |  )\S", line):
            found.append(f"line {number}: it begins with '* ', or goes on with '  '")
        if len(line) > WIDTH:
            found.append(f"line {number}: it is longer than {WIDTH} characters")
    if not text.startswith("* "):
        found.append("it begins with '* '")
    return found


def collect(news: str, version: str, items: Sequence[str]) -> str:
    """The text of NEWS.md with these items at the end of the version's section.

    :param news: the text as it is.
    :param version: whose section it is; it is made as the first where it is missing.
    :param items: the fragments' texts.
    :raises ValueError: the section is there and not the first: that is released.
    """
    if not items:
        return news
    versions = re.findall(r"^## (\S+)$", news, re.M)
    if version not in versions:
        head, title, rest = news.partition(TITLE)
        return f"{head}{title}\n## {version}\n\n{''.join(items)}{rest}"
    if version != versions[0]:
        raise ValueError(f"{version} is older than {versions[0]}")
    start = news.index(f"## {version}\n")
    end = news.find("\n## ", start)
    section, rest = (news[start:], "") if end < 0 else (news[start:end], news[end:])
    return f"{news[:start]}{section.rstrip()}\n{''.join(items)}{rest}"


def version_of(source: str) -> str:
    """The version that version.py says."""
    found = re.search(r'^__version__ = "([^"]+)"$', source, re.M)
    assert found
    return found[1]


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "--draft", action="store_true", help="show NEWS.md as it would be, only"
    )
    options = parser.parse_args(arguments)
    paths = fragments(FRAGMENTS)
    texts = [path.read_text() for path in paths]
    wrong = [
        f"{path.relative_to(ROOT)}: {mistake}"
        for path, text in zip(paths, texts, strict=True)
        for mistake in mistakes(text)
    ]
    if wrong:
        print("\n".join(wrong), file=sys.stderr)
        return 1
    version = version_of((ROOT / "src/tapster/version.py").read_text())
    news = collect(NEWS.read_text(), version, texts)
    if options.draft:
        print(news, end="")
        return 0
    NEWS.write_text(news)
    for path in paths:
        path.unlink()
    print(f"{len(paths)} collected below {version}", file=sys.stderr)
    return 0


if __name__ == "__main__":
    sys.exit(main())
