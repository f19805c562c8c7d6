# SPDX-License-Identifier: LGPL-2.1-or-later
"""Whether a broker's reply can be relied on.

What a broker sends is JSON of any shape until it was looked at: these functions
return what the caller may use without a further check, and raise otherwise.
`client.fields` says what the objects of a reply have to have.
"""

from __future__ import annotations

import json

from tapster import errors
from tapster.errors import (
    BrokerFailure,
    InvalidRequest,
    ProtocolError,
    RequestError,
    TapsterError,
)

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    # Of each field its type, a list being one of strings, and whether it may be
    # null or missing.
    Fields = dict[str, tuple[type, bool]]

INTERFACE = "io.tapster.Broker"


def parse_reply(message: bytes) -> tuple[dict[str, Any], bool]:
    """The parameters of a reply, and whether others follow it.

    :param message: the reply without its NUL.
    :raises RequestError: it is an error of the broker's interface.
    :raises ProtocolError: it is none that a broker sends.
    """
    try:
        reply = json.loads(message.decode())
    except (ValueError, RecursionError):
        raise ProtocolError("the broker's answer is not JSON") from None
    if not isinstance(reply, dict):
        raise ProtocolError("the broker's answer is not an object")
    parameters = reply.get("parameters")
    if parameters is None:
        parameters = {}
    error = reply.get("error")
    more = reply.get("continues") or False
    if not isinstance(parameters, dict) or not isinstance(more, bool):
        raise ProtocolError("the broker's answer is not a Varlink reply")
    if error is None:
        return parameters, more
    if not isinstance(error, str):
        raise ProtocolError("the broker's answer is not a Varlink reply")
    raise _wire_error(error, parameters)


def _wire_error(name: str, parameters: dict[str, Any]) -> TapsterError:
    """The exception that an error on the wire stands for."""
    interface, _, word = name.rpartition(".")
    if name == "org.varlink.service.InvalidParameter":
        which = parameters.get("parameter")
        return InvalidRequest(f"the broker did not accept the parameter {which!r}")
    if interface != INTERFACE:
        return ProtocolError(
            f"the broker answered {name}", "are broker and client of one version?"
        )
    message, hint = parameters.get("message"), parameters.get("hint")
    if not isinstance(message, str) or not message:
        message = f"the broker answered {word}"
    kind = getattr(errors, word, None)
    if not (isinstance(kind, type) and issubclass(kind, RequestError)):
        kind = BrokerFailure
    return kind(message, hint if isinstance(hint, str) else None)


def check(value: object, fields: Fields, what: str) -> dict[str, Any]:
    """An object of a reply in which each of `fields` is right; others are kept.

    :param value: what the reply has where the object should be.
    :param fields: what the object has to have; one that may be missing is None then.
    :param what: what the object is called in an error.
    :raises ProtocolError: a field is missing or of the wrong type.
    """
    if not isinstance(value, dict):
        raise ProtocolError(f"the broker's answer has no {what}")
    checked: dict[str, Any] = dict(value)
    for field, (kind, nullable) in fields.items():
        found = checked.setdefault(field, None)
        if found is None and nullable:
            continue
        if type(found) is not kind or (kind is list and not is_strings(found)):
            text = f"the {what} in the broker's answer has no good {field}"
            raise ProtocolError(text)
    return checked


def check_list(values: object, fields: Fields, what: str) -> list[dict[str, Any]]:
    """`check()` each object of a list.

    :param values: what the reply has where the list should be.
    :param fields: what each object has to have.
    :param what: what one object is called in an error.
    :raises ProtocolError: it is no list, or one of its objects is wrong.
    """
    if not isinstance(values, list):
        raise ProtocolError(f"the broker's answer has no list of {what}s")
    return [check(value, fields, what) for value in values]


def is_strings(value: object) -> bool:
    """Whether this is a list of nothing but strings."""
    return isinstance(value, list) and all(type(word) is str for word in value)
