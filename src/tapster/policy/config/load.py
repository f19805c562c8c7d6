# SPDX-License-Identifier: LGPL-2.1-or-later
"""tapster.toml and conf.d: what an administrator may set.

Later files override earlier ones, key by key. What is not known is refused
with its place, so that a mistyped key is not a setting that never takes effect.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, fields, replace
from enum import StrEnum
from typing import Any, NamedTuple

from ...model import NetworkDefinition, OnTamper, Rule
from ..core.rulebook import DEFAULT_NETWORK, Rulebook
from . import network_check, network_file, rule_file
from .files import read_files
from .toml_locations import Document, UnknownKey
from .values import NSS, Names, boolean, choice

DEFAULT_DIRECTORY = "/etc/tapster"
BRIDGE_CONF = "/etc/qemu/bridge.conf"
SECTIONS = ("authorization", "broker", "guard", "hooks", "limits")  # of single settings
_LISTS = ("networks", "rules")


@dataclass(frozen=True, slots=True)
class Authorization:
    """[authorization]"""

    bridge_conf: str = BRIDGE_CONF
    # A missing include denies, where QEMU's helper passes over it.
    strict_includes: bool = False
    lxc_usernet: str = ""  # the file's path; empty: there is none


@dataclass(frozen=True, slots=True)
class BrokerSettings:
    """[broker]"""

    # A rootless broker ends when it has been without guests for so long.
    idle_seconds: float = 60.0
    # A network without guests is taken down after so long.
    network_grace_seconds: float = 2.0
    # Asked for as a bridge, and no Linux bridge: these mean the default network.
    default_bridge_names: tuple[str, ...] = ("br0", "qemubr0")


@dataclass(frozen=True, slots=True)
class GuardSettings:
    """[guard]"""

    on_tamper: OnTamper = OnTamper.QUARANTINE


@dataclass(frozen=True, slots=True)
class HookSettings:
    """[hooks]"""

    # One that has not ended after so long is killed, and has failed.
    timeout_seconds: int = 5
    at_once: int = 32  # that run at the same time; the others wait


@dataclass(frozen=True, slots=True)
class Limits:
    """[limits]"""

    connections: int = 1024
    connections_per_user: int = 256
    idle_connection_seconds: float = 30.0
    # Half a message, or a reply that its caller does not read.
    stalled_connection_seconds: float = 5.0
    # Begun and not answered yet, or answered and still about to be.
    calls_per_user: int = 64
    # What has something done; who is faster waits. See daemon/fairness/pace.py.
    requests_per_second: int = 50  # of a user
    requests_at_once: int = 256
    watchers: int = 256
    watchers_per_user: int = 16


@dataclass(frozen=True, slots=True)
class Config:
    """All settings of one broker."""

    authorization: Authorization = Authorization()
    broker: BrokerSettings = BrokerSettings()
    guard: GuardSettings = GuardSettings()
    hooks: HookSettings = HookSettings()
    limits: Limits = Limits()
    # [networks.NAME], by name; there is always one named "default".
    networks: Mapping[str, NetworkDefinition] = field(
        default_factory=lambda: {DEFAULT_NETWORK: NetworkDefinition(DEFAULT_NETWORK)}
    )
    rules: tuple[Rule, ...] = ()  # [[rules]], in the order of the files
    # Why there is nothing else here: a file is wrong, and nobody may have anything.
    problem: str | None = None
    book: Rulebook = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "book", Rulebook(self.rules, self.problem))


def load(
    directory: str, *, owner_only: bool | None = None, names: Names = NSS
) -> Config:
    """Read `tapster.toml`, then `conf.d/*.toml` in name order; none need exist.

    Nothing is changed by it: a broker that reads anew keeps what it has if the
    files are wrong.

    :param owner_only: refuse files that others than root can write to; None
        means as root, since only then do they decide about other users.
    :param names: who the users and groups of a name are.
    :raises ConfigError: a file is wrong; the message starts with file:line:column.
    """
    if owner_only is None:
        owner_only = os.geteuid() == 0
    return parse(read_files(directory, owner_only), names)


def parse(files: Iterable[tuple[str, str]], names: Names = NSS) -> Config:
    """What files of these paths and texts say together.

    :raises ConfigError: as `load`.
    """
    reading = read((Document(path, text) for path, text in files), names)
    rule_file.check(reading.written, reading.config.networks)
    return reading.config


class Reading(NamedTuple):
    """What files say, and where."""

    config: Config
    documents: tuple[Document, ...]
    written: tuple[rule_file.Written, ...]  # the rules, as the configuration has them


def read(documents: Iterable[Document], names: Names) -> Reading:
    """Read files, save that rules may be about networks that there are not.

    :raises ConfigError: as `load`.
    """
    config = Config()
    networks = network_file.drafts()
    rules: list[rule_file.Written] = []
    done = []
    for document in documents:
        config = _merge(config, document)
        network_file.add(networks, document, names)
        rules += rule_file.read(document, names)
        done.append(document)
    network_check.check(networks.values())
    config = replace(
        config,
        networks={name: network_file.build(draft) for name, draft in networks.items()},
        rules=tuple(written.rule for written in rules),
    )
    return Reading(config, tuple(done), tuple(rules))


def _merge(config: Config, document: Document) -> Config:
    """The sections of one file over those before it."""
    for section, table in document.data.items():
        if section in _LISTS:
            continue
        if section not in SECTIONS:
            raise document.error((), UnknownKey(section, (*SECTIONS, *_LISTS)))
        current = getattr(config, section)
        if not isinstance(table, dict):
            raise document.error((section,), f"{section} must be a table")
        for key, value in table.items():
            if key not in _names(current):
                raise document.error((section,), UnknownKey(key, _names(current)))
            try:
                current = replace(
                    current, **{key: _convert(getattr(current, key), value)}
                )
            except ValueError as err:
                raise document.error((section, key), str(err), 1) from None
        config = replace(config, **{section: current})
    return config


def _names(thing: Any) -> list[str]:
    return [field.name for field in fields(thing)]


def _convert(default: Any, value: Any) -> Any:
    """The value in its setting's type; :raises ValueError: it is of another."""
    if isinstance(default, tuple):
        if isinstance(value, list) and all(isinstance(item, str) for item in value):
            return tuple(value)
        raise ValueError("must be a list of strings")
    if isinstance(default, StrEnum):
        return choice(type(default))(value)
    if isinstance(default, str):
        if value == "" == default:
            return value
        if isinstance(value, str) and value.startswith("/") and "\0" not in value:
            return value
        raise ValueError("must be an absolute path")
    if isinstance(default, bool):
        return boolean(value)
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not value >= 0:
        raise ValueError("must be a number, not negative")
    if isinstance(default, int) and (not isinstance(value, int) or value < 1):
        raise ValueError("must be a whole number from 1 up")
    try:
        return type(default)(value)
    except OverflowError:
        raise ValueError("is too large") from None
