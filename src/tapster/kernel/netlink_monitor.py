# SPDX-License-Identifier: LGPL-2.1-or-later
"""A socket by which the kernel tells of changes: multicast groups of rtnetlink.

It hears of every change in its namespace, our own included. A filter in the kernel
(socket(7), linux/filter.h) drops what is not wanted before it costs us anything.
"""

from __future__ import annotations

import ctypes
import socket
import struct
import sys
from collections.abc import Sequence

from .netlink import RECEIVE_BYTES, SOL_NETLINK, Reply, messages

NETLINK_ADD_MEMBERSHIP = 1


def _program(types: Sequence[int], live_links: bool) -> bytes:
    """Make a classic BPF program that lets messages of these types through.

    The type is at offset 4, struct ifinfomsg's flags are at 24 and its mask of changes
    at 28. BPF loads in network order; netlink has the host's order.

    :param types: of messages.
    :param live_links: whether RTM_NEWLINK (16) of live devices goes through, too, as
        `NetlinkMonitor` says.
    """
    load, load_half, load_byte = 0x20, 0x28, 0x30
    equal, has_bits, give = 0x15, 0x45, 0x06
    iff_up = 1
    steps: list[tuple[int, str, str, int]] = [(load_half, "", "", 4)]
    steps += [(equal, "give", "", socket.htons(kind)) for kind in types]
    if live_links:
        steps += [
            (equal, "", "drop", socket.htons(16)),
            (load_byte, "", "", 24 if sys.byteorder == "little" else 27),
            (has_bits, "give", "", iff_up),
            (load, "", "", 28),
            (equal, "drop", "", 0xFFFFFFFF),  # it has just been made
            (has_bits, "give", "", socket.htonl(iff_up)),
        ]
    targets = {"drop": len(steps), "give": len(steps) + 1}
    program = b""
    for number, (code, yes, no, value) in enumerate(steps, 1):
        jumps = [targets[word] - number if word else 0 for word in (yes, no)]
        program += struct.pack("=HBBI", code, *jumps, value)
    for answer in (0, 0xFFFFFFFF):
        program += struct.pack("=HBBI", give, 0, 0, answer)
    return program


class NetlinkMonitor:
    """A non-blocking socket that hears the multicast groups it was given.

    `close()` closes its descriptor.
    """

    def __init__(
        self,
        groups: Sequence[int],
        types: Sequence[int],
        *,
        live_links: bool = False,
        receive_buffer: int = 8 << 20,
    ) -> None:
        """
        :param groups: RTNLGRP_* numbers.
        :param types: of the messages that are wanted.
        :param live_links: whether RTM_NEWLINK is wanted, too, but only of a device that
            is up or has just gone down. (The kernel sends four of a device that is
            being made.)
        :param receive_buffer: bytes that the kernel may queue before it drops messages.
            More than net.core.rmem_max needs CAP_NET_ADMIN.
        """
        self._socket = socket.socket(
            socket.AF_NETLINK,
            socket.SOCK_RAW | socket.SOCK_CLOEXEC | socket.SOCK_NONBLOCK,
            socket.NETLINK_ROUTE,
        )
        try:
            so_rcvbufforce = 33
            self._socket.setsockopt(socket.SOL_SOCKET, so_rcvbufforce, receive_buffer)
        except OSError:
            self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
        self._buffer = bytearray(RECEIVE_BYTES)
        self._filter(types, live_links)
        self._socket.bind((0, 0))
        for group in groups:
            self._socket.setsockopt(SOL_NETLINK, NETLINK_ADD_MEMBERSHIP, group)

    def _filter(self, types: Sequence[int], live_links: bool) -> None:
        """Have the kernel drop what is not wanted. Each attach of our own makes a dozen
        messages."""
        program = _program(types, live_links)
        text = ctypes.create_string_buffer(program)
        so_attach_filter = 26
        self._socket.setsockopt(
            socket.SOL_SOCKET,
            so_attach_filter,
            struct.pack("@HP", len(program) // 8, ctypes.addressof(text)),
        )

    def fileno(self) -> int:
        return self._socket.fileno()

    def close(self) -> None:
        self._socket.close()

    def read(self) -> list[Reply] | None:
        """Read messages that came since the last call. Messages that a process sent are
        dropped.

        :returns: None: there is nothing to read.
        :raises OSError: ENOBUFS: messages were lost, and more will be, without a second
            error, until all that is queued was read. After that the reader must look
            at the whole state again.
        """
        try:
            count, address = self._socket.recvfrom_into(self._buffer)
        except BlockingIOError:
            return None
        if address[0] != 0:
            return []
        data = memoryview(bytes(memoryview(self._buffer)[:count]))
        return [Reply(kind, payload) for kind, _, _, payload in messages(data)]
