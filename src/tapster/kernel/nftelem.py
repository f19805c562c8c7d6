# SPDX-License-Identifier: LGPL-2.1-or-later
"""Elements of nftables' sets, added and deleted without libnftables.

Tables and rules are text (kernel/nft.py), and are made once. An attach changes elements
alone. To parse the text of one takes libnftables longer than the kernel needs to add
it: 0.18 ms against 0.04 ms, cold. Formats: linux/netfilter/nf_tables.h,
linux/netfilter/nfnetlink.h.
"""

from __future__ import annotations

import functools
import socket
import struct
from collections.abc import Iterable
from typing import NamedTuple

from .netlink import (
    HEADER,
    NETLINK_NETFILTER,
    NLA_F_NESTED,
    NLM_F_ACK,
    NLM_F_CREATE,
    NLM_F_REQUEST,
    NLMSG_ERROR,
    NetlinkError,
    attr,
    attr_str,
    mac_bytes,
    messages,
    nested,
)

NFPROTO_INET, NFPROTO_BRIDGE = 1, 7

_SUBSYSTEM = 10  # NFNL_SUBSYS_NFTABLES
_BATCH_BEGIN, _BATCH_END = 16, 17  # NFNL_MSG_BATCH_*
_NEW, _DELETE = _SUBSYSTEM << 8 | 12, _SUBSYSTEM << 8 | 14  # NFT_MSG_*SETELEM
_LIST_TABLE, _LIST_SET, _LIST_ELEMENTS = 1, 2, 3  # NFTA_SET_ELEM_LIST_*
_DATA, _VERDICT, _VERDICT_CODE, _VERDICT_CHAIN = 2, 2, 1, 2  # NFTA_SET_ELEM_DATA, …
_ACCEPT, _GOTO = 1, -4  # NF_ACCEPT, NFT_GOTO
_ELEMENT, _KEY, _VALUE = 1, 1, 1  # NFTA_LIST_ELEM, NFTA_SET_ELEM_KEY, NFTA_DATA_VALUE

_NESTS = struct.Struct("=HHHHHHHH")  # length and type of four attributes
_NFGEN = struct.Struct("=BBH")  # family, version, resource
_ENVELOPE = _NFGEN.pack(0, 0, socket.htons(_SUBSYSTEM))


__all__ = [
    "NFPROTO_BRIDGE",
    "NFPROTO_INET",
    "Element",
    "ElementSocket",
    "ether_addr",
    "iface_index",
    "ifname",
    "ip_addr",
    "mac_bytes",
    "verdict",
]


class Element(NamedTuple):
    """One element of one set or map."""

    family: int  # NFPROTO_*
    table: str
    set: str
    key: bytes  # joined from what the functions below make
    data: bytes = b""  # of a map of verdicts, what `verdict` makes


def ifname(name: str) -> bytes:
    """A part of a key of type ifname: 16 bytes."""
    return name.encode().ljust(16, b"\0")


def iface_index(index: int) -> bytes:
    """A part of a key of type iface_index: 4 bytes in the host's order."""
    return struct.pack("=I", index)


def ether_addr(mac: str) -> bytes:
    """A part of a key of type ether_addr: 6 bytes, and 2 to fill a register."""
    return mac_bytes(mac) + b"\0\0"


def ip_addr(text: str) -> bytes:
    """A part of a key of type ipv4_addr or ipv6_addr."""
    return socket.inet_pton(socket.AF_INET6 if ":" in text else socket.AF_INET, text)


@functools.cache
def verdict(chain: str | None) -> bytes:
    """The data of a map of verdicts.

    :param chain: to go to; None: the verdict is to accept.
    """
    code = _ACCEPT if chain is None else _GOTO
    inner = attr(_VERDICT_CODE, code.to_bytes(4, "big", signed=True))
    if chain is not None:
        inner += attr_str(_VERDICT_CHAIN, chain)
    return nested(_DATA, nested(_VERDICT, inner))


class ElementSocket:
    """A netlink socket for elements, in the namespace it was made in.

    It is for the elements of a port or two at a time: its receive buffer has no room
    for the acknowledgements of a thousand. Not for use by two threads at once.
    `close()` closes its descriptor.
    """

    def __init__(self) -> None:
        self._socket = socket.socket(
            socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, NETLINK_NETFILTER
        )
        self._socket.bind((0, 0))
        self._buffer = bytearray(64 * 1024)
        self._sequence = 0

    def close(self) -> None:
        self._socket.close()

    def add(self, operation: str, elements: Iterable[Element]) -> None:
        """Add all elements, or none. One that is there already is no error.

        :param operation: what is being done, for the error.
        :param elements: to be added.
        :raises NetlinkError: the kernel refused.
        """
        self.change(operation, (), elements)

    def delete(self, operation: str, elements: Iterable[Element]) -> None:
        """Delete all elements, or none.

        :param operation: what is being done, for the error.
        :param elements: to be deleted.
        :raises NetlinkError: the kernel refused; ENOENT: one is not there.
        """
        self.change(operation, elements, ())

    def change(
        self, operation: str, delete: Iterable[Element], add: Iterable[Element]
    ) -> None:
        """Delete some elements and add some, in one transaction. A key of a map that is
        in both has another value from one frame to the next.

        :param operation: what is being done, for the error.
        :param delete: elements to be deleted, first.
        :param add: elements to be added.
        :raises NetlinkError: the kernel refused, and nothing was changed.
        """
        first = number = self._sequence + 1
        parts = [_pack(_BATCH_BEGIN, NLM_F_REQUEST, first, _ENVELOPE)]
        for element in delete:
            number += 1
            parts.append(_message(_DELETE, 0, number, element))
        for element in add:
            number += 1
            parts.append(_message(_NEW, NLM_F_CREATE, number, element))
        parts.append(_pack(_BATCH_END, NLM_F_REQUEST, number + 1, _ENVELOPE))
        self._sequence = number + 1
        if number > first:
            self._socket.sendall(b"".join(parts))
            self._check(operation, first, number)

    def _check(self, operation: str, first: int, last: int) -> None:
        """Read the acknowledgements: one of each message, or a single one of the whole
        batch, which the kernel sends if it could not even begin."""
        missing = last - first
        failure = 0
        while missing:
            count = self._socket.recv_into(self._buffer)
            for kind, _, sequence, payload in messages(
                memoryview(self._buffer)[:count]
            ):
                if kind != NLMSG_ERROR or not first <= sequence <= last:
                    continue
                error = -struct.unpack_from("=i", payload)[0]
                failure = failure or error
                missing = 0 if sequence == first else missing - 1
        if failure:
            raise NetlinkError(failure, operation)


@functools.cache
def _set_header(family: int, table: str, name: str) -> bytes:
    """The beginning of all messages about a set. There are a dozen sets."""
    return b"".join(
        (
            _NFGEN.pack(family, 0, 0),
            attr_str(_LIST_TABLE, table),
            attr_str(_LIST_SET, name),
        )
    )


def _message(kind: int, flags: int, sequence: int, element: Element) -> bytes:
    """One message about one element: four attributes, each within the one before, and
    the key in the last. It is packed in one piece, as an attach makes half a dozen."""
    family, table, name, key, data = element
    head_of_set = _set_header(family, table, name)
    if kind != _NEW:
        data = b""
    size = len(key)
    fill = -size & 3
    inner = 4 + size + fill  # of the key's attribute, filled up
    whole = 12 + inner + len(data)
    head = HEADER.pack(
        16 + len(head_of_set) + whole,
        kind,
        flags | NLM_F_REQUEST | NLM_F_ACK,
        sequence,
        0,
    )
    nests = _NESTS.pack(
        whole,
        _LIST_ELEMENTS | NLA_F_NESTED,
        whole - 4,
        _ELEMENT | NLA_F_NESTED,
        4 + inner,
        _KEY | NLA_F_NESTED,
        4 + size,
        _VALUE,
    )
    return b"".join((head, head_of_set, nests, key, bytes(fill), data))


def _pack(kind: int, flags: int, sequence: int, payload: bytes) -> bytes:
    return HEADER.pack(16 + len(payload), kind, flags, sequence, 0) + payload
