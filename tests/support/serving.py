# SPDX-License-Identifier: LGPL-2.1-or-later
"""Brokers and labs for the tests of a file, and what has to be true at their end."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from lab import Daemon, Lab
from support.host import leftovers, ruleset


@contextmanager
def serving(
    lab: Lab, config: str | None = None, *, script: str = ""
) -> Iterator[Daemon]:
    """A broker until the end of the block, where it has to end well.

    :param config: the text of its tapster.toml; None: the one that is there.
    :param script: Python to run in its process before it starts.
    """
    if config is not None:
        lab.config(config)
    running = lab.daemon("--config", "/run/config", script=script)
    yield running
    stop_well(lab, running)


def stop_well(lab: Lab, running: Daemon) -> None:
    """Stop a broker that still runs: it has had no error, and leaves nothing."""
    assert running.process.poll() is None, running.log
    assert running.stop() == 0, running.log
    assert leftovers(lab) == [], running.log
    assert ruleset(lab.host) == [], running.log
    assert "Traceback" not in running.log, running.log


@contextmanager
def bridges(lab: Lab, names: Sequence[str]) -> Iterator[None]:
    """Linux bridges of the lab's host, until the end of the block."""
    for name in names:
        lab.host.run("ip", "link", "add", name, "type", "bridge")
        lab.host.run("ip", "link", "set", name, "up")
    yield
    for name in names:
        lab.host.run("ip", "link", "del", name)


@contextmanager
def open_directory() -> Iterator[Path]:
    """A directory for a lab whose broker is not root: pytest's is closed to others."""
    with tempfile.TemporaryDirectory(prefix="tapster-") as name:
        os.chmod(name, 0o755)
        yield Path(name)
