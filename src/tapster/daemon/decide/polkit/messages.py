# SPDX-License-Identifier: LGPL-2.1-or-later
"""Polkit's messages on the bus: org.freedesktop.PolicyKit1.Authority.

Pure. It imports jeepney, so it is imported only where polkit is about to be asked.
"""

from __future__ import annotations

from collections.abc import Mapping

from jeepney import DBusAddress, HeaderFields, Message, new_method_call

from .dbus import error_of
from .subject import Subject

_AUTHORITY = DBusAddress(
    "/org/freedesktop/PolicyKit1/Authority",
    "org.freedesktop.PolicyKit1",
    "org.freedesktop.PolicyKit1.Authority",
)
_INTERACTION = 1  # AllowUserInteraction
_ANSWER = "(bba{ss})"

_CONFIGURATION = "the configuration of tapster's networks"
# What an agent shows to the person who types a password: verb, what, preposition. The
# text in the action file could not leave out a detail that is not there.
_PURPOSES = {
    "io.tapster.attach": ("attach", "a guest", "to"),
    "io.tapster.forward": ("forward $(port) of this host to", "a guest", "on"),
    "io.tapster.manage": ("manage", "other users' guests", "on"),
}


def check(
    subject: Subject,
    action: str,
    details: Mapping[str, str],
    interactive: bool,
    number: str,
) -> Message:
    """The question.

    :param subject: the process that it is about.
    :param action: what it wants to do.
    :param details: what the request is about, for the agent and for polkit's rules.
    :param interactive: whether a person may be asked.
    :param number: what `withdraw` names the question by: not empty, and never used
        again on this connection.
    """
    process = {
        "pid": ("u", subject.pid),
        "start-time": ("t", subject.started),
        "uid": ("i", subject.uid),
        # Polkit before 124 ignores it, and goes by the other three.
        "pidfd": ("h", subject.pidfd),
    }
    return new_method_call(
        _AUTHORITY,
        "CheckAuthorization",
        "(sa{sv})sa{ss}us",
        (
            ("unix-process", process),
            action,
            {**details, **_message(action, details)},
            _INTERACTION if interactive else 0,
            number,
        ),
    )


def withdraw(number: str) -> Message:
    """Have polkit and the agent forget a question."""
    return new_method_call(_AUTHORITY, "CancelCheckAuthorization", "s", (number,))


def understand(reply: Message, interactive: bool) -> tuple[bool, str]:
    """What an answer means.

    :param reply: to `check`.
    :param interactive: whether a person might have been asked.
    :returns: whether polkit allows it, and why, for the log.
    """
    error = error_of(reply)
    if error is not None:
        return False, f"polkit can't say: {error}"
    if reply.header.fields.get(HeaderFields.signature) != _ANSWER:
        return False, "polkit's answer is not understood"
    ((allowed, challenge, details),) = reply.body
    if allowed is True:
        return True, "polkit allows it"
    if challenge:
        return False, (
            "polkit wants authentication, and the client has no agent for it"
            if interactive
            else "polkit wants authentication, and the client did not offer it"
        )
    if "polkit.dismissed" in details:
        return False, "the authentication that polkit wanted was dismissed"
    return False, "polkit does not allow it"


def _message(action: str, details: Mapping[str, str]) -> dict[str, str]:
    """The text to show instead of the action file's, with the details' names in it:
    polkit fills in the details."""
    if action not in _PURPOSES:
        return {}
    verb, what, joint = _PURPOSES[action]
    whose = " for $(user)" if "user" in details else ""
    if details.get("verb") == "reload":
        text = f"Authentication is required{whose} to have {_CONFIGURATION} read anew"
        return {"polkit.message": text}
    if "port" not in details:
        verb = verb.replace("$(port)", "a port")
    if "guest" in details:
        what = "guest $(guest)"
    where = "any network"
    if "network" in details:
        where = "network $(network)"
    elif "bridge" in details:
        where = "bridge $(bridge)"
    text = f"Authentication is required{whose} to {verb} {what} {joint} {where}"
    return {"polkit.message": text}
