# SPDX-License-Identifier: LGPL-2.1-or-later
"""The errors of io.tapster.Broker: those of `tapster.errors` that callers see."""

# No "from __future__ import annotations": asyncvarlink reads the annotations.

from asyncvarlink import TypedVarlinkErrorReply

from .. import errors

INTERFACE = "io.tapster.Broker"


class NotAuthorized(TypedVarlinkErrorReply, interface=INTERFACE):
    """Not allowed, or no such network or bridge: there is one answer."""

    class Parameters:
        message: str
        hint: str | None


class InvalidRequest(TypedVarlinkErrorReply, interface=INTERFACE):
    """A parameter is not acceptable; the message names it."""

    class Parameters:
        message: str
        hint: str | None


class QuotaExceeded(TypedVarlinkErrorReply, interface=INTERFACE):
    """The caller has as many NICs as it may have."""

    class Parameters:
        message: str
        hint: str | None


class NameInUse(TypedVarlinkErrorReply, interface=INTERFACE):
    """A guest of that name is attached to that network already."""

    class Parameters:
        message: str
        hint: str | None


class MacInUse(TypedVarlinkErrorReply, interface=INTERFACE):
    """Another guest of that network has that MAC address."""

    class Parameters:
        message: str
        hint: str | None


class AddressesExhausted(TypedVarlinkErrorReply, interface=INTERFACE):
    """The network has no free address left."""

    class Parameters:
        message: str
        hint: str | None


class NoSuchNic(TypedVarlinkErrorReply, interface=INTERFACE):
    """There is no such NIC, or the caller may not see it."""

    class Parameters:
        message: str
        hint: str | None


class ForwardRefused(TypedVarlinkErrorReply, interface=INTERFACE):
    """The port is taken, privileged or not granted; the message says which."""

    class Parameters:
        message: str
        hint: str | None


class NoSuchForward(TypedVarlinkErrorReply, interface=INTERFACE):
    """The caller has not forwarded that port."""

    class Parameters:
        message: str
        hint: str | None


class ConfigInvalid(TypedVarlinkErrorReply, interface=INTERFACE):
    """The configuration is wrong, and what was in force stays; the message
    starts with file, line and column.
    """

    class Parameters:
        message: str
        hint: str | None


class BrokerBusy(TypedVarlinkErrorReply, interface=INTERFACE):
    """A limit of the broker was met; trying again later may help."""

    class Parameters:
        message: str
        hint: str | None


class BrokerFailure(TypedVarlinkErrorReply, interface=INTERFACE):
    """The broker failed to do what it had granted; its log has the details."""

    class Parameters:
        message: str
        hint: str | None


ERRORS: tuple[type[TypedVarlinkErrorReply], ...] = (
    NotAuthorized,
    InvalidRequest,
    QuotaExceeded,
    NameInUse,
    MacInUse,
    AddressesExhausted,
    NoSuchNic,
    ForwardRefused,
    NoSuchForward,
    ConfigInvalid,
    BrokerBusy,
    BrokerFailure,
)
_BY_NAME = {error.__name__: error for error in ERRORS}


def to_wire(error: errors.RequestError) -> TypedVarlinkErrorReply:
    """The reply for an error that the caller is meant to see."""
    kind = _BY_NAME.get(type(error).__name__, BrokerFailure)
    return kind(message=error.message, hint=error.hint)
