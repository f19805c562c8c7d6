# SPDX-License-Identifier: LGPL-2.1-or-later
"""Booted guests of a lab's users, and what they are tried with: tests/guest."""

from __future__ import annotations

import json
import subprocess
from typing import Any

from guest.build import Image
from guest.vm import Guest
from lab import USER, Lab

# A name and the page of a server in the world beyond the lab's uplink.
NAME, PAGE = "outside.example", "beyond the uplink"


def run_guest(
    lab: Lab, image: Image, name: str, *options: str, user: int = USER
) -> Guest:
    """A guest by `tapster run`."""
    command = lab.tapster("run", "--name", name, *options, "--")
    return Guest(name, prefix=lab.host.prefix(user) + command, image=image)


def nics(lab: Lab, user: int | None = USER) -> list[dict[str, Any]]:
    """What `tapster ls` tells that user."""
    listed = lab.host.run(*lab.tapster("ls", "--json"), user=user).stdout
    return list(json.loads(listed))


def devices(lab: Lab) -> list[str]:
    """The devices of the lab's host that are tapster's."""
    listed = json.loads(lab.host.run("ip", "-j", "link").stdout)
    return [d["ifname"] for d in listed if d["ifname"].startswith(("tapster", "tapbr"))]


def serve(lab: Lab, address: str) -> None:
    """Something on the host that guests must not reach, at port 7777."""
    code = (
        "import socket, sys\n"
        f"s = socket.create_server(({address!r}, 7777))\n"
        "print('ready', flush=True)\n"
        "while True: s.accept()"
    )
    server = lab.host.popen(lab.python, "-c", code, stdout=subprocess.PIPE)
    assert server.stdout is not None
    with server.stdout as output:
        assert output.readline() == b"ready\n"


def page(guest: Guest) -> str:
    """What the guest gets when it asks the world for its page."""
    return guest.run(f"wget -q -O- http://{NAME}/page", timeout=20, check=False).output
