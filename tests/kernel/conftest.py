# SPDX-License-Identifier: LGPL-2.1-or-later
"""Tests against the real kernel: in a lab, or in a network namespace of a
thread's own. None of them leaves anything, here or there."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from lab import OTHER, USER, Daemon, Lab, why_not
from support import host, serving
from support.polkit import Asker, Polkitd
from tapster.kernel import namespaces


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line(
        "markers", "own_network: the test runs in a new network namespace"
    )


@pytest.hookimpl(tryfirst=True)
def pytest_pyfunc_call(pyfuncitem: pytest.Function) -> bool | None:
    """Run what is marked `own_network` in a thread that has its own."""
    if pyfuncitem.get_closest_marker("own_network") is None:
        return None
    if reason := why_not():
        pytest.skip(reason)
    names = pyfuncitem._fixtureinfo.argnames
    arguments = {name: pyfuncitem.funcargs[name] for name in names}

    def work() -> None:
        namespaces.unshare(namespaces.CLONE_NEWNET)
        pyfuncitem.obj(**arguments)

    host.in_thread(work)
    return True


def _of_this_machine() -> list[Any]:
    def output(*command: str) -> str:
        return subprocess.run(command, capture_output=True, text=True).stdout

    return [
        output("ip", "-o", "address"),
        output("ip", "route", "show", "table", "all"),
        output("nft", "list", "ruleset"),
        Path("/proc/sys/net/ipv4/ip_forward").read_text(),
        Path("/proc/sys/net/ipv6/conf/all/forwarding").read_text(),
        Path("/proc/self/mountinfo").read_text(),
        os.path.exists(host.RUNTIME),
        os.path.exists("/etc/tapster"),
    ]


@pytest.fixture(scope="module", autouse=True)
def this_machine_is_untouched() -> Iterator[None]:
    before = _of_this_machine()
    yield
    assert _of_this_machine() == before


@pytest.fixture(scope="module")
def lab(
    tmp_path_factory: pytest.TempPathFactory, this_machine_is_untouched: None
) -> Iterator[Lab]:
    """One lab for the tests of a file."""
    if reason := why_not():
        pytest.skip(reason)
    with Lab(tmp_path_factory.mktemp("lab")) as made:
        namespaces = [os.stat(f"/proc/{s.pid}/ns/net") for s in (made.host, made.world)]
        yield made
    for name in os.listdir("/proc"):
        if name.isdecimal():
            try:
                where = os.stat(f"/proc/{name}/ns/net")
                command = Path(f"/proc/{name}/cmdline").read_bytes()
            except OSError:
                continue
            assert where.st_ino not in [n.st_ino for n in namespaces], command


@pytest.fixture(scope="module")
def daemon(lab: Lab) -> Iterator[Daemon]:
    """A broker for the tests of a file; at its end it leaves nothing."""
    lab.host.run("mkdir", "-p", "/run/config")
    with serving.serving(lab) as running:
        yield running


@pytest.fixture
def open_directory() -> Iterator[Path]:
    """One for a lab whose broker is not root."""
    with serving.open_directory() as path:
        yield path


@pytest.fixture
def nothing_left(lab: Lab, daemon: Daemon) -> Iterator[None]:
    """After the test no NIC and no network is left, nor anything of one."""
    yield
    host.until_nothing_is_left(lab, networks=True)


@pytest.fixture
def held(lab: Lab, nothing_left: None) -> Iterator[ExitStack]:
    """What is open for a test; afterwards nothing is left."""
    with ExitStack() as stack:
        yield stack


@pytest.fixture(scope="module")
def polkitd(lab: Lab) -> Iterator[Polkitd]:
    """A message bus and polkit, which the tests of a file start and end."""
    prepared = Polkitd(lab)
    yield prepared
    prepared.close()


@pytest.fixture
def alice(lab: Lab, ready: Polkitd) -> Iterator[Asker]:
    """A user who asks the broker, while polkit is `ready`."""
    with Asker(lab, USER) as asker:
        yield asker


@pytest.fixture
def bob(lab: Lab, ready: Polkitd) -> Iterator[Asker]:
    """Another one."""
    with Asker(lab, OTHER) as asker:
        yield asker


@pytest.fixture
def clean(lab: Lab, daemon: Daemon) -> Iterator[None]:
    """After the test no NIC is left, nor anything of one."""
    yield
    host.until_nothing_is_left(lab)
    assert host.nics(lab) == []
