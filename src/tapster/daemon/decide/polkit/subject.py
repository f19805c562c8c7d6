# SPDX-License-Identifier: LGPL-2.1-or-later
"""The process that polkit is asked about, so that no other can be taken for it.

To polkit a process is a pid, a start time and a uid; polkit 124 and later takes a
pidfd as well. Between our look at a pid and polkit's look the process may end and
another process may get the pid. Therefore:

* Which process it is: the kernel has a pidfd of the process that connected
  (SO_PEERPIDFD, Linux 6.5), which means that process even after the pid has gone to
  another. On older kernels the broker opens the pid, which may have gone to another
  process before: a process that started after the connection was accepted is not
  the client. A process that got the pid between connect(2) and accept(2) is not
  told from the client there; it can only be one of the same user, as uids are
  compared.
* Its start time and uids are read from /proc by pid. They are valid only if the
  process is found alive *afterwards* by its pidfd: nobody else can have had the pid
  until then.
* Whose it is: the real and the effective uid have to be the peer's. A process that
  has changed its user since it connected, or runs a setuid program on another
  user's behalf, would be judged as one user and act as another.
* Whether it is still the same: polkit looks the pid up itself to find a session,
  and does not compare the start time. If `lives` is true after the answer, the pid
  was this process's all the time, and the answer is about it.
"""

from __future__ import annotations

import errno
import os

from ....kernel import process
from ....model import Peer
from ...identify.caller import Caller

_MOST_UID = (1 << 31) - 1  # a subject's uid is a signed number of 32 bits


class Unclear(Exception):
    """It is not certain whom polkit would be asked about; the text says why."""


class Subject:
    """One process, held by its pidfd, which leaving the context closes."""

    def __init__(self, peer: Peer, caller: Caller | None) -> None:
        """
        :param peer: the client, as it was when it connected.
        :param caller: the connection whose call this is, if there is one.
        :raises Unclear: the process is gone, or not certainly the peer.
        """
        if caller is None or caller.peer != peer:
            raise Unclear("it was not to be asked in a call of that user's")
        if peer.pid <= 0:
            raise Unclear("the client is in a pid namespace that is not ours")
        if peer.uid > _MOST_UID:
            raise Unclear("polkit has no words for a uid as high as the client's")
        self.client = caller
        self.pid, self.uid = peer.pid, peer.uid
        self.pidfd, pinned = _open(peer, caller)
        try:
            self.started = self._identify(None if pinned else caller.accepted)
        except BaseException:
            self.close()
            raise

    def __enter__(self) -> Subject:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _identify(self, accepted: float | None) -> int:
        """
        :param accepted: when the process must have started, in seconds since boot;
            None if the pidfd is certainly the peer's.
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
        """Whether the process has not ended, so that the pid is still its own."""
        return not process.has_ended(self.pidfd)

    def close(self) -> None:
        """Close the descriptor."""
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
