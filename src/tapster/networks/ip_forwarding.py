# SPDX-License-Identifier: LGPL-2.1-or-later
"""IP forwarding on the host, while a network with NAT is up and not longer.

The kernel forwards IPv6 for all devices or for none, and a device that forwards
ignores router advertisements: a host that has its own address from one would lose
it. Such a device is told to go on listening (accept_ra 2,
Documentation/networking/ip-sysctl.rst). The former values are written down before
anything is changed, so that a broker that comes after a crash can restore them.
"""

from __future__ import annotations

import errno
import json
import logging
import os

from ..jsonutil import mapping, string
from ..kernel import sysctl
from ..model import BRIDGE_PREFIX, TAP_PREFIX
from . import state_files

_log = logging.getLogger(__name__)

_IPV4 = "ipv4/ip_forward"
_IPV6 = "ipv6/conf/all/forwarding"
_NOT_DEVICES = ("all", "default")
# What only fails for now.
_PASSING = (errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.EAGAIN)
_WHERE = "where"  # a key of the spare file that is no sysctl
# Devices that no router advertisement comes in by: our own, and lo.
_NOT_UPLINKS = (TAP_PREFIX, BRIDGE_PREFIX, "lo")


def _where() -> str:
    """This boot of this host, and the network namespace whose sysctls these are."""
    with open("/proc/sys/kernel/random/boot_id", encoding="ascii") as file:
        boot = file.read().strip()
    return f"{boot} {os.stat('/proc/self/ns/net').st_ino}"


def _changes() -> dict[str, str]:
    """The sysctls that differ from what forwarding needs, with the values that they
    are to have, in the order in which they are to be set."""
    wanted: dict[str, str] = {}
    if sysctl.read(_IPV6) == "0":
        for device in sysctl.children("ipv6/conf"):
            key = f"ipv6/conf/{device}/accept_ra"
            if device.startswith(_NOT_UPLINKS) or device in _NOT_DEVICES:
                continue
            if sysctl.read(key) == "1":
                wanted[key] = "2"
        wanted[_IPV6] = "1"
    if sysctl.read(_IPV4) == "0":
        wanted[_IPV4] = "1"
    return wanted


class IpForwarding:
    """The host's forwarding switches, and their values from before."""

    def __init__(self, path: str, spare: str | None = None) -> None:
        """
        :param path: the file of the former values, there while they are changed.
        :param spare: a second file of them, for when the directory of the first is
            lost. It may outlive a reboot, which restores everything by itself: so
            it says of which boot and namespace it is.
        """
        self._path, self._spare = path, spare
        self._before = self._read(path)
        if spare is not None and not self._before:
            found = self._read(spare)
            if found.pop(_WHERE, None) == _where():
                self._before = found
            elif os.path.lexists(spare):
                state_files.discard(spare)

    @staticmethod
    def _read(path: str) -> dict[str, str]:
        try:
            return mapping(string)(state_files.read_json(path))
        except FileNotFoundError:
            return {}
        except ValueError as err:
            _log.warning("%s is damaged: %s", path, err)
            return {}

    def keep(self) -> None:
        """Write the former values down, if anything was changed.

        :raises OSError: they can't be written.
        """
        if not self._before:
            return
        if self._spare is not None:
            try:
                before = {**self._before, _WHERE: _where()}
                state_files.replace(self._spare, json.dumps(before))
            except OSError as err:
                _log.warning("%s: %s", self._spare, err)
        state_files.replace(self._path, json.dumps(self._before))

    def enable(self) -> None:
        """Switch forwarding on, after what it was is written down.

        :raises OSError: that can't be written, or the kernel refused.
        """
        wanted = _changes()
        if not wanted:
            return
        for key in wanted:
            self._before.setdefault(key, sysctl.read(key) or "0")
        self.keep()
        for key, value in wanted.items():
            sysctl.write(key, value)
            _log.info("set net/%s to %s", key, value)

    def restore(self) -> None:
        """Restore what `enable` changed, in the opposite order.

        A device may be gone. What only fails for now is left for the next call.
        """
        later: dict[str, str] = {}
        for key, value in reversed(self._before.items()):
            try:
                sysctl.write(key, value)
            except (OSError, ValueError) as err:
                _log.info("net/%s not put back: %s", key, err)
                if isinstance(err, OSError) and err.errno in _PASSING:
                    later[key] = value
        self._before = dict(reversed(later.items()))
        if not later:
            state_files.remove(self._path)
            if self._spare is not None:
                state_files.remove(self._spare)

    @property
    def changed(self) -> bool:
        """Whether former values are written down."""
        return os.path.exists(self._path)
