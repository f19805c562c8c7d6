# SPDX-License-Identifier: LGPL-2.1-or-later
"""The audit record: who did what, to what, by which rule, and what came of it.

A record is an `Event` of the wire, so that the journal, a line of the log and a
watcher have the same fields; docs/events.md explains each. Every text in a record is
bounded, as some of it comes from callers.
"""

from __future__ import annotations

import dataclasses
import json
from datetime import UTC, datetime
from typing import Any, NamedTuple

from ...model import Peer
from ...wire.objects import Event
from ..identify.accounts import user_name
from ..identify.program import UNKNOWN, Program
from ..nics.nic import Nic
from .log import Structured, visible
from .request_context import RequestContext

OK, DENIED, FAILED = "ok", "denied", "failed"
NO_UID = -1  # where a record is about no user
MAX_TEXT = 1024  # characters of a field
PREFIX = "TAPSTER_"  # of a record's fields in the journal


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
# What a caller was not given: only root is told why, and how soon that was clear.
_REFUSALS = ("denied", "failed", "suppressed")


def make_event(
    event: str,
    context: RequestContext | None = None,
    program: Program = UNKNOWN,
    *,
    duration: int | None = None,
    reason: str | None = None,
    owner: int | None = None,
    **fields: Any,
) -> Event:
    """Make a record.

    :param event: what happened: one of KINDS.
    :param context: the request that it happened by, if it was one: who made it and
        what it asked for is in the record.
    :param program: what the caller's process runs.
    :param duration: from the request's arrival, in microseconds.
    :param reason: why it happened.
    :param owner: the uid of the user whose NIC, forward or network it happened to.
    :param fields: other fields of `Event`; they come before those of the request.
    """
    if context is not None:
        peer = context.peer
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


def nic_fields(nic: Nic) -> dict[str, Any]:
    """What a record says about a NIC."""
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
    """The time, as records have it: ISO 8601, in UTC, to a millisecond."""
    return datetime.now(UTC).isoformat(timespec="milliseconds")


def _fit(text: str) -> str:
    if len(text) > MAX_TEXT:
        text = text[: MAX_TEXT - 3] + "..."
    if not text.isascii():  # half a surrogate pair is no text elsewhere
        text = text.encode("utf-8", "backslashreplace").decode()
    return text


def redacted_for(peer: Peer, event: Event) -> Event:
    """A record as a watcher may have it.

    Only root is told why something was not granted, by which rule other users have
    what they have, and where programs are on the host: a container's user, for
    example, is not to learn that.
    """
    if peer.is_root:
        return event
    told = dataclasses.replace(event, executable=None)
    if event.event in _REFUSALS:
        told.rule = told.reason = told.duration = None
    elif event.uid != peer.uid:
        told.rule = told.duration = None
    return told


class Record(Structured):
    """A record as it is logged: as JSON, as fields of the journal, and for people."""

    def __init__(self, event: Event) -> None:
        self.event = event

    def line(self) -> str:
        return json.dumps(vars(self.event))

    def fields(self) -> dict[str, str]:
        """Fields that are null are left out, and so is the time, which the journal
        has by itself."""
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
        if event.uid == NO_UID:
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
