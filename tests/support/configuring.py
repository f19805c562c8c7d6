# SPDX-License-Identifier: LGPL-2.1-or-later
"""Configurations from texts, and why one is refused."""

from __future__ import annotations

import re

import pytest

from tapster.errors import ConfigError
from tapster.policy.config.load import Config, parse
from tapster.policy.config.values import Names

PEOPLE = Names({"alice": 1000, "bob": 1001}.__getitem__, {"kvm": 36}.__getitem__)


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
