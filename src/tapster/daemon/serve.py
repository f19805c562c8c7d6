# SPDX-License-Identifier: LGPL-2.1-or-later
"""The broker as a process: its parts start one after the other, and end in the
opposite order.

`parts.py` says what a broker is made of. Here each thing that runs, or has to be
closed, is pushed onto an exit stack as soon as it is there: so the order of the end
can't differ from the order of the start.
"""

from __future__ import annotations

import asyncio
import functools
import gc
import logging
import os
import signal
import socket
from contextlib import AsyncExitStack
from ipaddress import IPv4Network, IPv6Network
from typing import NamedTuple

from ..errors import BrokerUnavailable, ConfigError
from ..kernel import memory, process
from ..kernel.netlink import NetlinkError, NetlinkSocket
from ..kernel.nft import Nft, NftError
from ..kernel.nftelem import ElementSocket
from ..networks import dnsmasq, ruleset
from ..networks.host_context import HostContext
from ..networks.ip_forwarding import IpForwarding
from ..networks.state_store import StateStore
from ..policy.config.load import Config, load
from .audit.events import Events
from .parts import Parts
from .process import (
    eager_tasks,
    runtime_directory,
    sandbox,
    single_instance,
    startup,
)
from .process.listening import listening_socket, notify
from .process.options import BROKEN, Options
from .process.programs import Programs
from .process.runtime_directory import RuntimeDirectoryWatch
from .process.spawner_process import SpawnerProcess
from .provision.tap_fd import TapDescriptor
from .server.listener import Listener
from .watch import dhcp_snooping
from .watch.netlink import open_monitor

_log = logging.getLogger(__name__)

_TRIES, _PAUSE = 40, 0.005  # seconds, each; for taps that are closing


class Rootless(NamedTuple):
    """What the supervisor outside knows and the broker inside can't see."""

    listening: socket.socket  # stays the supervisor's to close
    upstream: tuple[str, ...]  # DNS servers
    avoid: tuple[IPv4Network | IPv6Network, ...]  # the host's addresses and routes


def run(options: Options, spawner: SpawnerProcess, rootless: Rootless | None) -> int:
    """Serve until told to stop, or, rootless, until nobody needs it.

    :param options: of the command line.
    :param spawner: the process that starts programs; the caller closes it.
    :param rootless: None for the system's broker.
    :returns: the exit status.
    :raises BrokerUnavailable: it can't start; the message says why.
    :raises ConfigError: a configuration file is wrong.
    """
    memory.limit_malloc_arenas()
    config = _read_at_start(options, rootless)
    if not process.has_capability(process.CAP_NET_ADMIN):
        raise BrokerUnavailable(
            "tapsterd needs CAP_NET_ADMIN in its network namespace",
            "start it as root, or use --rootless",
        )
    startup.raise_descriptor_limit()
    lock, only = runtime_directory.lock(options.runtime), None
    try:
        only = single_instance.acquire()
        listening = _listening(options, rootless)
        try:
            return asyncio.run(
                _serve(options, config, listening, lock, spawner, rootless)
            )
        except (NetlinkError, NftError) as err:
            raise BrokerUnavailable(f"the kernel does not take part: {err}") from err
        finally:
            listening.close()
    finally:
        if only is not None:
            only.close()
        os.close(lock)


def _read(options: Options, *, rootless: bool) -> Config:
    """Read the configuration. Files of the system's broker have to be root's alone,
    whoever the broker runs as.

    :raises ConfigError: a file is wrong.
    """
    return load(options.config, owner_only=not rootless)


def _read_at_start(options: Options, rootless: Rootless | None) -> Config:
    """Read the configuration to begin with. If the system's is wrong, the broker
    starts all the same and serves nothing: guests that run need one.

    :raises ConfigError: a rootless broker's is wrong; its user is there to read that.
    """
    try:
        return _read(options, rootless=rootless is not None)
    except ConfigError as err:
        if rootless is not None:
            raise
        _log.error("%s; nothing is served until that is corrected", err)
        return Config(problem=f"the configuration is wrong: {err}")


def _listening(options: Options, rootless: Rootless | None) -> socket.socket:
    """The listening socket, which the caller closes; raises BrokerUnavailable."""
    if rootless is not None:
        return rootless.listening.dup()
    return listening_socket(options.socket)


def _host_context(
    options: Options, programs: Programs, rootless: Rootless | None
) -> HostContext:
    networks = os.path.join(options.runtime, "networks")
    try:
        dnsmasq.prepare_parent(networks, programs.user)
        store = _store(options, rootless)
    except OSError as err:
        raise BrokerUnavailable(
            f"cannot use {err.filename}: {err.strerror}",
            "see --runtime-dir and --state-dir",
        ) from err
    try:
        nft = Nft()
    except OSError as err:
        raise BrokerUnavailable(
            f"libnftables is missing: {err}", "apt install libnftables1"
        ) from err
    return HostContext(
        netlink=NetlinkSocket(),
        nft=nft,
        sets=ElementSocket(),
        store=store,
        ip_forwarding=IpForwarding(
            os.path.join(options.runtime, "sysctl.json"),
            os.path.join(store.directory, "sysctl.json"),
        ),
        launcher=programs,
        directory=networks,
        upstream=rootless.upstream if rootless else (),
        avoid=rootless.avoid if rootless else (),
        rootless=rootless is not None,
    )


def _store(options: Options, rootless: Rootless | None) -> StateStore:
    """Open the state directory. If a user's home can't be written to, the state is
    kept in the runtime directory, and guests' addresses last as long as the session.

    :raises OSError: the system's can't be used.
    """
    try:
        return StateStore(options.state)
    except OSError as err:
        if rootless is None:
            raise
        _log.warning("%s can't be used: %s", options.state, err.strerror)
        return StateStore(os.path.join(options.runtime, "state"))


async def _serve(
    options: Options,
    config: Config,
    listening: socket.socket,
    lock: int,
    spawner: SpawnerProcess,
    rootless: Rootless | None,
) -> int:
    """Start one part after the other, wait, and end them in the opposite order.

    :param options: of the command line.
    :param config: the configuration to begin with.
    :param listening: the socket to serve; closed at the end.
    :param lock: descriptor of the file that makes this the only broker.
    :param spawner: the process that starts programs.
    :param rootless: None for the system's broker.
    :returns: the exit status.
    """
    loop = asyncio.get_running_loop()
    eager_tasks.install(loop)
    stop = asyncio.Event()
    programs = Programs(spawner, stop.set)
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)

    async with AsyncExitStack() as ends:
        host = _host_context(options, programs, rootless)
        ends.callback(_close_sockets, host)
        parts = await _start_watching(ends, options, config, host, programs)
        loop.add_signal_handler(signal.SIGHUP, parts.reload.by_signal)
        listener = Listener(listening, parts.service, config.limits)
        listener.start()
        ends.callback(listener.close)
        ends.push_async_callback(_end_watches, parts.events)
        if rootless is not None:
            idle = loop.create_task(_stop_when_idle(parts, listener, stop))
            ends.callback(idle.cancel)
        _rest_from_collecting()
        directory = RuntimeDirectoryWatch(lock, options.runtime, parts.save, stop.set)
        directory.start()
        ends.callback(directory.stop)
        sandbox.enter(rootless=rootless is not None)
        notify("READY=1")
        _log.info("serving %s", options.socket)

        await stop.wait()
        notify("STOPPING=1")
        if directory.is_lost:  # another broker starts: nothing is taken down
            await _end_watches(parts.events)
            ends.pop_all()
            return BROKEN
    return BROKEN if programs.is_lost else 0


async def _start_watching(
    ends: AsyncExitStack,
    options: Options,
    config: Config,
    host: HostContext,
    programs: Programs,
) -> Parts:
    """Take over what an earlier broker left, and watch over it from then on. The
    sockets listen before anything is looked at, so that no change is missed."""
    monitor = open_monitor()
    ends.callback(monitor.close)
    lease_log = dhcp_snooping.open_log()
    if lease_log is not None:
        ends.callback(lease_log.close)
    read = functools.partial(_read, options, rootless=host.rootless)
    parts = Parts(options, config, read, host, programs, monitor, lease_log)
    ends.callback(parts.close)
    await parts.reconciler.run(dhcp_snooping.rules(lease_log))
    ends.callback(parts.orphans.stop)
    ends.callback(parts.guard.stop)
    parts.watch.start()
    ends.callback(parts.watch.stop)
    parts.guard.look_at_all()
    parts.snooper.start()
    ends.callback(parts.snooper.stop)
    ends.callback(parts.first_mac.stop)
    if parts.ledger.waiting():
        parts.first_mac.start()
    # It takes its time, as hooks do, and guests that stay are watched meanwhile.
    ends.push_async_callback(_retire, parts, programs)
    return parts


def _rest_from_collecting() -> None:
    """What exists now lives as long as the process: do not look at it again for
    garbage in the middle of a request."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(20_000, 20, 20)


async def _end_watches(events: Events) -> None:
    events.close()
    await asyncio.sleep(0)  # what happened last is still to be told


async def _retire(parts: Parts, programs: Programs) -> None:
    """Take down every network that has no NIC, and a rootless broker's others too.

    The system's guests keep theirs over a restart. A rootless broker's namespace
    ends with it. Without the process that starts programs nothing could come up any
    more, so the next broker goes on with what there is.
    """
    ledger, networks = parts.ledger, parts.networks
    networks.cancel()
    await networks.wait_for_locks()
    await asyncio.sleep(_PAUSE)  # for the NIC that a network came up for
    await parts.hooks.close()
    for _ in range(_TRIES):
        if not TapDescriptor.pending:
            break
        await asyncio.sleep(_PAUSE)
    for nic in list(ledger):
        parts.detacher.clear_if_gone(nic)
    networks.cancel()
    if parts.host.rootless and not programs.is_lost:
        for nic in list(ledger):
            parts.detacher.gone(nic)
    for network in networks.all():
        await networks.take_down(network)
    await parts.hooks.stop()
    networks.restore_host()
    networks.cancel()
    if not len(ledger):
        _remove_tables(parts.host.nft)


def _remove_tables(nft: Nft) -> None:
    """Leave nothing in nftables, as there is no NIC any more."""
    try:
        nft.run("delete tables", ruleset.no_tables())
    except NftError as err:
        _log.warning("%s", err)


def _close_sockets(host: HostContext) -> None:
    host.netlink.close()
    host.sets.close()


async def _stop_when_idle(
    parts: Parts, listener: Listener, stop: asyncio.Event
) -> None:
    """End when there has been no NIC and no connection for the time set."""
    limit = parts.current.value.broker.idle_seconds
    loop = asyncio.get_running_loop()
    since = loop.time()
    while True:
        await asyncio.sleep(max(min(limit / 10, 1.0), 0.05))
        if len(parts.ledger) or len(listener):
            since = loop.time()
        elif loop.time() - since >= limit:
            _log.info("idle for %g s; ending", limit)
            stop.set()
            return
