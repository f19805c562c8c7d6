# SPDX-License-Identifier: LGPL-2.1-or-later
"""What the documents link to exists, and what a tour says of a file is in it."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PAGES = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")])
LINK = re.compile(r"\[[^\]]*\]\(([^)\s]+)\)")


def links(page: Path) -> list[str]:
    """Where a page leads to in this project, anchors left out."""
    text = re.sub(r"```.*?```", "", page.read_text(), flags=re.S)
    targets = [target.partition("#")[0] for target in LINK.findall(text)]
    return [t for t in targets if t and not re.match(r"[a-z]+:", t)]


@pytest.mark.parametrize("page", PAGES, ids=lambda p: str(p.relative_to(ROOT)))
def test_links_lead_to_files(page: Path) -> None:
    missing = [t for t in links(page) if not (page.parent / t).exists()]
    assert not missing


def test_the_tour_walks_through_every_stage() -> None:
    tour = "\n".join(links(ROOT / "docs/tour.md"))
    stages = ("identify", "resolve", "decide", "allocate", "provision", "publish")
    for room in (*stages, "server", "watch", "nics"):
        assert f"/daemon/{room}/" in tour, room
