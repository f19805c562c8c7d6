# SPDX-License-Identifier: LGPL-2.1-or-later
"""The figures as people read them, and as the next run is compared with them."""

from __future__ import annotations

import json
import math
import os
import platform
import subprocess
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NamedTuple

from benchmarks import space

RESULTS = Path(__file__).resolve().parent / "results"

# design.md, "Budgets"
ATTACH_RATIO = 0.5
OUTSIDE_SHARE = 0.5
GROWTH = 3.0
HELPER_MS = 20.0
RUN_MS = 60.0
RESIDENT_MIB = 45.0
PER_NIC_KIB = 8.0


class Row(NamedTuple):
    """One line of the table; None where there is nothing to say."""

    what: str
    p50: str
    p95: str | None = None
    minimum: str | None = None
    ratio: float | None = None
    budget: str | None = None
    holds: bool | None = None

    def cells(self) -> list[str]:
        verdict = {True: "yes", False: "**no**", None: ""}[self.holds]
        ratio = "" if self.ratio is None else f"{self.ratio:.2f}"
        texts = [self.p95 or "", self.minimum or "", ratio, self.budget or "", verdict]
        return [self.what, self.p50, *texts]


def quantile(values: Sequence[float], share: float) -> float:
    """The value that this share of all does not exceed."""
    ordered = sorted(values)
    return ordered[min(len(ordered), max(1, math.ceil(share * len(ordered)))) - 1]


def figures(samples: Sequence[float]) -> dict[str, Any]:
    """Of times in seconds, all of them kept, in milliseconds."""
    return {
        "n": len(samples),
        "p50_ms": round(quantile(samples, 0.5) * 1e3, 4),
        "p95_ms": round(quantile(samples, 0.95) * 1e3, 4),
        "min_ms": round(min(samples) * 1e3, 4),
        "samples_us": [round(sample * 1e6) for sample in samples],
    }


def machine() -> dict[str, Any]:
    """What the figures depend on."""
    model = ""
    for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
        if line.startswith("model name"):
            model = line.partition(":")[2].strip()
            break
    package = ["dpkg-query", "--show", "--showformat=${Version}", "qemu-system-common"]
    try:
        version = subprocess.run(package, capture_output=True, text=True).stdout
    except OSError:
        version = ""  # not a Debian
    git = ["git", "-C", str(space.CHECKOUT)]
    commit = subprocess.run(
        [*git, "describe", "--always", "--dirty"], capture_output=True, text=True
    )
    return {
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "kernel": platform.release(),
        "machine": platform.machine(),
        "processors": os.cpu_count(),
        "processor": model,
        "python": platform.python_version(),
        "peer": f"qemu-bridge-helper {version or 'of unknown version'}",
        "commit": commit.stdout.strip(),
    }


def table(result: Mapping[str, Any]) -> str:
    """The table, in Markdown."""
    rows = [*_attaches(result), *_levels(result), *_shares(result), *_memory(result)]
    head = ["what", "p50", "p95", "min", "ratio to the peer", "budget", "holds"]
    lines = [head, ["---", *["--:"] * 4, "---", "---"]]
    lines += [row.cells() for row in rows]
    return "".join(f"| {' | '.join(cells)} |\n" for cells in lines)


def _times(what: str, found: Mapping[str, Any], **more: Any) -> Row:
    p50, p95, least = (f"{found[key]:.2f} ms" for key in ("p50_ms", "p95_ms", "min_ms"))
    return Row(what, p50, p95, least, **more)


def _attaches(result: Mapping[str, Any]) -> list[Row]:
    base = result["base"]
    peer = base["peer_helper"]["p50_ms"]

    def against(kind: str) -> dict[str, Any]:
        ratio = base[kind]["p50_ms"] / peer
        budget = f"≤ {ATTACH_RATIO} of the peer's"
        return {"ratio": ratio, "budget": budget, "holds": ratio <= ATTACH_RATIO}

    helper = base["own_helper"]["p50_ms"]
    in_qemu = base["peer_in_qemu"]["p50_ms"]

    def against_qemu(kind: str) -> dict[str, Any]:
        ratio = base[kind]["p50_ms"] / in_qemu
        budget = f"≤ {ATTACH_RATIO} of it"
        return {"ratio": ratio, "budget": budget, "holds": ratio <= ATTACH_RATIO}

    run = result["run_before_exec"]
    return [
        _times("`qemu-bridge-helper`, the peer", base["peer_helper"], ratio=1.0),
        _times(
            "API attach, Linux bridge, locked to its MAC",
            base["bridge"],
            **against("bridge"),
        ),
        _times(
            "API attach, `default` network (NAT)", base["network"], **against("network")
        ),
        _times(
            "`qemu-bridge-helper` run by QEMU itself (QMP's own time taken off)",
            base["peer_in_qemu"],
            ratio=in_qemu / peer,
        ),
        _times(
            "API attach, Linux bridge, against that",
            base["bridge"],
            **against_qemu("bridge"),
        ),
        _times(
            "API attach, `default` network, against that",
            base["network"],
            **against_qemu("network"),
        ),
        _times(
            "`tapster-bridge-helper`, spawn to reaped",
            base["own_helper"],
            ratio=helper / peer,
            budget=f"≤ {HELPER_MS:g} ms",
            holds=helper <= HELPER_MS,
        ),
        _times(
            "`tapster run` before the VMM (a program's first word, less that alone)",
            run,
            ratio=run["p50_ms"] / peer,
            budget=f"≤ {RUN_MS:g} ms",
            holds=run["p50_ms"] <= RUN_MS,
        ),
    ]


def _levels(result: Mapping[str, Any]) -> list[Row]:
    rows = []
    levels = result["levels"]
    for level, found in levels.items():
        peer = found["peer_helper"]["p50_ms"]
        own = found["bridge"]["p50_ms"]
        rows += [
            _times(
                f"the peer, {level} NICs on the bridge", found["peer_helper"], ratio=1.0
            ),
            _times(
                f"API attach, {level} NICs on the bridge",
                found["bridge"],
                ratio=own / peer,
            ),
        ]
    if len(levels) > 1:
        few, many = min(levels, key=int), max(levels, key=int)
        for kind, name in ("bridge", "API attach"), ("peer_helper", "the peer"):
            growth = levels[many][kind]["p50_ms"] / levels[few][kind]["p50_ms"]
            judged = kind == "bridge"
            rows.append(
                Row(
                    f"{name}, {many} NICs against {few}",
                    f"{growth:.2f} times",
                    budget=f"≤ {GROWTH:g} times" if judged else None,
                    holds=growth <= GROWTH if judged else None,
                )
            )
    return rows


def _shares(result: Mapping[str, Any]) -> list[Row]:
    budget = f"≤ {OUTSIDE_SHARE:.0%}"
    rows = []
    for kind, what in ("bridge", "Linux bridge"), ("network", "`default`"):
        found = result["outside"]["traced"][kind]
        share = found["share"]
        note = f"{found['share_with_libraries']:.0%} with libnftables and getpwuid"
        rows.append(
            Row(
                f"outside of kernel calls, {what}, calls timed ({note})",
                f"{share:.0%}",
                budget=budget,
                holds=share <= OUTSIDE_SHARE,
            )
        )
    used = result["outside"]["processor"]
    rows.append(
        Row(
            "processor time in user mode, broker and client, Linux bridge",
            f"{used['share']:.0%}",
            budget=budget,
            holds=used["share"] <= OUTSIDE_SHARE,
        )
    )
    return rows


def _memory(result: Mapping[str, Any]) -> list[Row]:
    found = result["memory"]
    many, each = found["many"], found["per_nic_kib"]
    full = found["many_kib"] / 1024
    return [
        Row(
            "broker, resident, no NIC",
            f"{found['fresh_kib'] / 1024:.1f} MiB",
            budget=f"≤ {RESIDENT_MIB:g} MiB",
            holds=found["fresh_kib"] / 1024 <= RESIDENT_MIB,
        ),
        Row(
            f"broker, resident, {many} NICs",
            f"{full:.1f} MiB",
            budget=f"≤ {RESIDENT_MIB:g} MiB",
            holds=full <= RESIDENT_MIB,
        ),
        Row(
            "broker, each NIC",
            f"{each:.2f} KiB",
            budget=f"≤ {PER_NIC_KIB:g} KiB",
            holds=each <= PER_NIC_KIB,
        ),
    ]


def document(result: Mapping[str, Any]) -> str:
    """The table with what it depends on, and where an attach's time goes."""
    host = result["machine"]
    load = result["load"]
    conditions = (
        f"{host['date']}, tapster {host['commit']}, Linux {host['kernel']},"
        f" Python {host['python']}, {host['processors']} CPUs, {host['processor']};"
        f" {host['peer']}. Load before {load['before']}, after {load['after']};"
        f" {result['attaches']} attaches each, in {result['seconds']} s,"
        f" processors {'divided' if result['pinned'] else 'as the scheduler likes'}."
    )
    lines = [
        "# Benchmarks",
        "",
        conditions,
        "",
        "How each is measured: [README.md](../README.md).",
        "",
        table(result),
        "## Where the time of an attach goes",
        "",
        "Means over the middle half, in µs, of a broker whose calls are timed.",
        "",
        "| | Linux bridge | `default` |",
        "| --- | --: | --: |",
    ]
    bridge, network = (
        result["outside"]["traced"][kind] for kind in ("bridge", "network")
    )
    words = {
        "whole_us": "whole attach, as the client sees it",
        "broker_us": "outside of calls, in the broker",
        "client_us": "outside of calls, in the client",
        "libraries_us": "libnftables and getpwuid, calls included",
    }
    lines += [
        f"| {text} | {bridge[key]:.0f} | {network[key]:.0f} |"
        for key, text in words.items()
    ]
    names = {
        "wake-up": "waiting, for the other process to be woken",
        "client": "calls of the client, in which the broker did nothing",
        "socket": "calls of the broker: netlink and unix sockets",
        "file": "calls of the broker: files",
        "tun": "calls of the broker: tun and other ioctls",
        "epoll": "calls of the broker: epoll_ctl",
    }
    for word, text in names.items():
        cells = [found["calls_us"].get(word, 0) for found in (bridge, network)]
        lines.append(f"| {text} | {cells[0]:.0f} | {cells[1]:.0f} |")
    costs = [found["measuring_us"] for found in (bridge, network)]
    lines.append(
        f"| cost of timing, not in the whole | {costs[0]:.0f} | {costs[1]:.0f} |"
    )
    return "\n".join(lines) + "\n"


def keep(name: str, result: Mapping[str, Any], text: str) -> None:
    """Write `results/NAME.json` and `NAME.md`, for people, each whole or not at all."""
    RESULTS.mkdir(exist_ok=True)
    kept = {f"{name}.json": json.dumps(result, indent=1), f"{name}.md": text}
    for file, content in kept.items():
        temporary = RESULTS / f".{file}"
        temporary.write_text(content.rstrip("\n") + "\n", encoding="utf-8")
        temporary.replace(RESULTS / file)
