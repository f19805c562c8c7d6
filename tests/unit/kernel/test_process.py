# SPDX-License-Identifier: LGPL-2.1-or-later
"""`tapster.kernel.process`: a process that is held is one process."""

from __future__ import annotations

import os
import select

import pytest

from support.liar import claiming_to_be_large
from tapster.kernel.process import COMMAND_LINE, Process, command_line, has_ended

pytestmark = pytest.mark.usefixtures("no_leaked_fd")


def test_a_child_that_has_ended_already_is_held_and_says_how() -> None:
    """Whoever started it learns of its end from what it holds, however soon."""
    pid = os.fork()
    if pid == 0:
        os._exit(7)
    os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT)  # ended, and not reaped
    child = Process(pid)
    try:
        poll = select.poll()
        poll.register(child.pidfd, select.POLLIN)
        assert poll.poll(0)
        assert has_ended(child.pidfd)
        assert child.reap() == 7
        assert child.reap() is None
    finally:
        child.close()


def test_a_process_that_is_not_there_is_not_held() -> None:
    pid = os.fork()
    if pid == 0:
        os._exit(0)
    os.waitpid(pid, 0)
    with pytest.raises(ProcessLookupError):
        Process(pid)


def test_a_command_line_is_read_word_by_word() -> None:
    with open("/proc/self/cmdline", "rb") as file:
        assert b"\0".join(command_line(os.getpid())) == file.read(COMMAND_LINE)


def test_no_more_is_read_of_a_command_line_than_ours_have() -> None:
    with claiming_to_be_large(4 * COMMAND_LINE) as pid:
        words = command_line(pid)
    assert len(b"\0".join(words)) == COMMAND_LINE
