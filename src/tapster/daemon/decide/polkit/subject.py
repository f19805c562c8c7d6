# SPDX-License-Identifier: LGPL-2.1-or-later
"""The process that polkit is asked about, so that no other can be taken for it.

To polkit a process is a pid, its start time and a uid, and polkit 124 or later
takes a pidfd as well. A pid alone is a number that its owner can have given to
another process between our looking and polkit's, so each step is looked at:

* which process: the kernel's pidfd of whoever connected (SO_PEERPIDFD, Linux
  6.5). It keeps meaning that process after the pid has gone to another. Older
  kernels have us open the pid, which may have changed hands before: then a
  process that started after we accepted is another one. One that took the pid
  between connect(2) and accept(2) is not told apart there; it can only be one of
  the same user, as the uid is compared.
* its start time and uids: read from /proc by pid, and valid only if the pidfd
  still lives *afterwards*, as nobody else can have had the pid until then.
* whose: the real and the effective uid are the peer's. A process that has
  changed its user since it connected, or runs a setuid program on another's
  behalf, would be judged as one user and act as another.
* still the same: polkit looks the pid up on its own to find a session, with no
  regard to the start time. `lives` says, after the answer, that the pid has been
  this process's all the while, and the answer therefore about it.
"""

from __future__ import annotations

import errno
import os

from ....kernel import process
from ....model import Peer
from ...identify.caller import Caller

_MOST_UID = (1 << 31) - 1  # a subject's uid is a signed number of 32 bits


class Unclear(Exception):
    """It can't be said whom polkit would be asked about; the text says why."""


class Subject:
    """One process, held by its pidfd. `close()` closes the descriptor only."""

    def __init__(self, peer: Peer, caller: Caller | None) -> None:
        """:raises Unclear: it is gone, or not certainly the peer."""
        if caller is None or caller.peer != peer:
            raise Unclear("it was not to be asked in a call of that user's")
        if peer.pid <= 0:
            raise Unclear("the client is in a pid namespace that is not ours")
        if peer.uid > _MOST_UID:
            raise Unclear("polkit has no words for a uid as high as the client's")
        self.pid, self.uid = peer.pid, peer.uid
        self.pidfd, pinned = _open(peer, caller)
        try:
            self.started = self._identify(None if pinned else caller.accepted)
        except BaseException:
            self.close()
            raise

    def _identify(self, accepted: float | None) -> int:
        """
        :param accepted: the latest time for it to have started, in seconds
            since boot; None if the pidfd is certain.
        :returns: when it started, in clock ticks since boot.
        """
        try:
            uids = process.user_ids(self.pid)
            started = process.start_time(self.pid)
        except OSError as err:
            raise Unclear(f"the client can't be looked up: {err}") from err
        if started is None or uids is None or not self.lives():
            raise Unclear("the client's process is gone")
        if accepted is not None and started > accepted * os.sysconf("SC_CLK_TCK"):
            raise Unclear("the client's pid is another process's by now")
        if uids != (self.uid, self.uid):
            raise Unclear("the client's process runs as another user by now")
        return started

    def lives(self) -> bool:
        """Whether the process has not ended, and so the pid is still its own."""
        return not process.has_ended(self.pidfd)

    def close(self) -> None:
        os.close(self.pidfd)


def _open(peer: Peer, caller: Caller) -> tuple[int, bool]:
    """A pidfd, and whether it is certainly the peer's."""
    try:
        return caller.pidfd(), True
    except OSError as err:
        if err.errno != errno.ENOPROTOOPT:
            raise Unclear(f"no pidfd of the client: {err.strerror}") from err
    try:
        return os.pidfd_open(peer.pid), False
    except OSError as err:
        raise Unclear(f"no pidfd of the client: {err.strerror}") from err
