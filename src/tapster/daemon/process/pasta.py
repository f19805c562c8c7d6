# SPDX-License-Identifier: LGPL-2.1-or-later
"""pasta: connects the rootless broker's network namespace with the user's own.

The supervisor starts it, and ends it; where the supervisor was killed, the broker or
the next supervisor does. pasta's files in the runtime directory are `pasta.pid`, by
which it is recognised, and `pasta.log`.
"""

from __future__ import annotations

import os
import select
import signal

from ...kernel import process

UPLINK = "uplink0"  # pasta's device in the broker's namespace
# pasta answers DNS queries to this address by the user's own resolver, which may be
# one that listens on the host's loopback only.
RESOLVER = "169.254.169.53"
_STOP_LIMIT = 2000  # milliseconds until it is killed, and until a killed one must end


class Pasta:
    """A running pasta. Whoever has started it calls `stop`."""

    def __init__(self, target: int, runtime: str) -> None:
        """Start pasta.

        Without a default route there is nothing to connect with, and pasta ends at
        once; guests then reach only each other.

        :param target: pid of a process in the network namespace to connect.
        :param runtime: the runtime directory, for pasta's files.
        :raises OSError: it can't be started.
        """
        self.log = os.path.join(runtime, "pasta.log")
        command = [
            "pasta",
            "--foreground",
            "--quiet",
            # The namespace stays when the process that it was named by, the first
            # broker, is gone; Debian 13's pasta would end with that process.
            "--no-netns-quit",
            "--config-net",
            "--no-map-gw",  # no address leads to the host's loopback
            *("--tcp-ports", "none", "--udp-ports", "none"),
            *("--tcp-ns", "none", "--udp-ns", "none"),
            *("--dns-forward", RESOLVER),
            *("--ns-ifname", UPLINK),
            *("--log-file", self.log),
            *("--pid", _pid_file(runtime)),
        ]
        if os.geteuid() == 0:
            command += ["--runas", "0"]
        command.append(str(target))
        child = os.posix_spawnp(
            "pasta",
            command,
            {**os.environ, "LC_ALL": "C"},
            file_actions=[
                (os.POSIX_SPAWN_OPEN, 0, "/dev/null", os.O_RDWR, 0),
                (os.POSIX_SPAWN_DUP2, 0, 1),
                (os.POSIX_SPAWN_DUP2, 0, 2),
            ],
            setsigmask=(),
            # Python ignores SIGPIPE; pasta takes a SIGPIPE that is ignored already
            # for an error.
            setsigdef=(signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGPIPE),
        )
        self._process = process.Process(child)

    @property
    def pidfd(self) -> int:
        """Readable once pasta has ended."""
        return self._process.pidfd

    def reap(self) -> int | None:
        """Look whether it has ended; after that this object is closed.

        :returns: its exit status, None if it runs.
        """
        status = self._process.reap()
        if status is not None:
            self._process.close()
        return status

    def stop(self) -> None:
        """End it, and wait for that."""
        self._process.send_signal(signal.SIGTERM)
        poll = select.poll()
        poll.register(self._process.pidfd, select.POLLIN)
        if not poll.poll(_STOP_LIMIT):
            self._process.send_signal(signal.SIGKILL)
            poll.poll(_STOP_LIMIT)
        self._process.reap()
        self._process.close()


def _pid_file(runtime: str) -> str:
    return os.path.join(runtime, "pasta.pid")


def kill_left_behind(runtime: str) -> None:
    """Kill the pasta that wrote its pid into this directory, if it still runs."""
    path = _pid_file(runtime)
    try:
        with open(path, encoding="ascii") as file:
            pid = int(file.read())
        running = process.Process(pid)
    except (OSError, ValueError, OverflowError):
        return
    # The pid may be another process's by now; the pidfd is that process's, whichever
    # it is, and only a pasta with this very pid file is killed.
    try:
        if path.encode() in process.command_line(pid):
            running.send_signal(signal.SIGKILL)
    except OSError:
        pass
    finally:
        running.close()
