# SPDX-License-Identifier: LGPL-2.1-or-later
"""What files of other programs grant on Linux bridges: bridge.conf of QEMU's helper,
and lxc-usernet. Both are read at each request."""

from __future__ import annotations

import logging
import time
from collections import Counter
from collections.abc import Mapping, Sequence

from ...model import Peer
from ...policy.config.current import CurrentConfig
from ...policy.core.facts import Share, Usernet, Verdict
from ...policy.foreign import bridge_conf, lxc_usernet
from ..fairness.throttle import Throttle
from ..nics.ledger import Ledger

_log = logging.getLogger(__name__)

_REMEMBERED = 256  # oddities of files that were logged, and are not logged again
_NOTES_AT_ONCE, _NOTES_A_SECOND = 50, 0.2  # by one user's requests


class BridgeGrants:
    """Reads those files, and logs once what is odd about them."""

    def __init__(
        self, current: CurrentConfig, ledger: Ledger, *, owner_only: bool = True
    ) -> None:
        """
        :param current: says where the files are.
        :param ledger: says what is taken of what lxc-usernet grants.
        :param owner_only: refuse an lxc-usernet that others than root can write to,
            as the configuration's own files are refused.
        """
        self._current = current
        self._ledger = ledger
        self._owner_only = owner_only
        self._logged: dict[str, None] = {}
        self._throttle = Throttle(_NOTES_AT_ONCE, _NOTES_A_SECOND)

    def verdicts(self, peer: Peer, bridges: Sequence[str]) -> Mapping[str, Verdict]:
        """What bridge.conf says about each of some bridges, as the caller may read
        it and what it includes."""
        settings = self._current.value.authorization
        reader = bridge_conf.Reader(peer.uid, peer.gid, peer.groups)
        verdicts = bridge_conf.decide_all(
            settings.bridge_conf,
            bridges,
            reader,
            strict_includes=settings.strict_includes,
        )
        for verdict in verdicts.values():
            self._note(peer, "bridge.conf", verdict.notes)
            break  # notes are about the files, and so the same for all bridges
        return verdicts

    def usernet(self, peer: Peer, bridge: str) -> Usernet | None:
        """What lxc-usernet grants the caller on a bridge, and how much of that is
        taken; None where no such file is configured, or it can't be used."""
        path = self._current.value.authorization.lxc_usernet
        if not path:
            return None
        grant = lxc_usernet.look_up(path, bridge, peer, owner_only=self._owner_only)
        self._note(peer, "lxc-usernet", grant.notes)
        if grant.problem is not None:
            self._note(peer, "lxc-usernet", (grant.problem,))
            return None
        taken = Counter(n.share for n in self._ledger.on_bridge(bridge) if n.share)
        shares = tuple(
            Share(allotment.name, allotment.nics, taken[allotment.name])
            for allotment in grant.allotments
        )
        return Usernet(shares, ", ".join(grant.locations))

    def _note(self, peer: Peer, what: str, notes: Sequence[str]) -> None:
        """Log each oddity once. A user who owns an included file can write something
        new into it each time: how much is logged for each user is limited."""
        now = time.monotonic()
        for note in notes:
            if note not in self._logged:
                if not self._throttle.admits(peer.uid, now):
                    return
                if len(self._logged) >= _REMEMBERED:
                    self._logged.clear()
                self._logged[note] = None
                _log.warning("%s: %s", what, note)
