# SPDX-License-Identifier: LGPL-2.1-or-later
"""Tap devices: the ioctls of /dev/net/tun, and who owns each descriptor.

Numbers and meanings: linux/if_tun.h, Documentation/networking/tuntap.rst.
"""

from __future__ import annotations

import errno
import fcntl
import os
import struct

TUN_DEVICE = "/dev/net/tun"

TUNGETFEATURES = 0x800454CF
TUNGETIFF = 0x800454D2
TUNSETIFF = 0x400454CA
TUNSETPERSIST = 0x400454CB

IFF_TAP = 0x0002
IFF_NO_PI = 0x1000
IFF_VNET_HDR = 0x4000
IFF_TUN_EXCL = 0x8000

IFNAMSIZ = 16
_IFREQ = struct.Struct("16sH22x")  # struct ifreq: name, flags, rest of the union


class TapError(OSError):
    """A tun ioctl failed; `operation` is the call's name."""

    def __init__(self, error: int, operation: str) -> None:
        super().__init__(error, os.strerror(error), operation)
        self.operation = operation

    def __str__(self) -> str:
        return f"{self.operation}: {os.strerror(self.errno or 0)}"


def _ioctl(fd: int, request: int, argument: bytes, operation: str) -> bytes:
    """ioctl(2) with a buffer.

    :param fd: of /dev/net/tun.
    :param request: TUN*.
    :param argument: what the buffer holds at first.
    :param operation: the call's name, for the error.
    :returns: what the kernel left in the buffer.
    :raises TapError: the call failed.
    """
    try:
        return fcntl.ioctl(fd, request, argument)
    except OSError as err:
        raise TapError(err.errno or errno.EIO, operation) from None


def is_valid_name(name: str | bytes) -> bool:
    """Whether the kernel would take `name` for a device, of 1 to 15 bytes.

    The rule is `dev_valid_name()` in net/core/dev.c: no '/', no ':', no
    white space, not '.' and not '..'. The sixteenth byte is the NUL's; a
    NUL inside would make the kernel use another name than was checked.
    """
    try:
        raw = name.encode() if isinstance(name, str) else name
    except UnicodeEncodeError:
        return False
    if not 1 <= len(raw) < IFNAMSIZ or raw in (b".", b".."):
        return False
    return not any(byte in b"/:\0" or byte in b" \t\n\v\f\r\xa0" for byte in raw)


def open_device() -> int:
    """Open /dev/net/tun in the network namespace of the calling thread.

    :returns: a close-on-exec descriptor; the caller closes it.
    :raises TapError: with the errno of open(2).
    """
    try:
        return os.open(TUN_DEVICE, os.O_RDWR | os.O_CLOEXEC | os.O_NONBLOCK)
    except OSError as err:
        raise TapError(err.errno or errno.EIO, f"open {TUN_DEVICE}") from None


def features(fd: int) -> int:
    """TUNGETFEATURES: the IFF_* flags that this kernel's driver knows.

    :raises TapError: `fd` is not one of /dev/net/tun.
    """
    raw = _ioctl(fd, TUNGETFEATURES, bytes(4), "TUNGETFEATURES")
    return int(struct.unpack("I", raw)[0])


def create(name: str, *, vnet_hdr: bool) -> int:
    """Create the tap `name`, which must not exist, in this network namespace.

    :param name: 1 to 15 bytes; never a pattern such as ``tap%d``.
    :param vnet_hdr: give it IFF_VNET_HDR, where the driver knows that flag.
    :returns: the tap's only descriptor; when it is closed the tap is gone.
        The caller closes it.
    :raises ValueError: the name is not one the kernel would take.
    :raises TapError: with EBUSY if a device of that name exists.
    """
    if not is_valid_name(name) or "%" in name:
        raise ValueError(f"not a device name: {name!r}")
    fd = open_device()
    try:
        flags = IFF_TAP | IFF_NO_PI | IFF_TUN_EXCL
        if vnet_hdr and features(fd) & IFF_VNET_HDR:
            flags |= IFF_VNET_HDR
        _ioctl(fd, TUNSETIFF, _IFREQ.pack(name.encode(), flags), f"TUNSETIFF {name}")
    except BaseException:
        os.close(fd)
        raise
    return fd


def take_over(name: str) -> int | None:
    """Attach to the tap `name` if nobody holds it: it is persistent, and its last
    descriptor was closed. Nothing but this tells such a tap from one whose holder has
    switched the carrier off. The tap loses its flags by it.

    :returns: a descriptor, which the caller closes; None: the tap is held. If there was
        no tap of that name, there is a new one now: compare the index.
    :raises TapError: `name` is no tap, or cannot be had.
    """
    fd = open_device()
    wanted = _IFREQ.pack(name.encode(), IFF_TAP | IFF_NO_PI)
    try:
        _ioctl(fd, TUNSETIFF, wanted, f"TUNSETIFF {name}")
    except TapError as err:
        os.close(fd)
        if err.errno == errno.EBUSY:
            return None
        raise
    return fd


def forget(fd: int) -> None:
    """TUNSETPERSIST 0: the tap ends with its last descriptor.

    :raises TapError: `fd` is not an attached tap.
    """
    try:
        fcntl.ioctl(fd, TUNSETPERSIST, 0)  # the number itself, and no pointer to it
    except OSError as err:
        raise TapError(err.errno or errno.EIO, "TUNSETPERSIST") from None


def name_and_flags(fd: int) -> tuple[str, int]:
    """TUNGETIFF: the name and IFF_* flags of the tap behind `fd`.

    :raises TapError: `fd` is not an attached tap.
    """
    name, flags = _IFREQ.unpack(_ioctl(fd, TUNGETIFF, bytes(_IFREQ.size), "TUNGETIFF"))
    return name.rstrip(b"\0").decode(), flags
