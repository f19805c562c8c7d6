# SPDX-License-Identifier: LGPL-2.1-or-later
"""The table of attacks: as text, as Markdown, as JSON, and in the documentation."""

from __future__ import annotations

import json
import re
import textwrap
from collections.abc import Iterator, Mapping

from attack.column import Outcome
from attack.registry import GROUPS, TITLES, Attack

Columns = Mapping[str, Mapping[str, Outcome]]  # site, attack
BEGIN, END = "<!-- attacks: begin -->", "<!-- attacks: end -->"
HEADS = {"peer": "qemu-bridge-helper", "tapster": "tapster"}
_CELL = re.compile(r"(?<!\\)\|")


def as_json(attacks: list[Attack], columns: Columns) -> str:
    rows = [
        {
            "attack": attack.name,
            "group": attack.group,
            "would": attack.would,
            "known": attack.known or None,
            **{
                site: {"held": o.held, "applies": o.applies, "observed": o.observed}
                for site, outcomes in columns.items()
                if (o := outcomes.get(attack.name))
            },
        }
        for attack in attacks
    ]
    return json.dumps(rows, indent=1)


def summary(attacks: list[Attack], columns: Columns) -> str:
    """A line for each site."""
    lines = []
    for site, outcomes in columns.items():
        all_ = [outcomes[a.name] for a in attacks if not a.known]
        held = sum(o.held is True for o in all_)
        broke = sum(o.held is False for o in all_)
        none = sum(not o.applies for o in all_)
        line = f"{HEADS[site]}: {held} of {len(all_)} held"
        if broke:
            line += f", {broke} broke"
        if none:
            line += f", {none} do not apply"
        if unclear := len(all_) - held - broke - none:
            line += f", {unclear} not shown"
        lines.append(line)
    return "; ".join(lines) + "."


def as_text(attacks: list[Attack], columns: Columns, width: int = 100) -> str:
    """For a terminal: an attack, what it would achieve, what came of it."""
    lines: list[str] = []
    for title, rows in _sections(attacks):
        lines += [f"\n{title}", "-" * len(title)]
        for attack in rows:
            lines.append(attack.name)
            lines += textwrap.wrap(attack.would, width, initial_indent="    would: ",
                                   subsequent_indent="           ")  # fmt: skip
            for site, outcomes in columns.items():
                text = f"{HEADS[site]}: {outcomes[attack.name]}"
                lines += textwrap.wrap(text, width, initial_indent="    ",
                                       subsequent_indent="        ")  # fmt: skip
    return "\n".join([*lines, "", summary(attacks, columns)])


def _sections(attacks: list[Attack]) -> Iterator[tuple[str, list[Attack]]]:
    for group in GROUPS:
        rows = [a for a in attacks if a.group == group and not a.known]
        if rows:
            yield TITLES[group], rows
    if known := [attack for attack in attacks if attack.known]:
        yield "Known, and not closed", known


def as_markdown(attacks: list[Attack], columns: Columns) -> str:
    heads = ["attack", "what it would achieve", *(HEADS[site] for site in columns)]
    lines = [summary(attacks, columns)]
    for title, rows in _sections(attacks):
        lines += ["", f"### {title}", "", _row(heads), _row(["---"] * len(heads))]
        for attack in rows:
            cells = [str(outcomes[attack.name]) for outcomes in columns.values()]
            if attack.known:
                cells[-1] += f" ({attack.known})"
            lines.append(_row([attack.name, attack.would, *cells]))
    return "\n".join(lines) + "\n"


def _row(cells: list[str]) -> str:
    return "| " + " | ".join(_escaped(cell) for cell in cells) + " |"


def _escaped(text: str) -> str:
    """Without what Markdown would take for markup."""
    text = re.sub(r"\s+", " ", text)
    return re.sub(r"([|*<>`\\_])", r"\\\1", text)


def put(page: str, table: str) -> str:
    """The page with this table between its marks.

    :raises ValueError: it has none.
    """
    before, begin, rest = page.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not begin or not end:
        raise ValueError(f"no {BEGIN} and {END} in the page")
    return f"{before}{BEGIN}\n\n{table}\n{END}{after}"


def names(page: str) -> list[str]:
    """The attacks that a page's table lists, in its order."""
    inside = page.partition(BEGIN)[2].partition(END)[0]
    found = []
    for line in inside.splitlines():
        if line.startswith("| ") and not line.startswith(("| attack |", "| --- |")):
            cell = _CELL.split(line)[1].strip()
            found.append(re.sub(r"\\(.)", r"\1", cell))
    return found


def order(attacks: list[Attack]) -> list[str]:
    """Names as a table has them."""
    return [attack.name for _, rows in _sections(attacks) for attack in rows]
