# SPDX-License-Identifier: LGPL-2.1-or-later
"""What a network instance is made of, written down before any of it exists.

The file is in the instance's directory below the runtime directory: by it the next
broker finds the instance, or takes it apart.
"""

from __future__ import annotations

import json
import os
from ipaddress import IPv4Network, IPv6Network
from typing import NamedTuple

from ..jsonutil import get, integer, optional, string
from ..model import BRIDGE_PREFIX, NetworkDefinition, Scope
from . import definition_json, state_files
from .definition_json import subnet4_of, subnet6_of

FILE = "network.json"
_NO_UID = -1  # of an instance that is shared by all users


class NetworkRecord(NamedTuple):
    """One instance."""

    definition: NetworkDefinition
    uid: int | None  # whose instance it is; None: it is shared
    bridge: str
    subnet4: IPv4Network
    subnet6: IPv6Network | None


def write_record(directory: str, record: NetworkRecord) -> None:
    """Write the record of an instance, whose directory is made if need be.

    :raises OSError: it can't be written.
    """
    os.makedirs(directory, mode=0o750, exist_ok=True)
    data = {
        "uid": _NO_UID if record.uid is None else record.uid,
        "bridge": record.bridge,
        "subnet4": str(record.subnet4),
        "subnet6": None if record.subnet6 is None else str(record.subnet6),
        "definition": definition_json.to_json(record.definition),
    }
    state_files.replace(os.path.join(directory, FILE), json.dumps(data))


def read_record(directory: str) -> NetworkRecord:
    """Read the record of the instance to which a directory belongs.

    :param directory: its last part is the name of the instance's bridge.
    :raises ValueError: the record is damaged, or about another instance.
    :raises OSError: there is none.
    """
    data = state_files.read_json(os.path.join(directory, FILE))
    if "definition" in data:
        definition = get(data, "definition", definition_json.from_json)
    else:  # of a broker that knew one kind of network
        definition = NetworkDefinition(get(data, "network", string))
    uid = get(data, "uid", integer(_NO_UID, 2**32 - 1))
    if (uid == _NO_UID) is not (definition.scope is Scope.SHARED):
        raise ValueError("it is not of its scope")
    bridge = get(data, "bridge", string)
    if bridge != os.path.basename(directory) or not bridge.startswith(BRIDGE_PREFIX):
        raise ValueError("it is about another bridge")
    return NetworkRecord(
        definition,
        None if uid == _NO_UID else uid,
        bridge,
        get(data, "subnet4", subnet4_of),
        get(data, "subnet6", optional(subnet6_of)),
    )
