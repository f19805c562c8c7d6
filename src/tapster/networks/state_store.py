# SPDX-License-Identifier: LGPL-2.1-or-later
"""What must be the same after a reboot: the seed, subnets, guests' addresses.

The state directory has one small JSON file for each network instance. A file that
can't be read is put aside. Guests then get the addresses that follow from the seed,
which are nearly always the same.
"""

from __future__ import annotations

import json
import logging
import os
import re
import secrets
from dataclasses import dataclass, field
from ipaddress import IPv4Address, IPv4Network

from ..jsonutil import get, mapping, text_as
from . import state_files

_log = logging.getLogger(__name__)

REMEMBERED = 1024  # guests a network; the longest unused are forgotten first


@dataclass(slots=True)
class NetworkState:
    """What is kept of one network instance."""

    subnet4: IPv4Network | None = None
    # Name → IPv4 address, the longest unused first.
    guests: dict[str, str] = field(default_factory=dict)


def _address(text: str) -> str:
    return str(IPv4Address(text))


class StateStore:
    """The state directory. Only one broker uses it at a time.

    `seed` is this host's own; MACs, addresses and names follow from it.
    """

    def __init__(self, directory: str) -> None:
        """
        :param directory: made if need be.
        :raises OSError: it can't be made or written.
        """
        self.directory = directory
        os.makedirs(directory, mode=0o700, exist_ok=True)
        state_files.private_directory(os.path.join(directory, "networks"))
        self._remove_unfinished()
        self.seed = self._seed()

    def _remove_unfinished(self) -> None:
        """Remove what a broker was writing when it was killed."""
        for folder in (self.directory, os.path.join(self.directory, "networks")):
            for name in os.listdir(folder):
                if name.endswith(".new"):
                    os.unlink(os.path.join(folder, name))

    def _seed(self) -> bytes:
        path = os.path.join(self.directory, "seed")
        try:
            seed = bytes.fromhex(state_files.read(path, 4096))
            if len(seed) >= 16:
                return seed
            _log.warning("%s is damaged; guests will get new addresses", path)
        except FileNotFoundError:
            pass
        except ValueError as err:
            if isinstance(err.__cause__, PermissionError):
                raise err.__cause__ from None  # it may be whole
            _log.warning("%s is damaged (%s); guests will get new addresses", path, err)
            state_files.discard(path)
        seed = secrets.token_bytes(32)
        state_files.replace(path, seed.hex(), 0o600)
        return seed

    def _path(self, key: str) -> str:
        if not re.fullmatch(r"[a-z0-9][a-z0-9._-]{0,100}", key):
            raise ValueError(f"not a key: {key!r}")
        return os.path.join(self.directory, "networks", f"{key}.json")

    def load(self, key: str) -> NetworkState:
        """Read what is known of the instance `key`: nothing, if it is new."""
        path = self._path(key)
        try:
            data = state_files.read_json(path)
            return NetworkState(
                get(data, "subnet4", text_as(IPv4Network)),
                get(data, "guests", mapping(text_as(_address))),
            )
        except FileNotFoundError:
            return NetworkState()
        except ValueError as err:
            _log.warning("%s is damaged and put aside: %s", path, err)
            os.replace(path, f"{path}.damaged")
            return NetworkState()

    def save(self, key: str, state: NetworkState) -> None:
        """Write what is known of the instance `key`, and forget the longest unused
        guests if there are more than REMEMBERED.

        :raises OSError: it can't be written.
        """
        while len(state.guests) > REMEMBERED:
            del state.guests[next(iter(state.guests))]
        data = {"subnet4": str(state.subnet4), "guests": state.guests}
        state_files.replace(self._path(key), json.dumps(data), 0o600)
