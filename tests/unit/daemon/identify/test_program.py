# SPDX-License-Identifier: LGPL-2.1-or-later
"""`identify.program`: what a caller runs, and nobody who has its pid by now."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

from support.auditing import us
from tapster.daemon.audit.request_context import RequestContext
from tapster.daemon.identify.program import ProgramReader


def test_the_program_is_that_of_the_process_that_asked() -> None:
    who = us()
    found = ProgramReader().read(
        who.pid, who.uid, RequestContext(who, "attach").arrived
    )
    assert found.executable == os.readlink("/proc/self/exe")
    assert found.command == Path("/proc/self/comm").read_text().rstrip("\n")


def test_a_process_that_started_after_the_request_is_not_the_caller() -> None:
    arrived = RequestContext(us(), "attach").arrived
    time.sleep(0.02)  # two ticks of the clock that the kernel tells it by
    with subprocess.Popen(["sleep", "60"]) as child:
        try:
            assert ProgramReader().read(child.pid, os.getuid(), arrived) == (
                None,
                None,
            )
            now = RequestContext(us(), "attach").arrived
            assert ProgramReader().read(child.pid, os.getuid(), now).command
        finally:
            child.kill()


def test_a_process_of_another_user_is_not_the_caller() -> None:
    who = us()
    arrived = RequestContext(who, "attach").arrived
    assert ProgramReader().read(who.pid, who.uid + 1, arrived) == (None, None)


def test_a_process_that_may_not_be_dumped_has_its_command_told() -> None:
    """What is in /proc/PID is root's then."""
    script = """if True:
        import ctypes, os, sys
        if os.getuid() == 0:
            os.setgid(23001)
            os.setuid(23001)
        ctypes.CDLL(None).prctl(4, 0)  # PR_SET_DUMPABLE
        print(os.getuid(), flush=True)
        sys.stdin.read()
    """
    with subprocess.Popen(
        [sys.executable, "-c", script],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as child:
        assert child.stdout is not None and child.stdin is not None
        uid = int(child.stdout.readline())
        assert os.stat(f"/proc/{child.pid}/comm").st_uid == 0
        arrived = RequestContext(us(), "attach").arrived
        assert ProgramReader().read(child.pid, uid, arrived).command
        assert ProgramReader().read(child.pid, uid + 1, arrived).command is None
        child.stdin.close()


def test_nothing_is_known_of_a_process_that_has_gone() -> None:
    with subprocess.Popen(["true"]) as child:
        pass
    assert ProgramReader().read(child.pid, os.getuid(), 2**62) == (None, None)
    for pid in (0, -1):
        assert ProgramReader().read(pid, os.getuid(), 2**62) == (None, None)
