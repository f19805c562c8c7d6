# SPDX-License-Identifier: LGPL-2.1-or-later
"""A process that only holds NICs, so that they do not burden the measured one.

A child that is spawned closes each descriptor it should not have; hundreds of
taps in the measuring process would slow the helpers and nobody else.

One line in, one line of JSON out: `grow N` attaches until there are N, `drop`
removes all of them at once, since one after another costs the kernel 20 ms each.
"""

from __future__ import annotations

import json
import resource
import struct
import subprocess
import sys
import time
from types import TracebackType
from typing import Any, Self

import tapster
from benchmarks import space
from tapster.kernel import netlink, rtnetlink

_GROUP = 27
_IFLA_GROUP = 27  # linux/if_link.h, by chance the same number
_IFINFO = struct.Struct("=BxHiII")


class Holder:
    """Such a process, from the outside. Holds `count` NICs."""

    def __init__(self) -> None:
        self.count = 0
        self._process = subprocess.Popen(
            [sys.executable, "-m", "benchmarks.holder"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=space.environment(),
            cwd=space.CHECKOUT,
            start_new_session=True,  # Ctrl-C must not close the taps one by one
        )

    def _ask(self, line: str) -> dict[str, Any]:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(line + "\n")
        self._process.stdin.flush()
        answer = self._process.stdout.readline()
        if not answer:
            raise space.Failed(f"the process that holds NICs failed at {line!r}")
        reply: dict[str, Any] = json.loads(answer)
        self.count = reply["count"]
        return reply

    def grow(self, count: int) -> dict[str, Any]:
        """Attach until there are `count`; the processor time that it took us."""
        return self._ask(f"grow {count}")

    def drop(self) -> None:
        self._ask("drop")

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        try:
            if self.count and self._process.poll() is None:
                self.drop()
        except (OSError, ValueError, space.Failed):
            pass  # it is killed below
        self._process.kill()
        self._process.communicate()


def _delete(nics: list[tapster.Nic]) -> None:
    """Put all taps into one group, and delete the group."""
    with netlink.NetlinkSocket() as kernel:
        group = netlink.attr_u32(_IFLA_GROUP, _GROUP)
        for nic in nics:
            link = rtnetlink.get_link(kernel, nic.ifname)
            if link is not None:
                body = _IFINFO.pack(0, 0, link.ifindex, 0, 0) + group
                kernel.transact(
                    [netlink.Request("group", rtnetlink.RTM_SETLINK, 0, body)]
                )
        if nics:
            body = _IFINFO.pack(0, 0, 0, 0, 0) + group
            kernel.transact([netlink.Request("delete", rtnetlink.RTM_DELLINK, 0, body)])
    for nic in nics:
        nic.close()
    nics.clear()


def main() -> None:
    space.raise_descriptor_limit()
    nics: list[tapster.Nic] = []
    for line in sys.stdin:
        word, *rest = line.split()
        before = resource.getrusage(resource.RUSAGE_SELF)
        start = time.perf_counter()
        if word == "grow":
            while len(nics) < int(rest[0]):
                nics.append(tapster.attach(bridge=space.BRIDGE))
        else:
            _delete(nics)
        elapsed = time.perf_counter() - start
        after = resource.getrusage(resource.RUSAGE_SELF)
        reply = {
            "count": len(nics),
            "seconds": elapsed,
            "user": after.ru_utime - before.ru_utime,
            "system": after.ru_stime - before.ru_stime,
        }
        print(json.dumps(reply), flush=True)


if __name__ == "__main__":
    main()
