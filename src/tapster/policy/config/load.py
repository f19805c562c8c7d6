# SPDX-License-Identifier: LGPL-2.1-or-later
"""tapster.toml and conf.d: what an administrator may set.

Later files override earlier ones, key by key. An unknown key is refused with its
location: a mistyped key must not become a setting that never takes effect.
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
    # A missing include denies; QEMU's helper passes over it.
    strict_includes: bool = False
    lxc_usernet: str = ""  # the file's path; empty: there is none


@dataclass(frozen=True, slots=True)
class BrokerSettings:
    """[broker]"""

    # A rootless broker without guests ends after this time.
    idle_seconds: float = 60.0
    # A network without guests is taken down after this time.
    network_grace_seconds: float = 2.0
    # As a bridge, these names mean the default network if no such Linux bridge exists.
    default_bridge_names: tuple[str, ...] = ("br0", "qemubr0")


@dataclass(frozen=True, slots=True)
class GuardSettings:
    """[guard]"""

    on_tamper: OnTamper = OnTamper.QUARANTINE


@dataclass(frozen=True, slots=True)
class HookSettings:
    """[hooks]"""

    # A hook that has not ended after this time is killed, and has failed.
    timeout_seconds: int = 5
    at_once: int = 32  # hooks that run at the same time; the others wait


@dataclass(frozen=True, slots=True)
class Limits:
    """[limits]"""

    connections: int = 1024
    connections_per_user: int = 256
    idle_connection_seconds: float = 30.0
    # How long a message may stay incomplete, or a reply unread.
    stalled_connection_seconds: float = 5.0
    # Calls that have begun and whose reply has not been sent yet.
    calls_per_user: int = 64
    # A user's requests that change something; a faster user waits. See
    # daemon/fairness/pace.py.
    requests_per_second: int = 50
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
    # A file is wrong, and this is why; then all else is the default, and nobody may
    # have anything.
    problem: str | None = None
    book: Rulebook = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "book", Rulebook(self.rules, self.problem))


def load(
    directory: str, *, owner_only: bool | None = None, names: Names = NSS
) -> Config:
    """Read `tapster.toml`, then `conf.d/*.toml` in name order; none need exist.

    Has no effect of its own: a broker that reads anew keeps the configuration it has
    if the files are wrong.

    :param directory: where they are.
    :param owner_only: refuse files that others than root can write to; None: if this
        process is root's, since only then do they decide about other users.
    :param names: the numbers of users' and groups' names.
    :raises ConfigError: a file is wrong; the message starts with file:line:column.
    """
    if owner_only is None:
        owner_only = os.geteuid() == 0
    return parse(read_files(directory, owner_only), names)


def parse(files: Iterable[tuple[str, str]], names: Names = NSS) -> Config:
    """The configuration of some files.

    :param files: path and text of each, in the order in which they override.
    :param names: the numbers of users' and groups' names.
    :raises ConfigError: a file is wrong.
    """
    reading = read((Document(path, text) for path, text in files), names)
    rule_file.check(reading.written, reading.config.networks)
    return reading.config


class Reading(NamedTuple):
    """A configuration, and where each part of it is written."""

    config: Config
    documents: tuple[Document, ...]
    written: tuple[rule_file.Written, ...]  # the rules, as the configuration has them


def read(documents: Iterable[Document], names: Names) -> Reading:
    """Read files, but do not refuse rules about networks that do not exist.

    :param documents: the files, in the order in which they override.
    :param names: the numbers of users' and groups' names.
    :raises ConfigError: a file is wrong in another way.
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
    """The single settings of one file over those of the files before it."""
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
    """A value in the type of its setting.

    :param default: the setting's value so far.
    :raises ValueError: it is of another type.
    """
    if isinstance(default, tuple):
        return _strings(value)
    if isinstance(default, StrEnum):
        return choice(type(default))(value)
    if isinstance(default, str):
        return _path(value, may_be_empty=not default)
    if isinstance(default, bool):
        return boolean(value)
    return _number(value, type(default))


def _strings(value: Any) -> tuple[str, ...]:
    if isinstance(value, list) and all(isinstance(item, str) for item in value):
        return tuple(value)
    raise ValueError("must be a list of strings")


def _path(value: Any, *, may_be_empty: bool) -> str:
    if isinstance(value, str):
        if value.startswith("/") and "\0" not in value:
            return value
        if may_be_empty and not value:
            return value
    raise ValueError("must be an absolute path")


def _number(value: Any, kind: type[int] | type[float]) -> int | float:
    """
    :param kind: int for a whole number from 1 up, float for any from 0 up.
    """
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not value >= 0:
        raise ValueError("must be a number, not negative")
    if kind is int and (not isinstance(value, int) or value < 1):
        raise ValueError("must be a whole number from 1 up")
    try:
        return kind(value)
    except OverflowError:
        raise ValueError("is too large") from None
