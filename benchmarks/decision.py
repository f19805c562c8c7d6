# SPDX-License-Identifier: LGPL-2.1-or-later
"""How long a decision takes, by how many rules there are and what they are about.

It is a part of each attach, and should not be seen in it. Nothing here judges: the
status is 0 whatever comes out. It needs no privilege.
"""

from __future__ import annotations

import argparse
import functools
import gc
import json
import os
import random
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from benchmarks import report
from tapster.daemon.decide.quota import used
from tapster.daemon.nics.ledger import Ledger
from tapster.daemon.nics.nic import Nic
from tapster.daemon.nics.port_filter import PortFilter
from tapster.daemon.nics.record import RecordDirectory
from tapster.kernel.nft import Nft
from tapster.kernel.nftelem import ElementSocket
from tapster.model import Peer, Rule, State
from tapster.policy.config.load import Config, parse
from tapster.policy.config.values import Names
from tapster.policy.core.decide import Decision, decide
from tapster.policy.core.facts import Facts
from tapster.policy.core.rulebook import Rulebook, Target

SIZES, _QUICK_SIZES = (1, 100, 10_000), (1, 100)

_SECONDS, _QUICK_SECONDS = 2.0, 0.05  # for each time of a decision, at most
_CALLS, _FEWEST = 20_000, 50
_BUILDS, _QUICK_BUILDS = 3, 1
_REQUESTS = 50  # different ones of each kind
_NETWORKS = 20
_NICS = 4  # that a caller has already
_FIRST_UID, _FIRST_GID = 10_000, 100_000
_GROUPS, _MANY_GROUPS = 8, 1000  # that a caller is in


class Request(NamedTuple):
    """One that is decided: by whom, what for, and whether it should be allowed."""

    peer: Peer
    target: Target
    allowed: bool


class Mix(NamedTuple):
    """A kind of site: its `count` rules, and requests of both kinds."""

    what: str
    rule: Callable[[int, int], str]  # the number and the count of it
    request: Callable[[int, int, bool], Request]  # about that rule


def _user(number: int, groups: Sequence[int] = (), gid: int = 100) -> Peer:
    return Peer(_FIRST_UID + number, gid, frozenset(groups), 1)


def _on(number: int, name: str = "web-1") -> Target:
    return Target(f"net{number % _NETWORKS}", None, name)


def _users(number: int, count: int, allowed: bool) -> Request:
    return Request(_user(number if allowed else number + count), _on(number), allowed)


def _members(number: int, count: int, allowed: bool, others: int) -> Request:
    """In one group that the rule is about, or none, and others: all of a site's
    groups have rules if there are enough."""
    some = random.Random(number)  # noqa: S311 - the same each time
    first = _FIRST_GID + number if allowed else _FIRST_GID - 1
    rest = range(_FIRST_GID + count, _FIRST_GID + count + 10 * others)
    if allowed:
        rest = range(_FIRST_GID, _FIRST_GID + max(count, 2 * others))
    groups = [first, *some.sample(rest, others - 1)]
    return Request(_user(number, groups), _on(number), allowed)


def _guests(number: int, _count: int, allowed: bool) -> Request:
    return Request(_user(number), _on(number, _name(number, allowed)), allowed)


def _bad(number: int, count: int, allowed: bool) -> Request:
    """About the last rule, whatever number; that one allows."""
    name = _name(count - 1, allowed)
    return Request(_user(number), _on(0, name), allowed)


def _name(number: int, allowed: bool) -> str:
    return f"app{number:05}-1" if allowed else "other-1"


# Rules


def _user_rule(number: int, _count: int) -> str:
    network = f"net{number % _NETWORKS}"
    return f'users = ["user{number}"]\nnetworks = ["{network}"]\nmax_nics = 8\n'


def _group_rule(number: int, _count: int) -> str:
    networks = f'["net{number % _NETWORKS}", "net{(number + 7) % _NETWORKS}"]'
    return f'groups = ["group{number}"]\nnetworks = {networks}\n'


def _guest_rule(number: int, _count: int) -> str:
    network = f"net{number % _NETWORKS}"
    return f'networks = ["{network}"]\nguests = ["app{number:05}-*"]\n'


def _bad_rule(number: int, count: int) -> str:
    """One denies, one allows, and so on; the last one allows."""
    effect = "deny" if (count - number) % 2 == 0 else "allow"
    guests = f'["*app{number:05}*", "*db{number:05}*"]'
    return f'networks = ["net0"]\nguests = {guests}\neffect = "{effect}"\n'


MIXES = [
    Mix("a user and a network each", _user_rule, _users),
    Mix(
        f"a group and two networks each, callers in {_GROUPS} groups",
        _group_rule,
        functools.partial(_members, others=_GROUPS),
    ),
    Mix(
        f"the same, callers in {_MANY_GROUPS} groups",
        _group_rule,
        functools.partial(_members, others=_MANY_GROUPS),
    ),
    Mix(
        f"everyone, one of {_NETWORKS} networks, guests like app00017-*",
        _guest_rule,
        _guests,
    ),
    Mix(
        "bad: everyone, one network, guests like *app00017* or *db00017*, half deny",
        _bad_rule,
        _bad,
    ),
]


def parse_arguments(arguments: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="benchmarks/decision.py",
        description="Time decisions by few and by many rules.",
        allow_abbrev=False,
    )
    parser.add_argument("--quick", action="store_true", help="a check only")
    return parser.parse_args(arguments)


def main(arguments: Sequence[str]) -> int:
    options = parse_arguments(arguments)
    result = measure(quick=options.quick)
    report.keep("decision", result, document(result))
    print(table(result))
    print(building_table(result))
    return 0


def measure(*, quick: bool) -> dict[str, Any]:
    """All of it."""
    start = time.monotonic()
    sizes = _QUICK_SIZES if quick else SIZES
    result: dict[str, Any] = {
        "machine": report.machine(),
        "load": round(os.getloadavg()[0], 2),
        "attach_us": _attach(),
        "clock_us": _clock(),
        "lines": [],
    }
    for mix in MIXES:
        for count in sizes:
            print(f"{count} rules, {mix.what}", file=sys.stderr, flush=True)
            result["lines"].append(_line(mix, count, result["clock_us"], quick=quick))
    result["seconds"] = round(time.monotonic() - start)
    return result


def _attach() -> float | None:
    """Microseconds of an attach to a NATed network, as `run.py` found them last."""
    try:
        text = (report.RESULTS / "latest.json").read_text(encoding="utf-8")
        return float(json.loads(text)["base"]["network"]["p50_ms"]) * 1e3
    except (OSError, ValueError, KeyError):
        return None


def _clock() -> float:
    """Microseconds that are measured where nothing is done."""
    times = []
    for _ in range(_CALLS):
        start = time.perf_counter_ns()
        times.append(time.perf_counter_ns() - start)
    return report.quantile(times, 0.5) * 1e-3


def _line(mix: Mix, count: int, clock: float, *, quick: bool) -> dict[str, Any]:
    text = _text(mix, count)
    config = parse([("tapster.toml", text)], _NAMES)  # warm, and what is decided by
    line: dict[str, Any] = {"what": mix.what, "rules": count}
    builds = _QUICK_BUILDS if quick else _BUILDS
    line["read_ms"] = _best(lambda: parse([("tapster.toml", text)], _NAMES), builds)
    line["index_ms"] = _best(lambda: Rulebook(config.rules), builds)
    line["file_kib"] = round(len(text) / 1024, 1)
    seconds = _QUICK_SECONDS if quick else _SECONDS
    some = random.Random(count)  # noqa: S311 - the same each time
    for allowed, name in ((True, "allowed"), (False, "refused")):
        numbers = some.choices(range(count), k=_REQUESTS)
        requests = [mix.request(number, count, allowed) for number in numbers]
        # A book of its own: the first decision by new rules is one of them.
        line[name] = _decisions(Rulebook(config.rules), requests, clock, seconds)
    return line


def _text(mix: Mix, count: int) -> str:
    """A whole configuration."""
    networks = (
        f'[networks.net{n}]\nmode = "isolated"\nscope = "shared"\n'
        for n in range(_NETWORKS)
    )
    rules = (f"[[rules]]\n{mix.rule(number, count)}" for number in range(count))
    return "\n".join([*networks, *rules])


_NAMES = Names(
    lambda name: _FIRST_UID + int(name.removeprefix("user")),
    lambda name: _FIRST_GID + int(name.removeprefix("group")),
)


def _best(build: Callable[[], Config | Rulebook], times: int) -> float:
    """Milliseconds, at best: what is done once may be disturbed at any time."""
    found = []
    for _ in range(times):
        start = time.perf_counter_ns()
        build()
        found.append(time.perf_counter_ns() - start)
    return round(min(found) * 1e-6, 3)


def _decisions(
    book: Rulebook, requests: Sequence[Request], clock: float, seconds: float
) -> dict[str, Any]:
    """Microseconds of a decision, the counting of the caller's NICs included."""
    with tempfile.TemporaryDirectory() as directory:
        records = RecordDirectory(os.path.join(directory, "nics"))
        # A decision makes no use of the sockets.
        ledger = Ledger(records, PortFilter(ElementSocket(), Nft()))
        for nic in _nics(requests):
            ledger.add(nic)
        cases = [(each, _facts(ledger, each.peer.uid)) for each in requests]
        (first,) = _timed(book, cases[:1], 1, seconds)
        for each, facts in cases:
            decision = decide(each.peer, each.target, book, facts)
            assert decision.allowed is each.allowed, (each, decision)
        gc.collect()
        gc.freeze()
        times = _timed(book, cases, _CALLS, seconds)
        gc.unfreeze()
    return {
        "n": len(times),
        "first_us": round(first * 1e-3, 2),
        "p50_us": round(report.quantile(times, 0.5) * 1e-3 - clock, 2),
        "p99_us": round(report.quantile(times, 0.99) * 1e-3 - clock, 2),
    }


def _facts(ledger: Ledger, uid: int) -> Facts:
    def count(rule: Rule, bridges: bool) -> int:
        return used(ledger, uid, rule, bridges)

    return Facts(count)


def _timed(
    book: Rulebook,
    cases: Sequence[tuple[Request, Facts]],
    calls: int,
    seconds: float,
) -> list[int]:
    """Nanoseconds of each, in turns."""
    times: list[int] = []
    end = time.monotonic() + seconds
    while len(times) < calls and (len(times) < _FEWEST or time.monotonic() < end):
        for (peer, target, _), facts in cases:
            start = time.perf_counter_ns()
            _keep(decide(peer, target, book, facts))
            times.append(time.perf_counter_ns() - start)
    return times


def _keep(_decision: Decision) -> None:
    """So that it is not thrown away, which takes its time, within the time."""


def _nics(requests: Sequence[Request]) -> Iterator[Nic]:
    """Some of each caller's, on the network that it asks for."""
    number = 0
    for peer, network in sorted({(r.peer.uid, r.target.network) for r in requests}):
        for which in range(_NICS):
            number += 1
            yield Nic(
                f"tapstern{number}",
                number,
                f"tapbr{network}",
                1,
                network,
                peer,
                str(peer),
                1,
                f"vm{which}",
                f"52:54:00:00:{number >> 8:02x}:{number & 255:02x}",
                None,
                None,
                1500,
                State.ACTIVE,
                shared=True,
            )


# The results


def table(result: Mapping[str, Any]) -> str:
    """The table of decisions, in Markdown."""
    attach = result["attach_us"]
    head = ["rules", "each about", "allowed, p50", "p99", "refused, p50", "p99"]
    head += ["the first", "of an attach", "more than with one rule"]
    rows = [head, ["--:", "---", *["--:"] * 7]]
    with_one: dict[str, float] = {}
    for line in result["lines"]:
        yes, no = line["allowed"], line["refused"]
        slower = max(yes["p50_us"], no["p50_us"])
        more = slower - with_one.setdefault(line["what"], slower)
        shares = [f"{part / attach:.2%}" if attach else "" for part in (slower, more)]
        rows.append(
            [
                f"{line['rules']:,}",
                line["what"],
                *(f"{each[p]:.1f} µs" for each in (yes, no) for p in _FIGURES),
                f"{max(yes['first_us'], no['first_us']):.0f} µs",
                shares[0],
                shares[1] if line["rules"] > 1 else "",
            ]
        )
    return "".join(f"| {' | '.join(cells)} |\n" for cells in rows)


_FIGURES = ("p50_us", "p99_us")


def building_table(result: Mapping[str, Any]) -> str:
    """What is done once, at start and at each reload."""
    head = ["rules", "each about", "file", "read and checked", "of that, indexed"]
    rows = [head, ["--:", "---", *["--:"] * 3]]
    rows += [
        [
            f"{line['rules']:,}",
            line["what"],
            f"{line['file_kib']:.0f} KiB",
            f"{line['read_ms']:.1f} ms",
            f"{line['index_ms']:.2f} ms",
        ]
        for line in result["lines"]
    ]
    return "".join(f"| {' | '.join(cells)} |\n" for cells in rows)


def document(result: Mapping[str, Any]) -> str:
    """The tables with what they depend on."""
    host = result["machine"]
    attach = result["attach_us"]
    conditions = (
        f"{host['date']}, tapster {host['commit']}, Linux {host['kernel']},"
        f" Python {host['python']}, {host['processors']} CPUs, {host['processor']}."
        f" Load before {result['load']}; {len(result['lines'])} lines in"
        f" {result['seconds']} s."
    )
    if attach:
        conditions += (
            f" An attach is {attach / 1e3:.2f} ms, from [latest.md](latest.md)."
        )
    lines = ["# The time of a decision", "", conditions, ""]
    lines += ["How it is measured: [README.md](../README.md#decisions).", ""]
    lines += [table(result), "## Reading the rules", "", building_table(result)]
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
