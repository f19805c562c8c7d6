# SPDX-License-Identifier: LGPL-2.1-or-later
"""Which hooks still have to run for an end: a file for each tap or bridge.

A hook that runs for an attach has to run for the detach, too. The hook's name is
written down before it runs for the attach, and struck off after it has run for the
detach. So the next broker knows what is still to be done, whenever this one dies. The
files are in the runtime directory, as taps do not survive a reboot, either.
"""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from ....jsonutil import (
    Reader,
    array,
    attributes,
    get,
    integer,
    json_object,
    optional,
    string,
)
from ....networks import state_files
from ....syntax import is_interface_name
from .discovery import is_name
from .payload import NUMBERS, OF_NETWORK, OF_NIC, Payload, device_of

_log = logging.getLogger(__name__)

DIRECTORY = "hooks-due"  # of the runtime directory
_LIMIT = 64 * 1024  # bytes of one file


@dataclass(slots=True)
class PendingEnd:
    """The end of one tap, or of one bridge of ours, that hooks have yet to hear of."""

    device: str
    payload: Payload  # what hooks were told of the beginning; they hear it again
    # The hooks that ran for the beginning and not yet for the end, in their order.
    begun: list[str] = field(default_factory=list)
    ending: str | None = None  # the one of them that is running for the end now


class PendingEnds:
    """The directory of their files."""

    def __init__(self, directory: str) -> None:
        """:param directory: it is made when there is something to write."""
        self.directory = directory

    def path(self, device: str) -> str:
        """The path of a device's file, whether or not there is one."""
        return os.path.join(self.directory, device)

    def write(self, pending_end: PendingEnd) -> None:
        """:raises OSError: it can't be written; the file is as it was before."""
        data = {
            "words": pending_end.payload,
            "begun": pending_end.begun,
            "ending": pending_end.ending,
        }
        path = self.path(pending_end.device)
        try:
            state_files.replace(path, json.dumps(data), 0o600)
        except FileNotFoundError:
            os.makedirs(self.directory, mode=0o700, exist_ok=True)
            state_files.replace(path, json.dumps(data), 0o600)

    def remove(self, pending_end: PendingEnd) -> None:
        """:raises OSError: it is there and can't be removed."""
        state_files.remove(self.path(pending_end.device))

    def all(self) -> Iterator[PendingEnd]:
        """What an earlier broker wrote. A damaged file is logged and removed."""
        try:
            names = sorted(os.listdir(self.directory))
        except FileNotFoundError:
            return
        for name in names:
            path = self.path(name)
            if name.endswith(".new"):  # the broker died before it was complete
                state_files.discard(path)
                continue
            try:
                pending_end = parse(name, state_files.read_json(path, _LIMIT))
            except (OSError, ValueError) as err:
                _log.error("%s is damaged: hooks may not hear its end: %s", path, err)
                state_files.discard(path)
                continue
            yield pending_end


def _hook_name(value: object) -> str:
    if not is_name(name := string(value)):
        raise ValueError("not the name of a hook")
    return name


def _readers(
    fields: tuple[str, ...], required: tuple[str, ...]
) -> dict[str, Reader[Any]]:
    """What reads each field of a payload; those that are not required may be null."""
    readers = {name: integer(0) if name in NUMBERS else string for name in fields}
    return {
        name: read if name in required else optional(read)
        for name, read in readers.items()
    }


_NIC_READERS = _readers(OF_NIC, ("ifname", "bridge", "uid"))
_NETWORK_READERS = _readers(OF_NETWORK, ("bridge",))


def parse(device: str, data: Any) -> PendingEnd:
    """Check what the file of a device has.

    :raises ValueError: no broker wrote that.
    """
    words = get(data, "words", json_object)
    readers = _NIC_READERS if "ifname" in words else _NETWORK_READERS
    payload = get(data, "words", lambda value: attributes(value, readers))
    begun = get(data, "begun", array(_hook_name))
    ending = get(data, "ending", optional(_hook_name))
    if not is_interface_name(device):
        raise ValueError("not the name of a device")
    if device != device_of(payload):
        raise ValueError("it is about another device")
    if ending is not None and ending not in begun:
        raise ValueError("it was never begun")
    return PendingEnd(device, payload, begun, ending)
