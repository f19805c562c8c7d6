# SPDX-License-Identifier: LGPL-2.1-or-later
"""Which hooks have yet to hear that something is gone: a file each.

A hook that was told of an attach is owed a detach. That is written down before
it is told, and struck off after it has heard, so that it holds over the death
of the broker at any moment. The files are in the runtime directory: what they
are about does not outlive a reboot either.
"""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from ....networks import state_files
from ....syntax import is_interface_name
from .discovery import is_name
from .payload import NUMBERS, OF_NETWORK, OF_NIC, Words

_log = logging.getLogger(__name__)

DIRECTORY = "hooks-due"  # of the runtime directory
_LIMIT = 64 * 1024  # bytes of one


@dataclass(slots=True)
class Due:
    """What is owed for one tap, or for one bridge of ours."""

    device: str
    words: Words  # as they were told first, and will be again
    begun: list[str] = field(default_factory=list)  # hooks, in their order
    ending: str | None = None  # the one that is just being told of the end


class Records:
    """The directory of them."""

    def __init__(self, directory: str) -> None:
        """It is made when there is something to write."""
        self.directory = directory

    def path(self, device: str) -> str:
        return os.path.join(self.directory, device)

    def write(self, due: Due) -> None:
        """:raises OSError: it can't be written; the one before is still there."""
        data = {"words": due.words, "begun": due.begun, "ending": due.ending}
        path = self.path(due.device)
        try:
            state_files.replace(path, json.dumps(data), 0o600)
        except FileNotFoundError:
            os.makedirs(self.directory, mode=0o700, exist_ok=True)
            state_files.replace(path, json.dumps(data), 0o600)

    def remove(self, due: Due) -> None:
        try:
            os.unlink(self.path(due.device))
        except FileNotFoundError:
            pass

    def all(self) -> Iterator[Due]:
        """What an earlier broker wrote; what makes no sense is removed, and said."""
        try:
            names = sorted(os.listdir(self.directory))
        except FileNotFoundError:
            return
        for name in names:
            path = self.path(name)
            if name.endswith(".new"):  # its broker died before it counted
                os.unlink(path)
                continue
            try:
                with open(path, encoding="ascii") as file:
                    due = parse(name, json.loads(file.read(_LIMIT)))
            except (OSError, ValueError, TypeError, KeyError, RecursionError) as err:
                _log.error("%s is damaged: hooks may not hear its end: %s", path, err)
                os.unlink(path)
                continue
            yield due


def parse(device: str, data: Any) -> Due:
    """:raises ValueError, TypeError, KeyError: this is no such record."""
    words, begun, ending = data["words"], data["begun"], data["ending"]
    if not is_interface_name(device):
        raise ValueError("not the name of a device")
    if set(words) != set(OF_NIC if "ifname" in words else OF_NETWORK):
        raise ValueError("not the words that are told")
    if device != words.get("ifname", words["bridge"]):
        raise ValueError("it is about another device")
    for name, value in words.items():
        if type(value) is not (int if name in NUMBERS else str) and not (
            value is None and (name != "uid" or "ifname" not in words)
        ):
            raise TypeError(f"{name} is {value!r}")
    if not isinstance(begun, list) or not all(map(is_name, begun)):
        raise TypeError("not names of hooks")
    if ending is not None and ending not in begun:
        raise ValueError("it was never begun")
    return Due(device, words, begun, ending)
