# SPDX-License-Identifier: LGPL-2.1-or-later
"""A tap's descriptor while it is ours, and its end.

Closing the last descriptor of a tap takes the kernel some 20 ms. It is the
last one if the caller died before the reply, or closed its own at once;
neither may cost the others that time, so threads do it.
"""

from __future__ import annotations

import os
import queue
import threading

CLOSERS = 8  # threads that close taps


class TapDescriptor:
    """A tap's only descriptor. It closes itself in a thread that can wait."""

    _queue: queue.SimpleQueue[int] = queue.SimpleQueue()
    _threads: list[threading.Thread] = []  # noqa: RUF012 - shared by all on purpose
    pending = 0  # handed to the threads and not closed yet; changed under _lock
    _lock = threading.Lock()

    def __init__(self, fd: int) -> None:
        """Takes the ownership of `fd`."""
        self._fd = fd

    def fileno(self) -> int:
        if self._fd < 0:
            raise ValueError("closed")
        return self._fd

    def close(self) -> None:
        fd, self._fd = self._fd, -1
        if fd < 0:
            return
        cls = TapDescriptor
        if not cls._start_threads():
            os.close(fd)  # slow here, but else nobody would do it
            return
        with cls._lock:
            cls.pending += 1
        cls._queue.put(fd)

    def __del__(self) -> None:
        self.close()

    @classmethod
    def _start_threads(cls) -> bool:
        """Start those that are missing, as far as the system lets us.

        :returns: whether there is at least one.
        """
        while len(cls._threads) < CLOSERS:
            thread = threading.Thread(target=cls._work, name="close", daemon=True)
            try:
                thread.start()
            except RuntimeError:
                break  # the limit of threads; tried again with the next tap
            cls._threads.append(thread)
        return bool(cls._threads)

    @classmethod
    def _work(cls) -> None:
        while True:
            os.close(cls._queue.get())
            with cls._lock:
                cls.pending -= 1
