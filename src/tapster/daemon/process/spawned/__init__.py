# SPDX-License-Identifier: LGPL-2.1-or-later
"""What the spawner may start: dnsmasq for our networks, and hooks.

These modules and spawner.py import only the standard library and each other: the
spawner is to be a small process that starts fast. For the same reason none of them
imports `typing`.
"""

from __future__ import annotations

import signal

DEFAULT_PATH = "/usr/sbin:/usr/bin:/sbin:/bin"

# Signals that get their default action in a program that is started.
DEFAULT_SIGNALS = (
    *(signal.SIGPIPE, signal.SIGXFSZ, signal.SIGHUP, signal.SIGINT),
    *(signal.SIGTERM, signal.SIGCHLD),
)


class Refused(Exception):
    """The request is not carried out; the message says why."""
