# SPDX-License-Identifier: LGPL-2.1-or-later
"""`tapster.daemon.process.sandbox`: what is read before it is entered. What is left
afterwards is in tests/kernel/test_sandbox.py."""

from __future__ import annotations

from pathlib import Path

import pytest

from tapster.daemon.process import sandbox


@pytest.mark.parametrize(
    ("text", "services"),
    [
        ("", set()),
        ("passwd: files systemd\ngroup: files ldap\n", {"files", "systemd", "ldap"}),
        ("passwd: files [NOTFOUND=return] sss # winbind\n", {"files", "sss"}),
        ("initgroups: files\nhosts: files dns\nshadow: files x\n", {"files"}),
        ("# passwd: nis\npasswd files\n", set()),
    ],
)
def test_name_services_are_those_for_users_and_groups(
    text: str, services: set[str], tmp_path: Path
) -> None:
    path = tmp_path / "nsswitch.conf"
    path.write_text(text)
    assert sandbox.name_services(str(path)) == services


def test_without_nsswitch_conf_there_are_no_name_services(tmp_path: Path) -> None:
    assert sandbox.name_services(str(tmp_path / "nsswitch.conf")) == set()


def test_the_broker_keeps_less_than_its_children_have() -> None:
    """Else the kernel would let it at their memory (ptrace(2))."""
    assert sandbox.BROKER < sandbox.CHILDREN
