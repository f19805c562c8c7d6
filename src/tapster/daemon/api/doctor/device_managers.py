# SPDX-License-Identifier: LGPL-2.1-or-later
"""Whether NetworkManager and systemd-networkd would manage our devices.

Both are asked by their configuration files, as they would read them.
"""

from __future__ import annotations

import fnmatch
import os
from collections.abc import Iterable, Sequence
from typing import NamedTuple

_EXAMPLES = {"tapster0": "tun", "tapbr0": "bridge"}  # a device of each kind of ours
NETWORKMANAGER, NETWORKD = "NetworkManager", "systemd/netif"
# Of two files with the same name, the one in the later directory counts.
_NM_DIRECTORIES = ("usr/lib", "run", "etc")
_NETWORKD_DIRECTORIES = ("usr/lib", "usr/local/lib", "run", "etc")
_UNMANAGED = ("Link", "Unmanaged")
_TRUE = ("yes", "true", "on", "1")  # systemd.syntax(7)


class Setting(NamedTuple):
    """A line of an ini file. The line that begins a section has an empty key."""

    section: str
    key: str
    value: str


def is_running(program: str, root: str) -> bool:
    """Whether a program runs, by the directory in /run that it makes.

    :param program: NETWORKMANAGER or NETWORKD.
    :param root: what /run is below.
    """
    return os.path.isdir(os.path.join(root, "run", program))


def networkmanager_leaves_us(root: str) -> bool:
    """Whether NetworkManager's configuration excludes our devices.

    NetworkManager.conf(5): first conf.d in /usr/lib and /run, then the main file, then
    conf.d in /etc; a later setting replaces or extends an earlier one.

    :param root: what /etc, /run and /usr are below."""
    directories = [
        os.path.join(root, d, NETWORKMANAGER, "conf.d") for d in _NM_DIRECTORIES
    ]
    files = list(_files(directories, ".conf").values())
    in_etc = f"{directories[-1]}/"
    early = [path for path in files if not path.startswith(in_etc)]
    late = [path for path in files if path.startswith(in_etc)]
    main = os.path.join(root, "etc", NETWORKMANAGER, f"{NETWORKMANAGER}.conf")
    specs: list[str] = []
    for path in (*early, main, *late):
        for setting in _settings(path):
            if setting.section == "keyfile":
                specs = _unmanaged(specs, setting.key, setting.value)
    return all(_is_specified(specs, *device) for device in _EXAMPLES.items())


def _unmanaged(specs: list[str], key: str, value: str) -> list[str]:
    """The device specs after one setting: it replaces them, or its key ends with the
    sign by which it adds or removes some."""
    if key.rstrip("+-") != "unmanaged-devices":
        return specs
    words = (word.strip() for word in value.replace(",", ";").split(";"))
    named = [word for word in words if word]
    if key.endswith("-"):
        return [spec for spec in specs if spec not in named]
    return specs + named if key.endswith("+") else named


def _is_specified(specs: Iterable[str], name: str, kind: str) -> bool:
    """Whether device specs are about this device; ``except:`` outdoes all others."""
    is_specified = False
    for spec in specs:
        inner = spec.removeprefix("except:")
        key, _, value = inner.rpartition(":")
        hit = inner == "*" or (key == "type" and value == kind)
        if key in ("interface-name", ""):
            hit = hit or fnmatch.fnmatchcase(name, value.removeprefix("~"))
        if hit and inner != spec:
            return False
        is_specified = is_specified or hit
    return is_specified


def networkd_file(root: str) -> str | None:
    """The .network file by which systemd-networkd would manage one of our devices.

    systemd.network(5): the first file whose [Match] fits a device counts. What [Match]
    asks for besides name, kind and type is taken to fit.

    :param root: what /etc, /run and /usr are below."""
    directories = [os.path.join(root, d, "systemd/network") for d in
                   _NETWORKD_DIRECTORIES]  # fmt: skip
    files = _files(directories, ".network")
    for name, kind in _EXAMPLES.items():
        for path in files.values():
            settings = _settings(path)
            if settings and _fits(settings, name, kind):
                if not _is_unmanaged(settings):
                    return path
                break
    return None


def _is_unmanaged(settings: Sequence[Setting]) -> bool:
    said = [v for section, key, v in settings if (section, key) == _UNMANAGED]
    return bool(said) and said[-1].lower() in _TRUE


def _fits(settings: Sequence[Setting], name: str, kind: str) -> bool:
    """Whether [Match] fits a device of this name and kind."""
    wanted: dict[str, list[str]] = {}
    for section, key, value in settings:
        if section == "Match" and key:
            # An empty value forgets what was said before.
            wanted[key] = [*wanted.get(key, ()), *value.split()] if value else []
    types = (kind, "ether") if kind == "tun" else (kind,)
    for key, known in (("Name", (name,)), ("Kind", (kind,)), ("Type", types)):
        globs = wanted.pop(key, [])
        if not globs:
            continue
        is_inverted = globs[0].startswith("!")
        globs = [glob.removeprefix("!") for glob in globs]
        if any(fnmatch.fnmatchcase(k, g) for k in known for g in globs) == is_inverted:
            return False
    return "Path" not in wanted  # virtual devices have none


def _settings(path: str) -> list[Setting]:
    """Read an ini file, in its order; nothing if there is none."""
    try:
        with open(path, encoding="utf-8", errors="replace") as file:
            lines = [line.strip() for line in file]
    except OSError:
        return []
    section, found = "", []
    for line in lines:
        if line.startswith("[") and line.endswith("]"):
            section = line[1:-1]
            found.append(Setting(section, "", ""))
        elif line[:1] not in ("#", ";", "") and "=" in line:
            key, _, value = line.partition("=")
            found.append(Setting(section, key.strip(), value.strip()))
    return found


def _files(directories: Iterable[str], suffix: str) -> dict[str, str]:
    """Name → path, in the order of names; a file in a later directory hides those of
    its name in earlier ones."""
    found: dict[str, str] = {}
    for directory in directories:
        try:
            names = os.listdir(directory)
        except OSError:
            continue
        found |= {n: os.path.join(directory, n) for n in names if n.endswith(suffix)}
    return dict(sorted(found.items()))
