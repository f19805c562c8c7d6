# SPDX-License-Identifier: LGPL-2.1-or-later
"""All that can be said of a configuration before a broker takes it.

It is read by the code that the broker reads it with. That ends at the first error;
but names that nobody has are what is wrong most often, and are told all at once:
they are looked for on their own, and stand for nobody while the rest is read.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

from ...errors import ConfigError
from ..config import rule_file
from ..config.files import DROP_INS, MAIN, opened_directory, opened_file, read_files
from ..config.load import BRIDGE_CONF, DEFAULT_DIRECTORY, Reading, read
from ..config.toml_locations import Document, Invalid, Keys
from ..config.values import Names, identity
from ..foreign.access import LookupBudget, Reader, read_as_user
from ..foreign.bridge_conf import MAX_STEPS
from ..foreign.lxc_usernet import MAX_BYTES, MAX_LINES
from .bridge_conf import Files, denied_bridges, lint_bridge_conf
from .findings import Finding, Severity, at, of_error
from .lxc_usernet import lint_usernet
from .rules import Elsewhere, lint
from .values import Host

_BY_ROOT = "a broker that runs as root refuses it"


class Report(NamedTuple):
    """What was found, in the order of the files.

    `rules` and `networks` are how many there are, None if they could not be read.
    """

    findings: list[Finding]
    rules: int | None = None
    networks: int | None = None


def check_directory(directory: str, host: Host) -> Report:
    """Check a configuration where it is in force, or will be."""
    is_root = os.geteuid() == 0
    try:
        files = read_files(directory, owner_only=is_root)
    except ConfigError as err:
        return Report([of_error(err, "refused-file")])
    findings: list[Finding] = []
    system = os.path.abspath(directory) == DEFAULT_DIRECTORY
    if not files and not system:  # that one need not be there
        text = f"there is neither {MAIN} nor any {DROP_INS}/*.toml"
        findings.append(Finding(Severity.WARNING, "no-files", text, directory))
    if not is_root:
        # The system's is root's. Another may be that of a user's own broker.
        severity = Severity.ERROR if system else Severity.NOTE
        drop_ins = os.path.join(directory, DROP_INS)
        for path in (directory, drop_ins, *(path for path, _ in files)):
            findings += _owner(path, severity)
    return _check(files, findings, host)


def check_files(paths: Sequence[str], host: Host, stdin: Callable[[], bytes]) -> Report:
    """Check drafts, as if these files were all there is.

    :param stdin: the contents of the one that is called "-".
    """
    findings: list[Finding] = []
    files = []
    for path in paths:
        try:
            if path == "-":
                files.append(("<stdin>", _decode("<stdin>", stdin())))
                continue
            files.append((path, _decode(path, _read_file(path, owner_only=False))))
            findings += _owner(path, Severity.NOTE)
        except ConfigError as err:
            findings.append(of_error(err, "refused-file"))
    if len(files) < len(paths):
        return Report(findings)
    return _check(files, findings, host)


def _read_file(path: str, owner_only: bool) -> bytes:
    """:raises ConfigError: it is refused, or cannot be read, or is not there."""
    directory = os.path.dirname(path) or "."
    try:
        with opened_directory(directory, None, os.O_PATH, owner_only) as parent:
            if parent is None:
                raise FileNotFoundError(2, os.strerror(2))
            with (
                opened_file(path, parent, owner_only) as (fd, _),
                open(fd, "rb", closefd=False) as file,
            ):
                return file.read()
    except OSError as err:
        raise ConfigError(f"{path}: {err.strerror}") from err


def _decode(path: str, data: bytes) -> str:
    try:
        return data.decode()
    except UnicodeDecodeError as err:
        raise ConfigError(f"{path}: not UTF-8") from err


def _owner(path: str, severity: Severity) -> Iterator[Finding]:
    """What root's broker has against who may write to a file."""
    try:
        status = os.stat(path)
    except OSError:
        return
    if status.st_uid != 0:
        text = f"it belongs to uid {status.st_uid}, not to root"
        hint = f"chown root {path}"
    elif status.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
        text = f"others may write to it (mode {stat.S_IMODE(status.st_mode):04o})"
        hint = f"chmod go-w {path}"
    else:
        return
    yield Finding(severity, "refused-file", f"{text}: {_BY_ROOT}", path, hint=hint)


def _check(
    files: Sequence[tuple[str, str]], findings: list[Finding], host: Host
) -> Report:
    documents = []
    for path, text in files:
        try:
            documents.append(Document(path, text))
        except ConfigError as err:
            findings.append(of_error(err, "syntax"))
    for document in documents:
        findings += _unknown_names(document, host.names)
    if len(documents) < len(files):
        return _report(findings, files)
    try:
        reading = read(documents, _anybody(host.names))
    except ConfigError as err:
        findings.append(of_error(err, "invalid"))
        return _report(findings, files)
    config = reading.config
    unknown = rule_file.unknown_networks(reading.written, config.networks)
    findings += [of_error(error, "unknown-network") for error in unknown]
    others, elsewhere = _others(reading, host)
    findings += others
    findings += lint(reading, host, elsewhere)
    report = _report(findings, files)
    return report._replace(rules=len(config.rules), networks=len(config.networks))


def _report(findings: list[Finding], files: Sequence[tuple[str, str]]) -> Report:
    """The configuration's files come first, then others as they were found."""
    names = [path for path, _ in files] + [finding.file or "" for finding in findings]
    order = {name: number for number, name in reversed(list(enumerate(names)))}
    severities = list(Severity)

    def key(finding: Finding) -> tuple[int, int, int, int]:
        return (
            order[finding.file or ""],
            finding.line or 0,
            finding.column or 0,
            severities.index(finding.severity),
        )

    return Report(sorted(findings, key=key))


def _unknown_names(document: Document, names: Names) -> Iterator[Finding]:
    """An error for each user and group that nobody is."""
    user, group = identity("user", names.uid), identity("group", names.gid)
    for keys, value in _named(document):
        what, convert = ("group", group) if "groups" in keys[2:3] else ("user", user)
        try:
            convert(value)
        except Invalid as err:
            yield of_error(document.error(keys, err), f"unknown-{what}")


def _named(document: Document) -> Iterator[tuple[Keys, str]]:
    """Where names of users and groups are, whatever else is there."""
    for number, rule in enumerate(_list(document.data.get("rules"))):
        for key in ("users", "groups"):
            for index, value in enumerate(_list(_table(rule).get(key))):
                if isinstance(value, str):
                    yield ("rules", number, key, index), value
    for name, network in _table(document.data.get("networks")).items():
        for guest, what in _table(_table(network).get("reservations")).items():
            value = _table(what).get("user")
            if isinstance(value, str):
                yield ("networks", name, "reservations", guest, "user"), value


def _list(value: object) -> list[object]:
    return value if isinstance(value, list) else []


def _table(value: object) -> dict[str, object]:
    return value if isinstance(value, dict) else {}


def _anybody(names: Names) -> Names:
    """Names that all are somebody's: what nobody's is, has a number of its own."""
    nobody: dict[str, int] = {}

    def lenient(resolve: Callable[[str], int]) -> Callable[[str], int]:
        def convert(name: str) -> int:
            try:
                return resolve(name)
            except (KeyError, ValueError):
                return nobody.setdefault(name, -1 - len(nobody))

        return convert

    return Names(lenient(names.uid), lenient(names.gid))


def _others(reading: Reading, host: Host) -> tuple[list[Finding], Elsewhere]:
    """What there is to say of bridge.conf and lxc-usernet, and what these say."""
    settings = reading.config.authorization
    is_root = os.geteuid() == 0
    me = Reader(os.geteuid(), os.getegid(), frozenset(os.getgroups()))
    budget = LookupBudget(MAX_STEPS)
    files = Files(
        lambda path, limit: read_as_user(path, me, limit, budget), os.stat, is_root
    )
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


def _usernet(
    reading: Reading, path: str, host: Host, is_root: bool
) -> Iterator[Finding]:
    if not os.path.lexists(path):
        yield from _missing(reading, "lxc_usernet", path)
        return
    if not is_root:
        for name in (os.path.dirname(path), path):
            yield from _owner(name, Severity.ERROR)
    try:
        data = _read_file(path, is_root)
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
    for document in reversed(reading.documents):
        if key in document.data.get("authorization", {}):
            text = f"there is no file {path}"
            keys = ("authorization", key)
            yield at(document, keys, Severity.WARNING, "no-such-file", text)
            return
