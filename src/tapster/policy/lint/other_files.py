# SPDX-License-Identifier: LGPL-2.1-or-later
"""The files of other projects that the configuration names, checked with it."""

from __future__ import annotations

import os
from collections.abc import Iterator

from ...errors import ConfigError
from ..config.load import BRIDGE_CONF, Reading
from ..foreign.access import LookupBudget, read_as_user
from ..foreign.bridge_conf import MAX_LOOKUPS
from ..foreign.bridge_conf_includes import Load
from ..foreign.lxc_usernet import MAX_BYTES, MAX_LINES
from ..foreign.permissions import Reader
from .bridge_conf import Files, denied_bridges, lint_bridge_conf
from .findings import Finding, Severity, at, of_error
from .host import Host
from .lxc_usernet import lint_usernet
from .ownership import other_owner, read_file
from .rules import Elsewhere


def check_other_files(reading: Reading, host: Host) -> tuple[list[Finding], Elsewhere]:
    """Read bridge.conf and lxc-usernet as who checks may read them.

    :returns: findings, and what these files allow besides the rules.
    """
    settings = reading.config.authorization
    is_root = os.geteuid() == 0
    files = Files(_as_who_checks(), os.stat, is_root)
    found = lint_bridge_conf(
        settings.bridge_conf, settings.strict_includes, host, files
    )
    findings = [*found.findings, *denied_bridges(reading, found.denies)]
    if not found.is_there and settings.bridge_conf != BRIDGE_CONF:
        findings += _missing(reading, "bridge_conf", settings.bridge_conf)
    if settings.lxc_usernet:
        findings += _usernet(reading, settings.lxc_usernet, host, is_root)
    bridges = [network.bridge for network in reading.config.networks.values()]
    return findings, Elsewhere(
        found.may_allow or bool(settings.lxc_usernet),
        found.allowed(dict.fromkeys(bridge for bridge in bridges if bridge)),
    )


def _as_who_checks() -> Load:
    me = Reader(os.geteuid(), os.getegid(), frozenset(os.getgroups()))
    budget = LookupBudget(MAX_LOOKUPS)
    return lambda path, limit: read_as_user(path, me, limit, budget)


def _usernet(
    reading: Reading, path: str, host: Host, is_root: bool
) -> Iterator[Finding]:
    """
    :param path: of the file, as the configuration has it.
    :param is_root: whether who checks is root.
    """
    if not os.path.lexists(path):
        yield from _missing(reading, "lxc_usernet", path)
        return
    if not is_root:
        for name in (os.path.dirname(path), path):
            yield from other_owner(name, Severity.ERROR)
    try:
        data = read_file(path, is_root)
        if len(data) > MAX_BYTES or data.count(b"\n") >= MAX_LINES:
            raise ConfigError(
                f"{path}: more than {MAX_BYTES} bytes or {MAX_LINES} lines"
            )
    except ConfigError as err:
        cause = err.__cause__
        if isinstance(cause, PermissionError) and not is_root:
            text = "not checked, as you may not read it"
            yield Finding(Severity.NOTE, "not-checked", text, path)
        else:
            yield of_error(err, "refused-file")
        return
    yield from lint_usernet(path, data, host)


def _missing(reading: Reading, key: str, path: str) -> Iterator[Finding]:
    """
    :param key: of [authorization], the one that names the file.
    :param path: of the file that is not there.
    """
    for document in reversed(reading.documents):
        if key in document.data.get("authorization", {}):
            text = f"there is no file {path}"
            keys = ("authorization", key)
            yield at(document, keys, Severity.WARNING, "no-such-file", text)
            return
