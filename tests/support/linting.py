# SPDX-License-Identifier: LGPL-2.1-or-later
"""A host that is made up, and what is found in texts as on it."""

from __future__ import annotations

from tapster.policy.config.load import read
from tapster.policy.config.toml_locations import Document
from tapster.policy.config.values import Names
from tapster.policy.lint.findings import Finding
from tapster.policy.lint.host import Host
from tapster.policy.lint.rules import Elsewhere, lint

USERS = {"alice": 1000, "al": 1000, "bob": 1001, "root": 0}
GROUPS = {"kvm": 36, "staff": 50, "ghosts": 666, "ldap": 9000}
HOST = Host(
    Names(USERS.__getitem__, GROUPS.__getitem__),
    {*USERS.values()}.__contains__,
    {*GROUPS.values()}.__contains__,
    {36: True, 50: True, 666: False}.get,
    {"br0": True, "br1": True, "eth0": False}.get,
)


def findings(*texts: str, elsewhere: Elsewhere = Elsewhere()) -> list[Finding]:  # noqa: B008
    """Of files called 0, 1 and so on."""
    documents = [Document(str(number), text) for number, text in enumerate(texts)]
    return lint(read(documents, HOST.names), HOST, elsewhere)


def said(*texts: str) -> list[str]:
    """Place, severity and code of each."""
    return sorted(f"{f.location} {f.severity} {f.code}" for f in findings(*texts))


def one(*texts: str, **how: Elsewhere) -> Finding:
    (finding,) = findings(*texts, **how)
    assert "\n" not in finding.message
    return finding


def rules(*keys: str) -> str:
    """Rules, each in a line of its own; the first in line 1."""
    inline = ",\n".join(f"{{{rule}}}" for rule in keys)
    return f"rules = [{inline}]\n"


def lan(*keys: str) -> str:
    """Rules beside a network `lan` of bridge br0; the first rule in line 1."""
    return f'{rules(*keys)}[networks.lan]\nmode = "bridge"\nbridge = "br0"\n'
