# SPDX-License-Identifier: LGPL-2.1-or-later
"""A timer that ends on time, and not at the next whole millisecond: timerfd_create(2).

An event loop sleeps by epoll_wait(2), which counts whole milliseconds from when it was
called. So the time at which a timer of the loop ends would tell when it was set.
"""

from __future__ import annotations

import errno
import os
import struct
import time

from .libc import call

_FLAGS = os.O_NONBLOCK | os.O_CLOEXEC  # TFD_NONBLOCK | TFD_CLOEXEC
_ABSTIME = 1  # TFD_TIMER_ABSTIME
_SPEC = struct.Struct("@4l")  # struct itimerspec: interval, value
_NANOSECONDS = 1_000_000_000


class Timer:
    """One timer of CLOCK_MONOTONIC. `close()` closes its descriptor."""

    def __init__(self) -> None:
        """:raises OSError: the kernel has no more."""
        self._fd = call("timerfd_create", time.CLOCK_MONOTONIC, _FLAGS)

    def fileno(self) -> int:
        """The descriptor, which can be read when the timer has ended."""
        return self._fd

    def set(self, moment: float) -> None:
        """Have the timer end at a moment, which may be past. An end that was set before
        is forgotten.

        :param moment: in seconds, of time.monotonic().
        """
        seconds, rest = divmod(max(int(moment * _NANOSECONDS), 1), _NANOSECONDS)
        wanted = _SPEC.pack(0, 0, seconds, rest)
        call("timerfd_settime", self._fd, _ABSTIME, wanted, None)

    def clear(self) -> None:
        """Read the descriptor empty, after the timer has ended."""
        try:
            os.read(self._fd, 8)
        except BlockingIOError:
            pass
        except OSError as err:
            if err.errno != errno.ECANCELED:
                raise

    def close(self) -> None:
        fd, self._fd = self._fd, -1
        if fd >= 0:
            os.close(fd)
