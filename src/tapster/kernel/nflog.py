# SPDX-License-Identifier: LGPL-2.1-or-later
"""Copies of packets that a rule of nftables with `log group N` has seen.

A packet socket would need CAP_NET_RAW, and see everything. Here the kernel has chosen
already, and CAP_NET_ADMIN is enough. Formats: linux/netfilter/nfnetlink.h,
linux/netfilter/nfnetlink_log.h.
"""

from __future__ import annotations

import errno
import socket
import struct
from typing import NamedTuple

from .netlink import (
    HEADER,
    NETLINK_NETFILTER,
    NLM_F_ACK,
    NLM_F_REQUEST,
    NLMSG_ERROR,
    NetlinkError,
    attr,
    attrs,
    messages,
)

_SUBSYSTEM = 4  # NFNL_SUBSYS_ULOG
_PACKET = _SUBSYSTEM << 8 | 0  # NFULNL_MSG_PACKET
_CONFIG = _SUBSYSTEM << 8 | 1  # NFULNL_MSG_CONFIG

_CFG_CMD, _CFG_MODE, _CFG_QTHRESH = 1, 2, 5  # NFULA_CFG_*
_CMD_BIND, _COPY_PACKET = 1, 2  # NFULNL_CFG_CMD_BIND, NFULNL_COPY_PACKET

_PACKET_HDR, _INDEV, _OUTDEV, _PHYSINDEV, _PHYSOUTDEV = 1, 4, 5, 6, 7  # NFULA_*
_PAYLOAD, _PREFIX, _L2HDR = 9, 10, 21

GROUPS = range(0x7A70, 0x7A80)  # ours; other programs use 0 and small numbers

_NFGEN = struct.Struct("!BBH")  # struct nfgenmsg: family, version, resource
_MODE = struct.Struct("!IBx")  # struct nfulnl_msg_config_mode: range, mode
_SO_RCVBUFFORCE = 33
_RECEIVE = 128 * 1024  # more than the longest packet and what is said about it


class Packet(NamedTuple):
    """One packet.

    On a bridge, `input` and `output` are the bridge's ports.
    """

    input: int  # index of the device; 0: the host itself has sent it
    output: int  # index of the device; 0: not known yet
    bridge: int  # index of the device; 0: there is none
    protocol: int  # ETH_P_*
    prefix: str  # the rule's `log prefix`
    ethernet: bytes  # the link layer's header; empty: there is none
    payload: bytes  # from the network layer's header on


class NflogSocket:
    """A non-blocking socket with one group of its own, in the namespace it was
    made in. `close()` closes its descriptor, and frees the group."""

    def __init__(self, group: int, *, receive_buffer: int = 4 << 20) -> None:
        """
        :param group: that rules log to.
        :param receive_buffer: bytes that the kernel may queue before it drops packets.
        :raises NetlinkError: EPERM: the group is another socket's, or we have no
            CAP_NET_ADMIN; the kernel does not say which.
        """
        self.group = group
        self._buffer = bytearray(_RECEIVE)
        self._socket = socket.socket(
            socket.AF_NETLINK,
            socket.SOCK_RAW | socket.SOCK_CLOEXEC | socket.SOCK_NONBLOCK,
            NETLINK_NETFILTER,
        )
        try:
            self._set_receive_buffer(receive_buffer)
            self._socket.bind((0, 0))
            self._bind()
        except BaseException:
            self._socket.close()
            raise

    def _set_receive_buffer(self, size: int) -> None:
        try:
            self._socket.setsockopt(socket.SOL_SOCKET, _SO_RCVBUFFORCE, size)
        except OSError:  # root of a user namespace only: up to net.core.rmem_max
            self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, size)

    def _bind(self) -> None:
        """Ask for the group, for whole packets, and for each at once: without a
        threshold the kernel collects a hundred of them, or waits for a second."""
        payload = (
            _NFGEN.pack(socket.AF_UNSPEC, 0, self.group)
            + attr(_CFG_CMD, bytes((_CMD_BIND,)))
            + attr(_CFG_MODE, _MODE.pack(0xFFFF, _COPY_PACKET))
            + attr(_CFG_QTHRESH, struct.pack("!I", 1))
        )
        head = HEADER.pack(16 + len(payload), _CONFIG, NLM_F_REQUEST | NLM_F_ACK, 1, 0)
        self._socket.sendall(head + payload)
        # The acknowledgement is there when sendall returns. Packets may come before
        # it, if rules of an earlier broker log to this group already.
        while True:
            for kind, _, sequence, body in messages(self._receive()):
                if kind == NLMSG_ERROR and sequence == 1:
                    error = -struct.unpack_from("=i", body)[0]
                    if error:
                        raise NetlinkError(error, f"listen to log group {self.group}")
                    return

    def _receive(self) -> memoryview:
        """Receive one datagram of the kernel's; empty: it came from a process."""
        count, address = self._socket.recvfrom_into(self._buffer)
        return memoryview(self._buffer)[: count if address[0] == 0 else 0]

    def fileno(self) -> int:
        return self._socket.fileno()

    def close(self) -> None:
        self._socket.close()

    def __enter__(self) -> NflogSocket:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def read(self) -> list[Packet] | None:
        """Read packets that came since the last call.

        :returns: None: there is nothing to read.
        :raises OSError: ENOBUFS: packets were lost, and do not come again. Later ones
            will.
        """
        try:
            return _packets(self._receive())
        except BlockingIOError:
            return None


def open_free_group() -> NflogSocket:
    """Make a socket with the first group that nobody listens to. Rules have to log to
    its `group`.

    :raises NetlinkError: no group is free, or we have no CAP_NET_ADMIN.
    """
    for group in GROUPS:
        try:
            return NflogSocket(group)
        except NetlinkError as error:
            if error.errno != errno.EPERM or group == GROUPS[-1]:
                raise
    raise AssertionError("GROUPS is empty")


def _packets(data: memoryview) -> list[Packet]:
    """The packets of one datagram. Other messages are left out."""
    return [
        _packet(payload) for kind, _, _, payload in messages(data) if kind == _PACKET
    ]


def _packet(message: memoryview) -> Packet:
    found = {kind: bytes(value) for kind, value in attrs(message, _NFGEN.size)}

    def number(kind: int, size: int = 4) -> int:
        return int.from_bytes(found.get(kind, b"")[:size], "big")

    bridge = 0
    if number(_PHYSINDEV) or number(_PHYSOUTDEV):
        bridge = number(_INDEV) or number(_OUTDEV)
    return Packet(
        number(_PHYSINDEV) or number(_INDEV),
        number(_PHYSOUTDEV) or number(_OUTDEV),
        bridge,
        number(_PACKET_HDR, 2),
        found.get(_PREFIX, b"").rstrip(b"\0").decode(errors="replace"),
        found.get(_L2HDR, b""),
        found.get(_PAYLOAD, b""),
    )
