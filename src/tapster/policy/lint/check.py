# SPDX-License-Identifier: LGPL-2.1-or-later
"""All that can be said of a configuration before a broker takes it.

The code that reads it is the broker's own. That code stops at the first error, except
that names which nobody has are told all at once (`unknown_names`).
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from typing import NamedTuple

from ...errors import ConfigError
from ..config import rule_file
from ..config.files import DROP_INS, MAIN, read_files
from ..config.load import DEFAULT_DIRECTORY, read
from ..config.toml_locations import Document
from .findings import Finding, Severity, of_error
from .host import Host
from .other_files import check_other_files
from .ownership import other_owner, read_file
from .rules import lint
from .unknown_names import lenient, unknown_names


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
    is_system = os.path.abspath(directory) == DEFAULT_DIRECTORY
    if not files and not is_system:  # the system's need not be there
        text = f"there is neither {MAIN} nor any {DROP_INS}/*.toml"
        findings.append(Finding(Severity.WARNING, "no-files", text, directory))
    if not is_root:
        # The system's has to be root's. Another may be for a user's own broker.
        severity = Severity.ERROR if is_system else Severity.NOTE
        drop_ins = os.path.join(directory, DROP_INS)
        for path in (directory, drop_ins, *(path for path, _ in files)):
            findings += other_owner(path, severity)
    return _check(files, findings, host)


def check_files(paths: Sequence[str], host: Host, stdin: Callable[[], bytes]) -> Report:
    """Check drafts, as if these files were the whole configuration.

    :param paths: of the files, in the order in which they are read.
    :param host: whose users, groups and bridges the names are.
    :param stdin: returns the contents of the one that is called "-".
    """
    findings: list[Finding] = []
    files = []
    for path in paths:
        try:
            if path == "-":
                files.append(("<stdin>", _decode("<stdin>", stdin())))
                continue
            files.append((path, _decode(path, read_file(path, owner_only=False))))
            findings += other_owner(path, Severity.NOTE)
        except ConfigError as err:
            findings.append(of_error(err, "refused-file"))
    if len(files) < len(paths):
        return Report(findings)
    return _check(files, findings, host)


def _decode(path: str, data: bytes) -> str:
    try:
        return data.decode()
    except UnicodeDecodeError as err:
        raise ConfigError(f"{path}: not UTF-8") from err


def _check(
    files: Sequence[tuple[str, str]], findings: list[Finding], host: Host
) -> Report:
    """Check what files say.

    :param files: path and text of each.
    :param findings: those that there are already; more are added.
    :param host: whose users, groups and bridges the names are.
    """
    documents = []
    for path, text in files:
        try:
            documents.append(Document(path, text))
        except ConfigError as err:
            findings.append(of_error(err, "syntax"))
    for document in documents:
        findings += unknown_names(document, host.names)
    if len(documents) < len(files):
        return _report(findings, files)
    try:
        reading = read(documents, lenient(host.names))
    except ConfigError as err:
        findings.append(of_error(err, "invalid"))
        return _report(findings, files)
    config = reading.config
    unknown = rule_file.unknown_networks(reading.written, config.networks)
    findings += [of_error(error, "unknown-network") for error in unknown]
    others, elsewhere = check_other_files(reading, host)
    findings += others
    findings += lint(reading, host, elsewhere)
    report = _report(findings, files)
    return report._replace(rules=len(config.rules), networks=len(config.networks))


def _report(findings: list[Finding], files: Sequence[tuple[str, str]]) -> Report:
    """Sort findings: the configuration's own files first, the others as found."""
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
