# SPDX-License-Identifier: LGPL-2.1-or-later
"""The exceptions that this project raises on purpose.

A user sees an error as one line, with a hint about what to do if there is one.
`cli.main` alone prints errors and chooses the exit status; code below it raises.

    TapsterError
     ├── UsageError              the command line or an argument is wrong
     ├── ConfigError             a configuration file is wrong (file:line:column)
     ├── BrokerUnavailable       nobody answers, and none could be started
     ├── ProtocolError           the broker's answer makes no sense
     └── RequestError            the broker answered: no
          ├── NotAuthorized      not allowed, or no such thing: the same answer
          ├── InvalidRequest     a parameter is not acceptable
          ├── QuotaExceeded      the caller has as many NICs as it may have
          ├── NameInUse          a guest of that name is attached already
          ├── MacInUse           another guest of that network has that MAC
          ├── AddressesExhausted the network has no address left
          ├── NoSuchNic          nothing of that name that the caller may see
          ├── ForwardRefused     the port is taken, privileged or not granted
          ├── NoSuchForward      no such port is forwarded by the caller
          ├── ConfigInvalid      the broker's configuration is wrong (see ConfigError)
          ├── BrokerBusy         a limit of the broker was met; try again
          └── BrokerFailure      the broker's fault; its log has the details
"""

from __future__ import annotations


class TapsterError(Exception):
    """Base of all errors that this project raises on purpose.

    :param message: one line, without a full stop.
    :param hint: what the reader can do about it, one line, or None.
    """

    def __init__(self, message: str, hint: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint

    def __str__(self) -> str:
        return self.message

    def oneline(self) -> str:
        """The message and its hint as one line, for stderr."""
        text = f"{self.message} ({self.hint})" if self.hint else self.message
        return " ".join(text.split())


class UsageError(TapsterError):
    """The command line or an argument is wrong."""


class ConfigError(TapsterError):
    """A configuration file is wrong; the message starts with file:line:column."""


class BrokerUnavailable(TapsterError):
    """No broker answers, and none could be started."""


class ProtocolError(TapsterError):
    """The broker's answer makes no sense."""


class RequestError(TapsterError):
    """The broker answered that it will not do what was asked."""


class NotAuthorized(RequestError):
    """Not allowed, or no such network or bridge: there is one answer."""


class InvalidRequest(RequestError):
    """A parameter is not acceptable; the message names it."""


class QuotaExceeded(RequestError):
    """The caller has as many NICs as it may have."""


class NameInUse(RequestError):
    """A guest of that name is attached to that network already."""


class MacInUse(RequestError):
    """Another guest of that network has that MAC address."""


class AddressesExhausted(RequestError):
    """The network has no free address left."""


class NoSuchNic(RequestError):
    """There is no such NIC, or the caller may not see it."""


class ForwardRefused(RequestError):
    """The port is taken, privileged or not granted; the message says which."""


class NoSuchForward(RequestError):
    """The caller has not forwarded that port."""


class ConfigInvalid(RequestError):
    """The configuration is wrong, and what was in force stays; the message
    starts with file, line and column.
    """


class BrokerBusy(RequestError):
    """A limit of the broker was met; trying again later may help."""


class BrokerFailure(RequestError):
    """The broker failed to do what it had granted; its log has the details."""
