# SPDX-License-Identifier: LGPL-2.1-or-later
"""What the name of an interface, a host name and a MAC address look like.

The client, the broker and the configuration check them, and must agree: these
functions say what is well-formed. What is wrong is said by the caller, in the
words that its reader needs. The client imports this, so it imports nothing.
"""

from __future__ import annotations

INTERFACE_NAME_BYTES = 15  # IFNAMSIZ, without the NUL
LABEL_LENGTH = 63  # characters of a DNS label, RFC 1035

_LABEL = frozenset("abcdefghijklmnopqrstuvwxyz0123456789-")
_NOT_IN_A_NAME = frozenset(b"/:\0 \t\n\v\f\r\xa0")


def is_interface_name(name: str) -> bool:
    """Whether the kernel would take `name` for a network device.

    The rule is `dev_valid_name()` in net/core/dev.c, which `kernel.tun` follows
    for the devices that it creates: 1 to 15 bytes, neither "." nor "..", without
    '/', ':' and white space. White space is what Linux takes for it byte by byte,
    0xa0 included. The kernel would stop at a NUL, and use another name than this.
    """
    try:
        raw = name.encode()
    except UnicodeEncodeError:
        return False
    return (
        1 <= len(raw) <= INTERFACE_NAME_BYTES
        and raw not in (b".", b"..")
        and _NOT_IN_A_NAME.isdisjoint(raw)
    )


def is_label(text: str, longest: int = LABEL_LENGTH) -> bool:
    """Whether `text` is a label of a host name: 1 to `longest` lower-case letters,
    digits and '-', which is neither first nor last."""
    return (
        1 <= len(text) <= longest
        and _LABEL.issuperset(text)
        and text[0] != "-"
        and text[-1] != "-"
    )


def parse_mac(text: str) -> bytes:
    """The six bytes of a MAC address, "52:54:00:12:34:56" in upper or lower case.

    :raises ValueError: it is not written so.
    """
    raw = bytes.fromhex(text.replace(":", ""))
    if len(raw) != 6 or raw.hex(":") != text.lower():
        raise ValueError(f"not a MAC address: {text!r}")
    return raw


def is_mac(text: str) -> bool:
    """Whether `text` is a MAC address in lower case, as this project stores them."""
    try:
        return parse_mac(text).hex(":") == text
    except ValueError:
        return False


def is_guest_mac(raw: bytes) -> bool:
    """Whether these six bytes can be one guest's: not a group's, and not all zero."""
    return not raw[0] & 1 and any(raw)
