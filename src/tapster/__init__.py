# SPDX-License-Identifier: LGPL-2.1-or-later
"""Taps on real bridges, for programs without privileges.

    import tapster

    with tapster.attach(name="web1") as nic:
        start_a_vmm(nic.fd, nic.mac)

The public API is `attach()`, the `Nic` that it returns, and the errors that it
raises; `tapster.errors` draws their tree. Each name is imported when it is first
used, so that a program that reads only the version does not load the client.
"""

from tapster.version import __version__

TYPE_CHECKING = False  # type checkers take it for typing's, which is slow to import
if TYPE_CHECKING:
    from tapster.client.attach import Nic, attach
    from tapster.errors import (
        AddressesExhausted,
        BrokerBusy,
        BrokerFailure,
        BrokerUnavailable,
        ConfigError,
        ConfigInvalid,
        ForwardRefused,
        InvalidRequest,
        MacInUse,
        NameInUse,
        NoSuchForward,
        NoSuchNic,
        NotAuthorized,
        ProtocolError,
        QuotaExceeded,
        RequestError,
        TapsterError,
        UsageError,
    )

__all__ = [
    "AddressesExhausted",
    "BrokerBusy",
    "BrokerFailure",
    "BrokerUnavailable",
    "ConfigError",
    "ConfigInvalid",
    "ForwardRefused",
    "InvalidRequest",
    "MacInUse",
    "NameInUse",
    "Nic",
    "NoSuchForward",
    "NoSuchNic",
    "NotAuthorized",
    "ProtocolError",
    "QuotaExceeded",
    "RequestError",
    "TapsterError",
    "UsageError",
    "__version__",
    "attach",
]


def __getattr__(name: str) -> object:
    if name not in __all__:
        raise AttributeError(f"module 'tapster' has no attribute {name!r}")
    if name in ("Nic", "attach"):
        from tapster.client import attach as module
    else:
        from tapster import errors as module  # type: ignore[no-redef]
    value: object = getattr(module, name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
