# SPDX-License-Identifier: LGPL-2.1-or-later
"""What who holds a tap's descriptor can do with it, done by somebody without any
privilege: in a child process that is that user."""

from __future__ import annotations

import fcntl
import os
import struct
import traceback
from collections.abc import Callable

SIOCSIFHWADDR = 0x8924
TUNSETNOCSUM, TUNSETPERSIST = 0x400454C8, 0x400454CB
TUNSETOWNER, TUNSETGROUP = 0x400454CC, 0x400454CE
TUNSETOFFLOAD, TUNSETSNDBUF, TUNSETVNETHDRSZ = 0x400454D0, 0x400454D4, 0x400454D8
TUNSETQUEUE, TUNSETCARRIER, TUNSETVNETLE = 0x400454D9, 0x400454E2, 0x400454DC
TUNSETIFF = 0x400454CA
IFF_TAP_NO_PI, IFF_DETACH_QUEUE = 0x1002, 0x0400


def as_user(uid: int, act: Callable[[], None]) -> None:
    """Do it as that user, who has no other groups and no capability.

    :raises AssertionError: it failed; standard error has why.
    """
    child = os.fork()
    if not child:
        status = 1
        try:
            os.setgroups([])
            os.setresgid(uid, uid, uid)
            os.setresuid(uid, uid, uid)
            act()
            status = 0
        except BaseException:  # noqa: BLE001 - told by the status
            traceback.print_exc()
        finally:
            os._exit(status)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0


def set_mac(fd: int, mac: str) -> None:
    raw = bytes.fromhex(mac.replace(":", ""))
    fcntl.ioctl(fd, SIOCSIFHWADDR, struct.pack("16sH6s16x", b"", 1, raw))


def set_carrier(fd: int, carrier: bool) -> None:
    fcntl.ioctl(fd, TUNSETCARRIER, struct.pack("i", carrier))


def set_number(fd: int, request: int, value: int) -> None:
    """One of those that take a pointer to a number."""
    fcntl.ioctl(fd, request, struct.pack("i", value))


def persist(fd: int) -> None:
    fcntl.ioctl(fd, TUNSETPERSIST, 1)


def attach_again(ifname: str) -> int:
    """Another descriptor for a tap by its name; the caller closes it."""
    fd = os.open("/dev/net/tun", os.O_RDWR | os.O_CLOEXEC)
    try:
        fcntl.ioctl(
            fd, TUNSETIFF, struct.pack("16sH22x", ifname.encode(), IFF_TAP_NO_PI)
        )
    except BaseException:
        os.close(fd)
        raise
    return fd
