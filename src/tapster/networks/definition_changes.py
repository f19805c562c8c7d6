# SPDX-License-Identifier: LGPL-2.1-or-later
"""What changed between two definitions of a network, and what may change at once."""

from __future__ import annotations

import dataclasses

from ..model import NetworkDefinition

# Fields of a definition that take effect while guests run. The others wait until the
# last guest has gone: they would take its addresses or its bridge away.
LIVE = frozenset(
    (
        *("isolation", "egress", "host_access", "rate", "forward", "dns"),
        *("reservations", "max_nics"),
    )
)


def differences(one: NetworkDefinition, other: NetworkDefinition) -> set[str]:
    """Return the names of the fields in which two definitions differ."""
    return {
        field.name
        for field in dataclasses.fields(NetworkDefinition)
        if getattr(one, field.name) != getattr(other, field.name)
    }


def with_properties(
    base: NetworkDefinition, source: NetworkDefinition, names: set[str]
) -> NetworkDefinition:
    """Return a definition with some fields of another.

    :param base: the definition.
    :param source: that the fields are taken from.
    :param names: of the fields.
    """
    return dataclasses.replace(base, **{name: getattr(source, name) for name in names})
