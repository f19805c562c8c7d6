# SPDX-License-Identifier: LGPL-2.1-or-later
"""Users with ids of subuid(5) and subgid(5), as rootless containers have them: what
is denied to a group, or to a user, is not to be had by being somebody else.
"""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from lab import OTHER, USER, Daemon, Lab
from support.serving import serving

STUDENTS = 4711
FIRST = 100_000  # of alice's uids and gids
CONFIG = f"""
[broker]
network_grace_seconds = 0.2
[networks.lab]
[networks.ci]
[[rules]]
groups = ["students"]
networks = ["lab"]
effect = "deny"
[[rules]]
networks = ["lab", "default"]
[[rules]]
users = [{FIRST + 4}]
networks = ["ci"]
"""
# A process of alice's, who is in the group. What newuidmap and newgidmap would do
# for it, which are setuid root for that, the test does.
SCRIPT = """
import ctypes, json, os, socket, sys

def ask(method, **parameters):
    with socket.socket(socket.AF_UNIX) as sock:
        sock.connect("/run/tapster/io.tapster.Broker")
        call = {"method": f"io.tapster.Broker.{method}", "parameters": parameters}
        sock.sendall(json.dumps(call).encode() + b"\\0")
        reply = b""
        while not reply.endswith(b"\\0"):
            reply += sock.recv(65536)
        reply = json.loads(reply[:-1])
        return reply.get("error", "").rpartition(".")[2] or "allowed"

def attach(tag):
    told = {name: ask("Attach", network=name) for name in ("lab", "default", "ci")}
    print(json.dumps([tag, told]), flush=True)

attach("as she logged in")
assert ctypes.CDLL(None, use_errno=True).unshare(0x10000000) == 0  # CLONE_NEWUSER
print("map", flush=True)
sys.stdin.readline()
os.setgroups([])
os.setgid(0)
os.setuid(0)
attach("without her groups")
for uid in (5, 6):
    if os.fork() == 0:
        os.setgid(uid)
        os.setuid(uid)
        attach(f"as another, {uid}")
        os._exit(0)
    os.wait()
"""


@pytest.fixture(scope="module")
def daemon(lab: Lab) -> Iterator[Daemon]:
    lab.host.run(
        "sh", "-ec",
        "cp /etc/passwd /etc/group /run;"
        f"echo 'alice:x:{USER}:{USER}::/:/bin/sh' >> /run/passwd;"
        f"echo 'students:x:{STUDENTS}:alice' >> /run/group;"
        f"echo 'alice:{FIRST}:65536' > /run/subuid;"
        "for f in passwd group; do mount --bind /run/$f /etc/$f; done",
    )  # fmt: skip
    lab.config(CONFIG)
    # Not every host has an /etc/subuid to mount another one over.
    script = (
        "from tapster.daemon.identify import subuid;"
        "subuid._SYSTEMS = subuid.Subordinates('/run/subuid')"
    )
    with serving(lab, script=script) as running:
        yield running


def run(lab: Lab, uid: int, groups: tuple[int, ...] = ()) -> dict[str, dict[str, str]]:
    """What the script was answered, by who it was."""
    command = [*lab.host.prefix(uid, groups=groups), lab.python, "-c", SCRIPT]
    told = {}
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        for line in process.stdout:
            if line == "map\n":
                for kind in ("uid", "gid"):
                    text = f"0 {uid} 1\n1 {FIRST} 65536\n"
                    Path(f"/proc/{process.pid}/{kind}_map").write_text(text)
                process.stdin.write("\n")
                process.stdin.flush()
            else:
                tag, answers = json.loads(line)
                told[tag] = answers
    assert process.returncode == 0
    return told


def test_a_user_s_subordinate_uids_are_nobody_else(lab: Lab, daemon: Daemon) -> None:
    yes, no = "allowed", "NotAuthorized"
    assert run(lab, USER, (STUDENTS,)) == {
        "as she logged in": {"lab": no, "default": yes, "ci": no},
        "without her groups": {"lab": no, "default": yes, "ci": no},
        # The first is one that a rule names.
        "as another, 5": {"lab": no, "default": no, "ci": yes},
        "as another, 6": {"lab": no, "default": no, "ci": no},
    }


def test_a_user_that_is_in_no_denied_group_is_not_denied(
    lab: Lab, daemon: Daemon
) -> None:
    told = run(lab, OTHER)
    assert told["as she logged in"]["lab"] == "allowed"
    assert told["without her groups"]["lab"] == "allowed"
