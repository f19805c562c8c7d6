# SPDX-License-Identifier: LGPL-2.1-or-later
"""Configurations from texts, and why one is refused."""

from __future__ import annotations

import re
from collections.abc import Mapping

import pytest

from tapster.errors import ConfigError
from tapster.model import NetworkDefinition
from tapster.policy.config.load import Config, parse
from tapster.policy.config.values import Names

PEOPLE = Names({"alice": 1000, "bob": 1001}.__getitem__, {"kvm": 36}.__getitem__)
# Keys of a network's scope or mode.
SHARED = 'scope = "shared"\n'
BRIDGE = 'mode = "bridge"\nbridge = "br0"\n'


def parsed(*texts: str) -> Config:
    """The configuration of files called 0, 1 and so on."""
    return parse([(str(n), text) for n, text in enumerate(texts)], PEOPLE)


def fails(*texts: str) -> str:
    """Why such files are refused: one line, which begins with file:line:column."""
    with pytest.raises(ConfigError) as caught:
        parsed(*texts)
    message = str(caught.value)
    assert re.match(r"\d+:\d+:\d+: ", message), message
    assert "\n" not in message
    return message


def networks(*texts: str) -> Mapping[str, NetworkDefinition]:
    """The networks of files called 0, 1 and so on."""
    return parsed(*texts).networks


def net(keys: str) -> NetworkDefinition:
    """A network x of these keys, the first of them in line 2."""
    return networks(f"[networks.x]\n{keys}\n")["x"]


def net_fails(keys: str) -> str:
    """Why a network x of these keys is refused."""
    return fails(f"[networks.x]\n{keys}\n")
