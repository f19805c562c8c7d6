# SPDX-License-Identifier: LGPL-2.1-or-later
"""A lab, and guests in it, for tests of what a guest sees."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from guest.build import Image, build
from lab import Lab, until, why_not
from support.booted import NAME, PAGE


@pytest.fixture(scope="session")
def lab_image() -> Image:
    """The guest's image, at the place that all users of a lab can read."""
    reason = why_not()
    if reason is not None:
        pytest.skip(reason)
    image = build()
    return Image(
        Path("/run/guest") / image.kernel.name,
        Path("/run/guest") / image.initramfs.name,
    )


@pytest.fixture
def lab(lab_image: Image, tmp_path: Path) -> Iterator[Lab]:
    """A lab with a server and its name on the far side of the uplink."""
    os.chmod(tmp_path, 0o755)
    for parent in tmp_path.parents:
        if parent.name.startswith("pytest-"):
            os.chmod(parent, 0o755)
    with Lab(tmp_path) as lab:
        lab.host.run("mkdir", "-p", "/run/guest")
        lab.host.run("mount", "--bind", str(build().kernel.parent), "/run/guest")
        (tmp_path / "page").write_text(PAGE)
        lab.world.popen(
            sys.executable,
            *("-m", "http.server", "80", "--directory", str(tmp_path)),
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        lab.world.popen(
            "dnsmasq",
            *("--keep-in-foreground", "--conf-file=/dev/null", "--no-resolv"),
            *("--no-hosts", "--bind-interfaces", "--listen-address=192.0.2.1"),
            f"--address=/{NAME}/192.0.2.1",
            *("--user=", "--group=", "--pid-file=", "--log-facility=/dev/null"),
        )
        yield lab
        lab.close()
        until("the last process to end", lambda: not lab.host.processes())
