# SPDX-License-Identifier: LGPL-2.1-or-later
"""Where the daemon looks for things, by option and by default."""

from __future__ import annotations

from pathlib import Path

import pytest

from tapster.daemon.process.options import parse


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path / "run"))
    for name in ("XDG_CONFIG_HOME", "XDG_STATE_HOME"):
        monkeypatch.delenv(name, raising=False)
    return tmp_path


def test_the_systems_broker_has_the_systems_places(home: Path) -> None:
    options = parse([])
    assert options.socket == "/run/tapster/io.tapster.Broker"
    assert options.config == "/etc/tapster"
    assert options.state == "/var/lib/tapster"


def test_a_users_broker_has_the_users(home: Path) -> None:
    options = parse(["--rootless"])
    assert options.socket == f"{home}/run/tapster/io.tapster.Broker"
    assert options.runtime == f"{home}/run/tapster"
    assert options.state == f"{home}/.local/state/tapster"
    assert options.config == "/etc/tapster"


def test_a_users_own_configuration_is_used_if_there_is_one(home: Path) -> None:
    (home / ".config/tapster").mkdir(parents=True)
    assert parse(["--rootless"]).config == f"{home}/.config/tapster"
    assert parse([]).config == "/etc/tapster"
    assert parse(["--rootless", "--config", "/c"]).config == "/c"


def test_xdg_directories_are_honoured_if_absolute(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (home / "conf/tapster").mkdir(parents=True)
    monkeypatch.setenv("XDG_CONFIG_HOME", str(home / "conf"))
    monkeypatch.setenv("XDG_STATE_HOME", "relative")
    options = parse(["--rootless"])
    assert options.config == f"{home}/conf/tapster"
    assert options.state == f"{home}/.local/state/tapster"
