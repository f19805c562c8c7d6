# SPDX-License-Identifier: LGPL-2.1-or-later
"""tapster.toml and conf.d: what an administrator may set.

Later files override earlier ones, key by key. What is not known is refused
with its place, so that a mistyped key is not a setting that never takes effect.
"""

from __future__ import annotations

import difflib
import os
import re
import tomllib
from dataclasses import dataclass, fields, replace
from typing import Any

from ..errors import ConfigError

DEFAULT_DIRECTORY = "/etc/tapster"
BRIDGE_CONF = "/etc/qemu/bridge.conf"


@dataclass(frozen=True, slots=True)
class Authorization:
    """[authorization]"""

    bridge_conf: str = BRIDGE_CONF


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
class Limits:
    """[limits]"""

    connections: int = 512
    connections_per_user: int = 64
    idle_connection_seconds: float = 30.0


@dataclass(frozen=True, slots=True)
class Config:
    """All settings of one broker."""

    authorization: Authorization = Authorization()
    broker: BrokerSettings = BrokerSettings()
    limits: Limits = Limits()


def load(directory: str) -> Config:
    """Read `tapster.toml`, then `conf.d/*.toml` in name order; none need exist.

    :raises ConfigError: a file is wrong; the message starts with file:line:column.
    """
    config = Config()
    for path in _files(directory):
        try:
            with open(path, encoding="utf-8") as file:
                text = file.read()
        except OSError as err:
            raise ConfigError(f"{path}: {err.strerror}") from err
        except UnicodeDecodeError as err:
            raise ConfigError(f"{path}: not UTF-8") from err
        config = _merge(config, path, text)
    return config


def _files(directory: str) -> list[str]:
    paths = []
    main = os.path.join(directory, "tapster.toml")
    if os.path.lexists(main):
        paths.append(main)
    try:
        names = os.listdir(os.path.join(directory, "conf.d"))
    except (FileNotFoundError, NotADirectoryError):
        return paths
    except OSError as err:
        raise ConfigError(f"{directory}/conf.d: {err.strerror}") from err
    chosen = sorted(n for n in names if n.endswith(".toml") and not n.startswith("."))
    return paths + [os.path.join(directory, "conf.d", name) for name in chosen]


def _merge(config: Config, path: str, text: str) -> Config:
    try:
        data = tomllib.loads(text)
    except tomllib.TOMLDecodeError as err:
        raise ConfigError(_decode_error(path, text, str(err))) from err
    except (ValueError, RecursionError) as err:  # Python's limits, not TOML's
        raise ConfigError(f"{path}:1:1: {err}") from err
    for section, table in data.items():
        current = getattr(config, section, None) if section in _names(config) else None
        if current is None:
            raise ConfigError(_unknown(path, text, [section], _names(config)))
        if not isinstance(table, dict):
            raise ConfigError(
                f"{_place(path, text, section)}: {section} must be a table"
            )
        for key, value in table.items():
            if key not in _names(current):
                raise ConfigError(_unknown(path, text, [section, key], _names(current)))
            try:
                current = replace(
                    current, **{key: _convert(getattr(current, key), value)}
                )
            except ValueError as err:
                place = _place(path, text, section, key)
                raise ConfigError(f"{place}: {key}: {err}") from None
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
    if isinstance(default, str):
        if isinstance(value, str) and value.startswith("/") and "\0" not in value:
            return value
        raise ValueError("must be an absolute path")
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not value >= 0:
        raise ValueError("must be a number, not negative")
    if isinstance(default, int) and (not isinstance(value, int) or value < 1):
        raise ValueError("must be a whole number from 1 up")
    try:
        return type(default)(value)
    except OverflowError:
        raise ValueError("is too large") from None


def _decode_error(path: str, text: str, message: str) -> str:
    """tomllib says "… (at line L, column C)"; we say file:L:C: …"""
    what, _, place = message.rpartition(" (at ")
    found = re.fullmatch(r"line (\d+), column (\d+)\)", place)
    if found:
        return f"{path}:{found[1]}:{found[2]}: {what}"
    return f"{_at(path, text, len(text))}: {what or message}"


def _place(path: str, text: str, *keys: str) -> str:
    """Where the last of these keys is written, each behind the one before it;
    if that is not to be seen, where the one before it is."""
    place = 0
    for key in keys:
        quoted = re.escape(key)
        name = rf"(?<![\w-])(\"{quoted}\"|'{quoted}'|{quoted})\s*[=.\]]"
        found = re.compile(rf"^[^#\n]*?{name}", re.M).search(text, place)
        # A key may be on the line of its section: then that is behind the ^.
        found = re.compile(rf"[^#\n]*?{name}").match(text, place) or found
        if found:
            place = found.start(1)
    return _at(path, text, place)


def _at(path: str, text: str, place: int) -> str:
    line = text.count("\n", 0, place) + 1
    return f"{path}:{line}:{place - text.rfind(chr(10), 0, place)}"


def _unknown(path: str, text: str, keys: list[str], known: list[str]) -> str:
    key = keys[-1]
    near = difflib.get_close_matches(key, known, 1)
    hint = f"; did you mean {near[0]!r}?" if near else ""
    return f"{_place(path, text, *keys)}: unknown key {key!r}{hint}"
