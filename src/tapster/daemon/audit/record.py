# SPDX-License-Identifier: LGPL-2.1-or-later
"""The audit record: who did what, to what, by which rule, and what came of it.

A record is an `Event` of the wire, so that the journal, a line of the log and a
watcher have the same words for it; docs/events.md explains each. All text in one
is bounded: some of it is a caller's.
"""

from __future__ import annotations

import dataclasses
import json
import os
import time
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any, NamedTuple

from ...model import Peer
from ...wire.interface import Event
from ..identify import caller
from ..identify.accounts import user_name
from ..nics.ledger import Nic
from .log import Structured, visible

OK, DENIED, FAILED = "ok", "denied", "failed"
NOBODY = -1  # in place of a uid
MAX_TEXT = 1024  # characters of a field
PREFIX = "TAPSTER_"  # of its fields in the journal

_TICKS = os.sysconf("SC_CLK_TCK")  # a second, of starttime in /proc/PID/stat


class Kind(NamedTuple):
    """What all records of one event have in common."""

    outcome: str
    message_id: str  # of the journal


KINDS = {
    "attached": Kind(OK, "653fb46ea9664e869fe89dc82bf8e8de"),
    "active": Kind(OK, "cd26ebff5ac4472c8504ff8ffbecb709"),
    "address": Kind(OK, "9ead71bed2bf4fdfa0cc965ed308edc6"),
    "detached": Kind(OK, "45dba071f17f46b8bb95fbad16255376"),
    "expired": Kind(OK, "7ccc5881159c46399601531f32cacc96"),
    "refused": Kind(DENIED, "27a808829861434785d3eff24791aafb"),
    "tampered": Kind(DENIED, "8da6cd56eb7b4a8a80e3e3e2f42bbb9f"),
    "quarantined": Kind(DENIED, "413275d5aa6246af9e36830fdbd8fda9"),
    "denied": Kind(DENIED, "73bc5ab5891a43e792bc97970dd80fc3"),
    "failed": Kind(FAILED, "096aa1784d1c402f9191b532153e7ce2"),
    "suppressed": Kind(DENIED, "d4ecdd40f24e4a45b1092d183a032626"),
    "forward-added": Kind(OK, "293faa4be7f74ebf938fe00548e186f6"),
    "forward-removed": Kind(OK, "b4efee6d75ec434f950c777c033f8b9b"),
    "reloaded": Kind(OK, "8e44a51d4b3645caa2d93ede5fd3d2b4"),
    "reload-refused": Kind(FAILED, "842cf94a03fc494baa764d33c8fa5141"),
    "network": Kind(OK, "c4ac91fcfc63481cbcdb1bc79d347eb3"),
    "watching": Kind(OK, "3203ca7eae3443d3b98eed2f8afc64af"),
}
# Of what a caller was not given: why, and how soon that was clear, is not for it.
_ANSWERS = ("denied", "failed", "suppressed")


class RequestContext:
    """One request of a caller, from its arrival.

    Whoever serves it says what it turned out to be about, as it was asked for,
    and the rule that decided. Made for each request before its answer, so what
    is not known yet is of the class, which costs nothing.
    """

    rule: str | None = None
    network: str | None = None
    bridge: str | None = None
    name: str | None = None
    ifname: str | None = None
    mac: str | None = None
    port: str | None = None
    guest_port: int | None = None

    def __init__(self, peer: Peer, verb: str) -> None:
        self.peer = peer
        self.verb = verb
        # The clock that the kernel notes a process's start by.
        self.arrived = time.clock_gettime_ns(time.CLOCK_BOOTTIME)

    def duration(self) -> int:
        """Microseconds since its arrival."""
        return (time.clock_gettime_ns(time.CLOCK_BOOTTIME) - self.arrived) // 1000


class Program(NamedTuple):
    """What a process runs; None where that is not to be known."""

    executable: str | None = None
    command: str | None = None


def make(
    event: str,
    context: RequestContext | None = None,
    *,
    duration: int | None = None,
    reason: str | None = None,
    owner: int | None = None,
    **fields: Any,
) -> Event:
    """A record; of a request, with who made it and what it asked for.

    :param fields: those of `Event` that the request does not tell, or not right.
    """
    if context is not None:
        peer = context.peer
        program = look_up(peer.pid, peer.uid, _since(context))
        fields = {
            "verb": context.verb,
            "uid": peer.uid,
            "user": user_name(peer.uid),
            "gid": peer.gid,
            "pid": peer.pid,
            "executable": program.executable,
            "command": program.command,
            "network": context.network,
            "bridge": context.bridge,
            "name": context.name,
            "ifname": context.ifname,
            "mac": context.mac,
            "port": context.port,
            "guest_port": context.guest_port,
            "rule": context.rule,
            **fields,
        }
    kind = KINDS.get(event)
    made = Event(
        time=now(),
        event=event,
        outcome=kind.outcome if kind else OK,
        duration=duration,
        reason=reason,
        owner=owner,
        **fields,
    )
    for name, value in vars(made).items():
        if isinstance(value, str):
            setattr(made, name, _fit(value))
    return made


def of_nic(nic: Nic) -> dict[str, Any]:
    """What a record says about a NIC; of nobody's request, its user's."""
    return {
        "owner": nic.uid,
        "network": nic.network,
        "bridge": nic.bridge,
        "name": nic.name,
        "ifname": nic.ifname,
        "mac": nic.mac,
        "ipv4": nic.ipv4,
        "ipv6": nic.ipv6,
    }


def now() -> str:
    return datetime.now(UTC).isoformat(timespec="milliseconds")


def _fit(text: str) -> str:
    if len(text) > MAX_TEXT:
        text = text[: MAX_TEXT - 3] + "..."
    if not text.isascii():  # half a surrogate pair is no text elsewhere
        text = text.encode("utf-8", "backslashreplace").decode()
    return text


def _since(context: RequestContext) -> int:
    """By when the process of a request had started: when it had connected."""
    connection = caller.of_this_call()
    if connection is None or connection.peer != context.peer:
        return context.arrived
    return min(context.arrived, int(connection.accepted * 1e9))


def look_up(pid: int, uid: int, since: int) -> Program:
    """What a process runs now, if it is the one that asked.

    Another one may have its pid by now: it is known by having started later, to
    a hundredth of a second, or by being another user's. The executable's path
    takes the right to trace the process (proc(5)): mostly, to be root.

    :param since: when it was there, in nanoseconds of CLOCK_BOOTTIME.
    """
    try:
        # Stays that process's, whoever has the pid next.
        process = os.open(f"/proc/{pid}", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except OSError:
        return Program()
    try:
        stat = _stat(process)
        start = stat.index(b"(") + 1
        end = stat.rindex(b")")
        started = int(stat[end + 2 :].split(None, 20)[19])
        late = started > since * _TICKS // 1_000_000_000
        # The directory is the effective user's, also where what is in it is root's.
        if late or os.fstat(process).st_uid != uid:
            return Program()
        return Program(_executable(process), _text(stat[start:end]))
    except (OSError, ValueError, IndexError):
        return Program()
    finally:
        os.close(process)


def _read_executable(process: int) -> str | None:
    try:
        return os.fsdecode(os.readlink(b"exe", dir_fd=process))
    except OSError:
        return None


# Another one where we may not, and somebody else may.
read_executable: Callable[[int], str | None] = _read_executable


def _executable(process: int) -> str | None:
    path = read_executable(process)
    return _text(os.fsencode(path)) if path is not None else None


def _text(data: bytes) -> str:
    return data.decode("utf-8", "backslashreplace")


def _stat(process: int) -> bytes:
    fd = os.open("stat", os.O_RDONLY | os.O_CLOEXEC, dir_fd=process)
    try:
        return os.read(fd, 4096)
    finally:
        os.close(fd)


def seen_by(peer: Peer, event: Event) -> Event:
    """A record as a watcher may have it.

    Only root has the truth about what was not granted, or by which rule others
    have what they have, and where programs are: a container's user, say, is not
    to know that.
    """
    if peer.is_root:
        return event
    told = dataclasses.replace(event, executable=None)
    if event.event in _ANSWERS:
        told.rule = told.reason = told.duration = None
    elif event.uid != peer.uid:
        told.rule = told.duration = None
    return told


class Record(Structured):
    """A record as it is logged."""

    def __init__(self, event: Event) -> None:
        self.event = event

    def line(self) -> str:
        return json.dumps(vars(self.event))

    def fields(self) -> dict[str, str]:
        """Those that are null are left out, and so is the time, which the
        journal has by itself."""
        kind = KINDS.get(self.event.event)
        fields = {"MESSAGE": str(self)}
        if kind is not None:
            fields["MESSAGE_ID"] = kind.message_id
        for name, value in vars(self.event).items():
            if value is not None and name != "time":
                fields[PREFIX + name.upper()] = str(value)
        return fields

    def __str__(self) -> str:
        """One line for people: what, who, on what, and why."""
        event = self.event
        verb = event.verb if event.outcome != OK else None
        what = [event.event, verb, event.ifname, event.port]
        words = " ".join(filter(None, what))
        who = f"user {event.user} (uid {event.uid}), pid {event.pid}"
        if event.uid == NOBODY:
            who = ""
        elif event.command:
            who += f" ({event.command})"
        where = event.network or event.bridge
        guest = f"guest {event.name}" if event.name else ""
        about = f"{guest} on {where}" if guest and where else guest or where
        mac = f"mac {event.mac}" if event.mac else ""
        text = ", ".join(filter(None, (who, about, mac)))
        text = f"{words}: {text}" if text else words
        text += f": {event.reason}" if event.reason else ""
        return visible(text + (f" [{event.rule}]" if event.rule else ""))
