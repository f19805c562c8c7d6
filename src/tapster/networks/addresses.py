# SPDX-License-Identifier: LGPL-2.1-or-later
"""Which MAC, address and subnet a guest gets: the same ones next time. Pure.

All of them follow from a seed and from names. The seed is this host's own, so that
two hosts on one LAN do not give out the same MAC. Names make it possible to find them
again without a memory. Where two names lead to one address, whoever came first keeps
it.
"""

from __future__ import annotations

import hashlib
import socket
from collections.abc import Callable, Collection, Iterable, Iterator
from ipaddress import (
    IPv4Address,
    IPv4Network,
    IPv6Address,
    IPv6Network,
    ip_address,
)

# Where a free subnet is looked for, the best pool first. The first has room for 16384
# of them. None is where Docker (172.17/16 and up), libvirt (192.168.122/24), the usual
# home routers (192.168.0/24, 192.168.1/24) or carrier NAT (100.64/10) are.
POOLS = (
    IPv4Network("10.64.0.0/10"),
    IPv4Network("172.28.0.0/14"),
    IPv4Network("192.168.192.0/18"),
)
PREFIX_LENGTH = 24
HOST_SIDE_PREFIX = 0xFE  # what tapster and libvirt give the host's end of a tap

_DIGITS = "0123456789abcdefghijklmnopqrstuvwxyz"


def digest(seed: bytes, *parts: object) -> bytes:
    """Hash the seed and the parts to 32 bytes; ("ab", "c") is not ("a", "bc")."""
    text = b"".join(
        len(str(p).encode()).to_bytes(4, "big") + str(p).encode() for p in parts
    )
    return hashlib.blake2b(text, key=seed[:64], digest_size=32).digest()


def base36(number: int, width: int) -> str:
    """Write `number` modulo 36**width in base 36, with leading zeros.

    :param width: digits.
    """
    out = ""
    for _ in range(width):
        number, digit = divmod(number, 36)
        out = _DIGITS[digit] + out
    return out


def guest_macs(seed: bytes, *identity: object) -> Iterator[str]:
    """Generate MACs for a guest, the best first, without end.

    Each is locally administered and unicast, and its first byte is neither 0xFE, which
    host sides have, nor QEMU's 0x52.

    :param seed: of this host.
    :param identity: what the guest is known by.
    """
    attempt = 0
    while True:
        raw = bytearray(digest(seed, "mac", attempt, *identity)[:6])
        raw[0] = raw[0] & 0xFC | 0x02
        if raw[0] not in (HOST_SIDE_PREFIX, 0x52):
            yield raw.hex(":")
        attempt += 1


def host_side_mac(guest_mac: str) -> str:
    """The MAC of the host's end of a guest's tap.

    It is high, so that no bridge ever adopts it as its own: the first byte is 0xFE. The
    other bytes are the guest's. If the guest's MAC starts with 0xFE, too, they are the
    complement of the guest's, as the two ends must differ.
    """
    tail = guest_mac[3:]
    if guest_mac.lower().startswith("fe"):
        tail = bytes(255 - byte for byte in bytes.fromhex(tail.replace(":", ""))).hex(
            ":"
        )
    return f"{HOST_SIDE_PREFIX:02x}:{tail}"


def eui64(prefix: IPv6Network, mac: str) -> str:
    """The address that SLAAC makes from a prefix and a MAC (RFC 4291, appendix A)."""
    return _with_interface(prefix.network_address.packed[:8], mac)


def link_local(mac: str) -> str:
    """The link-local address that is made from a MAC (RFC 4291, appendix A)."""
    return _with_interface(b"\xfe\x80\0\0\0\0\0\0", mac)


def _with_interface(prefix: bytes, mac: str) -> str:
    raw = bytes.fromhex(mac.replace(":", ""))
    interface = bytes((raw[0] ^ 2,)) + raw[1:3] + b"\xff\xfe" + raw[3:]
    return socket.inet_ntop(socket.AF_INET6, prefix + interface)


def free_ipv4_subnet(
    seed: bytes, used: Iterable[IPv4Network | IPv6Network], *identity: object
) -> IPv4Network | None:
    """Find a free /24 in the pools.

    A pool is tried only when those before it are used up, as the first one is on a host
    whose VPN has a route to all of 10.0.0.0/8.

    :param seed: of this host.
    :param used: networks that the subnet must not overlap.
    :param identity: what the subnet is for; where in a pool the search begins follows
        from it.
    :returns: the subnet; None: there is none.
    """
    in_use = [net for net in used if isinstance(net, IPv4Network)]
    first = int.from_bytes(digest(seed, "subnet", *identity)[:8], "big")
    for pool in POOLS:
        subnet = _free_in(pool, in_use, first)
        if subnet is not None:
            return subnet
    return None


def _free_in(
    pool: IPv4Network, used: Iterable[IPv4Network], first: int
) -> IPv4Network | None:
    count = 1 << (PREFIX_LENGTH - pool.prefixlen)
    base, size = int(pool.network_address), 1 << (32 - PREFIX_LENGTH)
    taken = bytearray(count)
    for net in used:
        if net.overlaps(pool):
            low = max(int(net.network_address) - base, 0) // size
            high = min((int(net.broadcast_address) - base) // size, count - 1)
            taken[low : high + 1] = b"\1" * (high + 1 - low)
    for step in range(count):
        number = (first + step) % count
        if not taken[number]:
            return IPv4Network((base + number * size, PREFIX_LENGTH))
    return None


def unique_local_subnet(seed: bytes, *identity: object) -> IPv6Network:
    """A /64 below fd00::/8 (RFC 4193).

    :param seed: of this host; the global ID follows from it.
    :param identity: what the subnet is for; the subnet ID follows from it.
    """
    global_id = digest(seed, "ula")[:5]
    subnet_id = digest(seed, "ula-subnet", *identity)[:2]
    return IPv6Network((b"\xfd" + global_id + subnet_id + bytes(8), 64))


def gateway(subnet: IPv4Network | IPv6Network) -> IPv4Address | IPv6Address:
    """The host's own address in a subnet, which is the first."""
    return ip_address(int(subnet.network_address) + 1)


def is_guest_address(subnet: IPv4Network, text: str) -> bool:
    """Whether `text` is an address that a guest of the subnet can have."""
    try:
        address = int.from_bytes(socket.inet_pton(socket.AF_INET, text), "big")
    except (OSError, ValueError):
        return False
    number = address - int(subnet.network_address)
    return 1 < number < subnet.num_addresses - 1


def guest_address(
    seed: bytes,
    subnet: IPv4Network,
    taken: Collection[str] | Callable[[str], bool],
    name: str,
) -> str | None:
    """Find an address for a guest: not the network's, the gateway's or the broadcast
    address, and none that is taken.

    :param seed: of this host.
    :param subnet: that the address is in.
    :param taken: the addresses that are not free, or a function that says so of one.
    :param name: of the guest; where the search begins follows from it.
    :returns: the address; None: all are taken.
    """
    is_taken = taken if callable(taken) else taken.__contains__
    first_host, count = int(subnet.network_address) + 2, subnet.num_addresses - 3
    start = int.from_bytes(digest(seed, "address", subnet, name)[:8], "big")
    for step in range(count):
        address = str(IPv4Address(first_host + (start + step) % count))
        if not is_taken(address):
            return address
    return None
