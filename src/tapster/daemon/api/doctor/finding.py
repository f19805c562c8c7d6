# SPDX-License-Identifier: LGPL-2.1-or-later
"""What a diagnosis is made of."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Severity = Literal["error", "warning", "info"]


@dataclass(frozen=True)
class Finding:
    """One thing that is in the way of guests, or may be."""

    code: str
    severity: Severity
    message: str  # one line
    remedy: str | None = None  # one line: a command
