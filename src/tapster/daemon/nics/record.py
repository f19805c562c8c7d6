# SPDX-License-Identifier: LGPL-2.1-or-later
"""What the kernel can't say of a NIC: one file each, in the runtime directory.

The directory does not outlive a reboot, as the taps do not. A record is written
before its tap is handed out, and replaced as a whole, so that a broker that dies
while it writes leaves the old record or the new one. Records are read with
suspicion: whatever makes no sense is removed and told, since guests run that need
a broker which starts.
"""

from __future__ import annotations

import dataclasses
import json
import logging
import os
from collections.abc import Iterator
from ipaddress import IPv4Address, IPv6Address
from typing import Any

from ...jsonutil import (
    Reader,
    array,
    attributes,
    boolean,
    floating,
    integer,
    optional,
    string,
)
from ...model import State
from ...networks import state_files
from ...syntax import is_interface_name, is_mac
from .nic import Nic

_log = logging.getLogger(__name__)

_LIMIT = 64 * 1024  # bytes of one record
_INT, _UINT = 2**31 - 1, 2**32 - 1
_MAX_RATE = 10**13  # bit/s
_MAX_TEXT = 256  # characters of a name

FIELDS = tuple(f.name for f in dataclasses.fields(Nic) if f.name != "handed_out")
# A broker that knew fewer properties wrote fewer: these have defaults.
_OPTIONAL = {
    f.name for f in dataclasses.fields(Nic) if f.default is not dataclasses.MISSING
}


class RecordDirectory:
    """All records of one broker."""

    def __init__(self, path: str) -> None:
        """:raises OSError: the directory can't be made, or is another's."""
        self._path = path
        self.make()

    def make(self) -> None:
        """Make the directory, private; :raises OSError: it can't be."""
        state_files.private_directory(self._path)

    def write(self, nic: Nic) -> None:
        """Write the record of a NIC that nobody has yet; :raises OSError."""
        state_files.write(self._file(nic.ifname), to_json(nic))

    def replace(self, nic: Nic) -> None:
        """Write the record of a NIC whose guest runs anew; :raises OSError."""
        state_files.replace(self._file(nic.ifname), to_json(nic))

    def remove(self, ifname: str) -> None:
        """Remove a record, if it is there."""
        state_files.remove(self._file(ifname))

    def read_all(self) -> Iterator[Nic]:
        """What an earlier broker wrote; a damaged record is removed."""
        for ifname in sorted(os.listdir(self._path)):
            path = self._file(ifname)
            try:
                nic = from_json(state_files.read_json(path, _LIMIT))
                if nic.ifname != ifname:
                    raise ValueError("it is about another device")
            except ValueError as err:
                _log.warning("record %s is damaged and removed: %s", path, err)
                state_files.discard(path)
                continue
            yield nic

    def _file(self, name: str) -> str:
        return os.path.join(self._path, name)


def to_json(nic: Nic) -> str:
    """A NIC as the text of its record."""
    return json.dumps({name: getattr(nic, name) for name in FIELDS})


def from_json(data: object) -> Nic:
    """Read a record with suspicion: the kernel and nftables are told what it says.

    :raises ValueError: these are not the fields of a NIC that there can be.
    """
    fields = attributes(data, _READERS, _OPTIONAL)
    if "macs" in fields:
        fields["macs"] = tuple(fields["macs"])
    nic = Nic(**fields)
    if nic.state is State.ACTIVE and nic.mac is None and not nic.trusted:
        raise ValueError("it is active and has no MAC")
    return nic


# What reads each field


def _name(value: object) -> str:
    text = string(value)
    if len(text) >= _MAX_TEXT or not text.isprintable():
        raise ValueError(f"not a name: {text[:40]!r}")
    return text


def _interface(value: object) -> str:
    text = string(value)
    if not is_interface_name(text):
        raise ValueError(f"not an interface name: {text[:40]!r}")
    return text


def _mac(value: object) -> str:
    text = string(value)
    if not is_mac(text):
        raise ValueError(f"not a MAC: {text[:40]!r}")
    return text


def _mac_or_empty(value: object) -> str:
    return "" if value == "" else _mac(value)


def _ipv4(value: object) -> str:
    IPv4Address(string(value))
    return string(value)


def _ipv6(value: object) -> str:
    IPv6Address(string(value))
    return string(value)


def _state(value: object) -> State:
    return State(string(value))


_READERS: dict[str, Reader[Any]] = {
    "ifname": _interface,
    "ifindex": integer(1, _INT),
    "bridge": _interface,
    "bridge_index": integer(0, _INT),
    "network": optional(_name),
    "uid": integer(0, _UINT),
    "user": _name,
    "pid": integer(0, _INT),
    "name": _name,
    "mac": optional(_mac),
    "ipv4": optional(_ipv4),
    "ipv6": optional(_ipv6),
    "mtu": integer(0, 65535),
    "state": _state,
    "reason": optional(string),
    "shared": boolean,
    "trusted": boolean,
    "isolated": boolean,
    "strict": boolean,
    "learns": boolean,
    "rate_egress": integer(0, _MAX_RATE),
    "rate_ingress": integer(0, _MAX_RATE),
    "macs": array(string),
    "host_mac": _mac_or_empty,
    "expires": optional(floating),
    "share": optional(_name),
}
