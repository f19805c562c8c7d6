# SPDX-License-Identifier: LGPL-2.1-or-later
"""IP forwarding on the host, while a NATed network is up and not longer.

The kernel forwards IPv6 only when it does so for all devices, and a device
that forwards ignores router advertisements: a host that has its own address
from one would lose it. Such a device is told to go on listening (accept_ra 2,
Documentation/networking/ip-sysctl.rst). What was changed is written down, so
that a broker that comes after a crash can put it back.
"""

from __future__ import annotations

import errno
import json
import logging
import os

from ..kernel import sysctl
from ..model import BRIDGE_PREFIX, TAP_PREFIX
from . import state_files

_log = logging.getLogger(__name__)

_IPV4 = "ipv4/ip_forward"
_IPV6 = "ipv6/conf/all/forwarding"
_NOT_DEVICES = ("all", "default")
_PASSING = (errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.EAGAIN)
_WHERE = "where"  # no sysctl is called so
_NOT_UPLINKS = (TAP_PREFIX, BRIDGE_PREFIX, "lo")  # ours, and what hears nobody


def _where() -> str:
    """This boot of this host, and the network namespace whose sysctls these are."""
    with open("/proc/sys/kernel/random/boot_id", encoding="ascii") as file:
        boot = file.read().strip()
    return f"{boot} {os.stat('/proc/self/ns/net').st_ino}"


class IpForwarding:
    """The host's forwarding switches, and their values from before."""

    def __init__(self, path: str, spare: str | None = None) -> None:
        """
        :param path: where the former values are kept while changed.
        :param spare: the same for when `path` and its directory are lost; it may
            outlive a reboot, which puts everything back.
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
            found = state_files.read_json(path).items()
            return {str(k): str(v) for k, v in found}
        except FileNotFoundError:
            return {}
        except (ValueError, AttributeError) as err:
            _log.warning("%s is damaged: %s", path, err)
            return {}

    def keep(self) -> None:
        """Write the former values down, if any were changed.

        :raises OSError: that can't be done.
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
        """Switch forwarding on; :raises OSError: the kernel refused."""
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
        if not wanted:
            return
        for key in wanted:
            self._before.setdefault(key, sysctl.read(key) or "0")
        self.keep()
        for key, value in wanted.items():
            sysctl.write(key, value)
            _log.info("set net/%s to %s", key, value)

    def restore(self) -> None:
        """Put back what `enable` changed, in the opposite order.

        A device may be gone; what only fails now is left for the next time.
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
        return os.path.exists(self._path)
