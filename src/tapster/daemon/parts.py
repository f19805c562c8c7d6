# SPDX-License-Identifier: LGPL-2.1-or-later
"""What one broker is made of, made in the order in which parts need each other.

Making a part starts nothing: `serve.py` starts what runs by itself, and ends it.
Every part is given what it needs here, and nothing is assigned to it afterwards.
"""

from __future__ import annotations

import os
from collections.abc import Callable

from ..errors import BrokerUnavailable
from ..kernel.netlink_monitor import NetlinkMonitor
from ..kernel.nflog import NflogSocket
from ..networks.host_context import HostContext
from ..policy.config.current import CurrentConfig
from ..policy.config.load import Config
from .allocate.allocator import Allocator
from .api.doctor.examination import Examination
from .api.explain import Explainer
from .api.listing import Listing
from .api.reload import Reload
from .api.service import BrokerService
from .attach import Attacher
from .audit.events import Events
from .decide.admission import Admission
from .decide.bridge_grants import BridgeGrants
from .decide.closing import ClosingTaps
from .decide.consent import Consent
from .decide.judge import Judge
from .decide.permissions import Permissions
from .decide.polkit.client import Polkit
from .decide.visibility import Visibility
from .detach import Detacher
from .identify.program import ProgramReader
from .nics.expiry import Expiry
from .nics.ledger import Ledger
from .nics.port_filter import PortFilter
from .nics.record import RecordDirectory
from .process.options import Options
from .process.programs import Programs
from .provision.adjust import Adjuster
from .provision.provisioner import Provisioner
from .publish.forward_table import ForwardTable
from .publish.forwards import ForwardRequests
from .publish.hooks.lifecycle import Hooks
from .publish.networks import RunningNetworks
from .publish.open_forwards import OpenForwards
from .reconcile import Reconciler
from .reconfigure import NetworkNews, Reconfigurer
from .resolve.bridges import Bridges
from .watch.dhcp_snooping import DhcpSnooper
from .watch.first_mac import FirstMac
from .watch.guard import Guard
from .watch.netlink import Watch
from .watch.orphans import OrphanReaper


class Parts:
    """All parts of one broker. `close()` lets go of what they hold."""

    def __init__(
        self,
        options: Options,
        config: Config,
        read: Callable[[], Config],
        host: HostContext,
        programs: Programs,
        monitor: NetlinkMonitor,
        lease_log: NflogSocket | None,
    ) -> None:
        """
        :param options: of the command line.
        :param config: the configuration to begin with.
        :param read: reads the configuration anew; raises ConfigError.
        :param host, programs, monitor, lease_log: stay the caller's to close.
        """
        self.host = host
        self._make_deciders(options, config, programs)
        self._make_makers()
        self._make_watchers(monitor, lease_log)
        self._make_service(read)

    def _make_deciders(
        self, options: Options, config: Config, programs: Programs
    ) -> None:
        """Who is told, what there is, and who may have it."""
        self.current = CurrentConfig(config)
        self.polkit = Polkit()
        self.visibility = Visibility(self.current, self.polkit)
        # Only root may trace other users' processes. What reads for root is the
        # process that starts programs: this one has given that right up.
        reader = ProgramReader(programs.executable) if os.geteuid() == 0 else None
        self.events = Events(
            self.visibility.may_see,
            reader,
            watchers=config.limits.watchers,
            watchers_per_user=config.limits.watchers_per_user,
        )
        self.ledger = _ledger(options, self.host)
        rootless = self.host.rootless
        grants = BridgeGrants(self.current, self.ledger, owner_only=not rootless)
        self.judge = Judge(self.current, self.ledger, grants)
        self.consent = Consent(self.polkit, self.events)
        self.permissions = Permissions(self.current, self.consent)
        self.hooks = Hooks(
            None if rootless else options.config,
            options.runtime,
            programs,
            self.events,
            self.current,
        )

    def _make_makers(self) -> None:
        """What makes NICs and networks, and takes them down."""
        host, ledger = self.host, self.ledger
        current, events = self.current, self.events
        self.bridges = Bridges(host.netlink)
        self.adjuster = Adjuster(host.netlink, ledger)
        news = NetworkNews(ledger, self.adjuster, self.hooks, events)
        self.networks = RunningNetworks(host, ledger, current, news)
        table = ForwardTable(os.path.join(host.store.directory, "forwards.json"))
        self.forwards = OpenForwards(table, ledger, self.networks, host.nft, current)
        self.forward_requests = ForwardRequests(
            table,
            self.forwards,
            self.permissions,
            events,
            current,
            rootless=host.rootless,
        )
        self.detacher = Detacher(
            host.netlink,
            ledger,
            self.networks,
            self.forwards,
            self.hooks,
            self.permissions,
            events,
        )
        self.expiry = Expiry(ledger, self.detacher.expire)
        self.closing = ClosingTaps(ledger, self.detacher.clear_if_gone)
        self.reconfigurer = Reconfigurer(
            current, ledger, self.adjuster, self.networks, self.forwards
        )
        self.reconciler = Reconciler(
            host,
            current,
            ledger,
            self.adjuster,
            self.networks,
            self.forwards,
            self.reconfigurer,
            self.expiry,
            self.hooks,
            events,
        )

    def _make_watchers(
        self, monitor: NetlinkMonitor, lease_log: NflogSocket | None
    ) -> None:
        """What watches NICs; and the way in, which a watcher waits behind."""
        host, ledger = self.host, self.ledger
        current, events = self.current, self.events
        allocator = Allocator(
            host.store.seed, ledger, self.judge, current, self.detacher.clear_if_gone
        )
        self.first_mac = FirstMac(
            host.netlink,
            host.nft,
            ledger,
            allocator,
            self.networks,
            self.forwards,
            events,
        )
        self.attacher = Attacher(
            current,
            ledger,
            self.bridges,
            Admission(
                current,
                self.judge,
                self.consent,
                self.closing,
                events,
                self.bridges.find,
            ),
            allocator,
            Provisioner(host.netlink, ledger, self.bridges),
            self.networks,
            self.forwards,
            self.hooks,
            self.detacher,
            self.expiry,
            events,
            self.first_mac.start,
        )
        self.orphans = OrphanReaper(host.netlink, ledger, self.bridges, self.detacher)
        self.guard = Guard(
            host.netlink,
            ledger,
            current,
            events,
            self.hooks,
            self.forwards,
            self.detacher,
            self.orphans,
        )
        self.watch = Watch(
            monitor, ledger, self.networks, self.detacher, self.first_mac, self.guard
        )
        self.snooper = DhcpSnooper(lease_log, ledger, events)

    def _make_service(self, read: Callable[[], Config]) -> None:
        """What callers of the Varlink interface meet."""
        current, events = self.current, self.events
        rootless = self.host.rootless
        self.reload = Reload(
            read,
            self.reconfigurer.reload,
            events,
            None if rootless else self.permissions,
        )
        self.service = BrokerService(
            self.attacher.attach,
            self.detacher.detach,
            Listing(
                "rootless" if rootless else "system",
                current,
                self.host.netlink,
                self.ledger,
                self.networks,
                self.bridges,
                self.forward_requests,
                self.judge,
                self.visibility,
            ),
            self.reload,
            self.forward_requests,
            self.forwards,
            Explainer(
                current,
                self.bridges.find,
                self.judge,
                self.consent,
                self.closing,
                events,
                rootless=rootless,
            ),
            Examination(current, self.networks, self.hooks, rootless=rootless),
            events,
        )

    def save(self) -> None:
        """Write down what nobody could find out from the kernel; :raises OSError."""
        self.ledger.rewrite_all()
        self.hooks.rewrite_all()
        self.host.ip_forwarding.keep()

    def close(self) -> None:
        """Close what was opened here; NICs and networks stay."""
        self.networks.cancel()
        self.expiry.cancel()
        self.forwards.close()
        self.bridges.close()
        self.polkit.close()


def _ledger(options: Options, host: HostContext) -> Ledger:
    try:
        records = RecordDirectory(os.path.join(options.runtime, "nics"))
    except OSError as err:
        raise BrokerUnavailable(
            f"cannot use {err.filename}: {err.strerror}", "see --runtime-dir"
        ) from err
    return Ledger(records, PortFilter(host.sets, host.nft))
