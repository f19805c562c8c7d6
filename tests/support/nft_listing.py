# SPDX-License-Identifier: LGPL-2.1-or-later
"""Builders for rules as libnftables lists them in JSON."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

ACCEPT, DROP, RETURN = {"accept": None}, {"drop": None}, {"return": None}


def jump(chain: str, how: str = "jump") -> dict[str, Any]:
    return {how: {"target": chain}}


def match(left: Any, right: Any, op: str = "==") -> dict[str, Any]:
    return {"match": {"op": op, "left": left, "right": right}}


def meta(key: str, right: Any, op: str = "==") -> dict[str, Any]:
    return match({"meta": {"key": key}}, right, op)


def payload(protocol: str, name: str, right: Any, op: str = "==") -> dict[str, Any]:
    return match({"payload": {"protocol": protocol, "field": name}}, right, op)


def xt(name: str, kind: str = "match") -> dict[str, Any]:
    return {"xt": {"type": kind, "name": name}}


def table(
    chains: Mapping[str, Sequence[Sequence[Any]]],
    *,
    policy: str = "drop",
    family: str = "ip",
    name: str = "filter",
) -> list[dict[str, Any]]:
    """A listing; the chains FORWARD and INPUT are base chains."""
    where = {"family": family, "table": name}
    listing: list[dict[str, Any]] = [{"table": {"family": family, "name": name}}]
    for chain, rules in chains.items():
        base = {"type": "filter", "hook": chain.lower(), "prio": 0, "policy": policy}
        extra = base if chain in ("FORWARD", "INPUT") else {}
        listing.append({"chain": {**where, "name": chain, **extra}})
        listing += [{"rule": {**where, "chain": chain, "expr": r}} for r in rules]
    return listing
