# SPDX-License-Identifier: LGPL-2.1-or-later
"""The configuration that holds now: a reload replaces it in one place.

Whoever goes by the configuration is given this object and reads `value` each time:
a `Config` that was kept from before an await may not hold any more.
"""

from __future__ import annotations

from .load import Config


class CurrentConfig:
    """Holds the one `Config` of a broker. Only a reload calls `replace`."""

    __slots__ = ("_value",)

    def __init__(self, value: Config) -> None:
        self._value = value

    @property
    def value(self) -> Config:
        """The configuration as it is at this moment; frozen."""
        return self._value

    def replace(self, value: Config) -> None:
        """Have everybody go by another configuration from now on."""
        self._value = value
