# SPDX-License-Identifier: LGPL-2.1-or-later
"""Clients that are many, slow, broken or gone: whether others are still served.

QEMU's helper is a process of each caller's own, and no service that others wait for.
"""

from __future__ import annotations

import json
import os
import re
import time
from collections.abc import Callable
from typing import Any

from attack import acts
from attack.registry import attack, control
from attack.site import Site, eventually
from support import host

SLOW = 1.0  # seconds; an honest request takes a few milliseconds
GET_INFO = b'{"method":"io.tapster.Broker.GetInfo"}\0'
NO_SERVICE = "it is no service"


def error(reply: dict[str, Any]) -> str:
    return str(reply.get("error", ""))


def others_are_served(site: Site) -> str | None:
    """Another user's attach, during an attack: it comes, and soon."""
    start = time.monotonic()
    reply = site.other(acts.ask, "Attach", {"network": "default"})
    seconds = time.monotonic() - start
    if error(reply):
        return f"another user's attach fails: {reply['error']}"
    if seconds > SLOW:
        return f"another user's attach takes {seconds:.1f} s"
    return None


def resident(site: Site) -> int:
    """The broker's memory, KiB."""
    return status(site, "VmRSS")


def status(site: Site, word: str) -> int:
    path = f"/proc/{site.daemon.process.pid}/status"
    with open(path) as file:
        return int(re.search(rf"^{word}:\s+(\d+)", file.read(), re.M)[1])  # type: ignore[index]


def descriptors(site: Site) -> int:
    return len(os.listdir(f"/proc/{site.daemon.process.pid}/fd"))


def survives(site: Site, act: Callable[[], Any], *, memory: int = 16384) -> str | None:
    """Do it; afterwards the broker serves others, and has what it had."""
    site.other(acts.ask, "Attach", {"network": "default"})
    fds, kib = descriptors(site), resident(site)
    act()
    if harm := others_are_served(site):
        return harm
    site.user.forget()
    if not eventually(lambda: descriptors(site) <= fds + 2):
        return f"it holds {descriptors(site) - fds} descriptors more"
    more = resident(site) - kib
    return f"it grew by {more} KiB" if more > memory else None


@attack(
    "1,000 connections of one user",
    "nobody else gets through to the broker",
    not_for_peer=NO_SERVICE,
)
def many_connections(site: Site) -> str | None:
    def act() -> None:
        made = site.user(acts.connections, 1000)
        control(len(made) > 10, "connections are made")
        for _ in range(3):
            site.user(acts.connections, 100, GET_INFO)

    return survives(site, act)


@attack(
    "half messages on 200 connections, and slow ones",
    "the broker waits for what never comes",
    not_for_peer=NO_SERVICE,
)
def half_messages(site: Site) -> str | None:
    made: list[int] = []

    def act() -> None:
        made.extend(site.user(acts.connections, 200, GET_INFO[:20]))
        control(made, "connections are made")

    if harm := survives_holding(site, act):
        return harm
    left = eventually(lambda: site.user(acts.still_open, made) == 0, 12)
    return None if left else "they are never cut off"


def survives_holding(site: Site, act: Callable[[], Any]) -> str | None:
    act()
    return others_are_served(site)


@attack(
    "a message without end",
    "the broker's memory is filled",
    not_for_peer=NO_SERVICE,
)
def endless_message(site: Site) -> str | None:
    taken: list[int] = []

    def act() -> None:
        taken.append(site.user(acts.pour, b"x" * 65536, 2000))

    harm = survives(site, act)
    return harm or (f"it took {taken[0]} MiB" if taken[0] > 8 else None)


@attack(
    "garbage: depth, numbers, types, encodings",
    "an exception that nobody foresaw ends the broker",
    not_for_peer=NO_SERVICE,
)
def garbage(site: Site) -> str | None:
    attach = "io.tapster.Broker.Attach"
    odd: list[Any] = [None, True, 0, -1, 1e308, 2**64, "", "\0", "\ud800", [], {}, [[]]]
    messages = [b"\0", b"x\0", b"[]\0", b"\xff\xfe\0", b"[" * 60000 + b"\0",
                b'{"a":' * 9000 + b"\0", b"9" * 60000 + b"\0"]  # fmt: skip
    for key in ("network", "bridge", "name", "mac", "vnet_hdr", "for_parent"):
        for value in odd:
            call = {"method": attach, "parameters": {key: value}}
            messages.append(json.dumps(call).encode() + b"\0")
    for value in odd:
        messages.append(json.dumps({"method": value}).encode() + b"\0")
        messages.append(json.dumps({"method": attach, "parameters": value}).encode()
                        + b"\0")  # fmt: skip

    def act() -> None:
        for message in messages:
            site.user(acts.raw_call, message, wait=2)

    harm = survives(site, act)
    return harm or ("a traceback is in its log" if "Traceback" in site.daemon.log
                    else None)  # fmt: skip


@attack(
    "descriptors sent along, hundreds of them",
    "the broker runs out of descriptors, or takes one for what it is not",
    not_for_peer=NO_SERVICE,
)
def descriptors_sent(site: Site) -> str | None:
    def act() -> None:
        for count in (1, 16, 200, 253):
            for _ in range(10):
                site.user(acts.send_descriptors, GET_INFO, count)

    return survives(site, act)


@attack(
    "attach and drop the reply, 200 times",
    "taps that nobody holds pile up, with their addresses",
    not_for_peer="its taps go with the descriptor, as here",
)
def dropped_replies(site: Site) -> str | None:
    def act() -> None:
        call = b'{"method":"io.tapster.Broker.Attach","parameters":{}}\0'
        for _ in range(200):
            site.user(acts.say_and_leave, call)
        site.user(acts.say_and_leave, call.replace(b"}}", b'},"oneway":true}'))

    harm = survives(site, act)
    site.other.forget()
    gone = eventually(lambda: not host.links(site.lab.host, "tapstern"))
    return harm or (None if gone else "taps are left")


@attack(
    "a request that is cut off at any byte",
    "a state that nobody foresaw: a tap without owner, a lock never freed",
    not_for_peer=NO_SERVICE,
)
def cut_off(site: Site) -> str | None:
    call = b'{"method":"io.tapster.Broker.Attach","parameters":{"name":"cut"}}\0'

    def act() -> None:
        for length in range(len(call) + 1):
            site.user(acts.say_and_leave, call[:length])

    if harm := survives(site, act):
        return harm
    again = {"name": "cut"}
    free = eventually(lambda: not error(site.user(acts.ask, "Attach", again)))
    return None if free else "its name is never free again"


@attack(
    "watchers that never read",
    "events without end wait in the broker's memory",
    not_for_peer=NO_SERVICE,
)
def deaf_watchers(site: Site) -> str | None:
    def act() -> None:
        call = json.dumps(acts.WATCH).encode() + b"\0"
        control(site.user(acts.connections, 100, call), "watchers are taken")
        for _ in range(150):
            site.user(acts.ask, "Attach")  # two events each, which are theirs

    return survives(site, act)
