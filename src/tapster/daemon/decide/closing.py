# SPDX-License-Identifier: LGPL-2.1-or-later
"""A quota does not count taps that are closed already.

The kernel removes a tap after the last of its descriptors is closed, and the broker
may hold the last one for a moment: it closes some in a thread. A caller that closes
its tap and attaches again at once must not be told that it has too many.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from ..nics.ledger import Ledger
from ..nics.nic import Nic
from ..provision.tap_fd import TapDescriptor
from .judge import Judged

TRIES, PAUSE = 40, 0.005  # how often to look again, and seconds between


class ClosingTaps:
    """Waits for the taps of a user that are about to be gone."""

    def __init__(self, ledger: Ledger, is_gone: Callable[[Nic], bool]) -> None:
        """
        :param ledger: the NICs that count.
        :param is_gone: whether a NIC has none of its tap left; clears up if so.
        """
        self._ledger = ledger
        self._is_gone = is_gone

    async def wait_and_judge(self, uid: int, judge: Callable[[], Judged]) -> Judged:
        """Decide; where that says that a user has too many NICs, decide again as
        long as taps are being closed.

        :param uid: whose taps count.
        :param judge: makes the decision.
        """
        judged = judge()
        for _ in range(TRIES):
            if not judged.decision.over_quota:
                break
            gone = [self._is_gone(nic) for nic in self._ledger.of_user(uid)]
            if not TapDescriptor.pending and not any(gone):
                break
            await asyncio.sleep(PAUSE)
            judged = judge()
        return judged
