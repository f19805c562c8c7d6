# SPDX-License-Identifier: LGPL-2.1-or-later
"""What NICs are known by: keys that are unique, and names for people to read.

A network's own name never contains a colon, so the word for a Linux bridge that
was asked for by its own name, "bridge:br0", cannot be a network's.
"""

from __future__ import annotations

EVERYBODY = -1  # in place of a uid: names are unique among all users' guests

# The kernel keeps this at the start of a tap's alias; only CAP_NET_ADMIN sets it.
TAP_ALIAS = "tapster nic"
_ALIAS_BYTES = 255  # IFALIASZ - 1, linux/if.h
_ALTNAME_BYTES = 127  # ALTIFNAMSIZ - 1, linux/if.h

_LINUX_BRIDGE = "bridge:"
_AUTOMATIC = "vm"  # of guests that were given no name: vm1, vm2, ...

NameKey = tuple[str, int, str]  # network key, uid or EVERYBODY, the guest's name


def on_linux_bridge(bridge: str) -> str:
    """The network key of a Linux bridge that was asked for by its own name."""
    return _LINUX_BRIDGE + bridge


def is_linux_bridge(network_key: str) -> bool:
    """Whether a network key is that of a Linux bridge."""
    return network_key.startswith(_LINUX_BRIDGE)


def automatic_name(number: int) -> str:
    """The name of a guest that was given none."""
    return f"{_AUTOMATIC}{number}"


def automatic_number(name: str) -> int | None:
    """Which number an automatic name has; None if a person chose that name."""
    digits = name.removeprefix(_AUTOMATIC)
    number = int(digits) if digits.isdecimal() else None
    return number if number is not None and automatic_name(number) == name else None


def alias(target: str, user: str, guest: str) -> str:
    """The alias of a tap: whose it is, for whoever reads `ip link`.

    :param target: the network, or the Linux bridge.
    """
    return f"{TAP_ALIAS} network={target} user={user} guest={guest}"


def alias_in_kernel(text: str) -> str:
    """An alias as the kernel keeps it, and rtnetlink reads it back: cut off."""
    return text.encode()[:_ALIAS_BYTES].decode(errors="replace")


def alternative_name(target: str, user: str, guest: str) -> str:
    """A tap's alternative name (`ip link show tapster.NETWORK.USER.GUEST`).

    :param user: a name that an interface's name may contain, or a uid.
    """
    return f"tapster.{target}.{user}.{guest}"[:_ALTNAME_BYTES]
