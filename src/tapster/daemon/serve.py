# SPDX-License-Identifier: LGPL-2.1-or-later
"""The broker as a process: what it is put together from, in order, and its end."""

from __future__ import annotations

import asyncio
import fcntl
import gc
import logging
import os
import resource
import signal
import socket
from ipaddress import IPv4Network, IPv6Network
from typing import NamedTuple

from ..errors import BrokerUnavailable, ConfigError
from ..kernel import memory, process
from ..kernel.netlink import NetlinkError, NetlinkSocket
from ..kernel.nft import Nft, NftError
from ..kernel.nftelem import ElementSocket
from ..networks import dnsmasq
from ..networks.host_context import HostContext
from ..networks.ip_forwarding import IpForwarding
from ..networks.state_store import StateStore
from ..policy.config.current import CurrentConfig
from ..policy.config.load import Config, load
from . import reconcile
from .api.service import BrokerService
from .audit.events import Events
from .broker import Broker
from .decide.bridge_grants import BridgeGrants
from .decide.consent import Consent
from .decide.judge import Judge
from .decide.polkit.client import Polkit
from .decide.visibility import Visibility
from .identify.program import ProgramReader
from .nics.ledger import Ledger
from .process import (
    eager_tasks,
    sandbox,
    single_instance,
)
from .process import (
    listening as activation,
)
from .process.listening import notify
from .process.options import Options
from .process.programs import Programs
from .process.runtime_directory import RuntimeDirectoryWatch
from .process.spawner_process import SpawnerProcess
from .publish.forwards import ForwardRequests
from .publish.hooks.lifecycle import Hooks
from .server.listener import Listener
from .watch.dhcp_snooping import LeaseWatch
from .watch.first_mac import FirstMac
from .watch.guard import Guard
from .watch.netlink import Watch

_log = logging.getLogger(__name__)

DESCRIPTORS = 65536
BROKEN = 70  # the exit status for an error nobody foresaw (EX_SOFTWARE)


class Rootless(NamedTuple):
    """What the supervisor outside knows and the broker inside can't see."""

    listening: socket.socket
    upstream: tuple[str, ...]
    avoid: tuple[IPv4Network | IPv6Network, ...]


def run(options: Options, spawner: SpawnerProcess, rootless: Rootless | None) -> int:
    """Serve until told to stop, or, rootless, until nobody needs it.

    :param spawner: the caller closes it.
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
    _allow_descriptors()
    lock, only = _lock(options.runtime), None
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


def _allow_descriptors() -> None:
    """As many as we may have: a forward holds two, and no user's share is to be
    another's shortage. What we start closes what it inherits."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = min(hard, DESCRIPTORS) if hard >= 0 else DESCRIPTORS
    if soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))


def _read(options: Options, rootless: Rootless | None) -> Config:
    """The configuration. The system's is the administrator's: what another can
    write to is refused, whoever the broker runs as.

    :raises ConfigError: a file is wrong.
    """
    return load(options.config, owner_only=rootless is None)


def _read_at_start(options: Options, rootless: Rootless | None) -> Config:
    """The configuration to begin with. Where the system's is wrong nobody may have
    anything by it; but guests that run keep what they have, and need a broker.

    :raises ConfigError: a rootless broker's is wrong: its user waits for it.
    """
    try:
        return _read(options, rootless)
    except ConfigError as err:
        if rootless is not None:
            raise
        _log.error("%s; nothing is served until that is corrected", err)
        return Config(problem=f"the configuration is wrong: {err}")


def _lock(runtime: str) -> int:
    """Be the only broker of a runtime directory."""
    try:
        if not os.path.isdir(runtime):
            os.makedirs(runtime, exist_ok=True)
            os.chmod(runtime, 0o755)  # noqa: S103 - who may ask is policy
        what = os.stat(runtime)
        if what.st_uid not in (0, os.geteuid()) or what.st_mode & 0o022:
            raise BrokerUnavailable(
                f"others than root and its own user can write to {runtime}",
                "what is in there is trusted; see --runtime-dir",
            )
        fd = os.open(
            os.path.join(runtime, "lock"), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600
        )
    except OSError as err:
        raise BrokerUnavailable(
            f"cannot use {runtime}: {err.strerror}", "see --runtime-dir"
        ) from err
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(fd)
        raise BrokerUnavailable(f"another broker uses {runtime}") from None
    return fd


def _listening(options: Options, rootless: Rootless | None) -> socket.socket:
    if rootless is not None:
        return rootless.listening.dup()
    try:
        activated = activation.activated_socket()
    except ValueError as err:
        raise BrokerUnavailable(f"socket activation: {err}") from err
    # Everyone may ask; who may have what is policy.
    return (
        activated if activated is not None else activation.listen(options.socket, 0o666)
    )


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


def _program_reader(programs: Programs) -> ProgramReader:
    """Only root may trace other users' processes. What reads for root is the process
    that starts programs: this one has given that right up."""
    if os.geteuid() == 0:
        return ProgramReader(programs.executable)
    return ProgramReader()


def _ledger(options: Options) -> Ledger:
    try:
        return Ledger(os.path.join(options.runtime, "nics"))
    except OSError as err:
        raise BrokerUnavailable(
            f"cannot use {err.filename}: {err.strerror}", "see --runtime-dir"
        ) from err


def _store(options: Options, rootless: Rootless | None) -> StateStore:
    """The state directory. A user whose home can't be written gets addresses
    that last as long as his session."""
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
    loop = asyncio.get_running_loop()
    eager_tasks.install(loop)
    stop = asyncio.Event()
    programs = Programs(spawner, stop.set)
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    env = _host_context(options, programs, rootless)
    current, polkit = CurrentConfig(config), Polkit()
    visibility = Visibility(current, polkit)
    events = Events(
        visibility.may_see,
        _program_reader(programs),
        watchers=config.limits.watchers,
        watchers_per_user=config.limits.watchers_per_user,
    )
    ledger = _ledger(options)
    grants = BridgeGrants(current, ledger, owner_only=rootless is None)
    judge, consent = Judge(current, ledger, grants), Consent(polkit, events)
    of_hooks = None if rootless else options.config
    hooks = Hooks(of_hooks, options.runtime, programs, events, current)
    broker = Broker(current, env, ledger, events, judge, consent, visibility, hooks)
    forwards = ForwardRequests(
        broker.forward_table,
        broker.open_forwards,
        broker.permissions,
        events,
        current,
        rootless=env.rootless,
    )
    watch, leases = Watch(), LeaseWatch()
    first_mac = FirstMac(broker)
    await reconcile.reconcile(broker, leases.rules)
    guard = Guard(broker)
    guard.on_tampered = hooks.tampered
    watch.start(broker, first_mac, guard)
    guard.look_at_all()
    leases.start(broker)
    if ledger.waiting():
        first_mac.start()

    tier = "rootless" if rootless else "system"
    service = BrokerService(broker, forwards, tier, lambda: _read(options, rootless))
    loop.add_signal_handler(signal.SIGHUP, service.reload_by_signal)
    listener = Listener(listening, service, config.limits)
    listener.start()
    idle = None
    if rootless is not None:
        idle = loop.create_task(_stop_when_idle(broker, listener, stop))
    # What exists now lives as long as the process: no need to look at it again
    # for garbage in the middle of a request.
    gc.collect()
    gc.freeze()
    gc.set_threshold(20_000, 20, 20)
    directory = RuntimeDirectoryWatch(
        lock, options.runtime, lambda: _save(broker), stop.set
    )
    directory.start()
    sandbox.enter(rootless=rootless is not None)
    notify("READY=1")
    _log.info("serving %s", options.socket)
    await stop.wait()
    directory.stop()

    notify("STOPPING=1")
    if idle is not None:
        idle.cancel()
    events.close()
    await asyncio.sleep(0)  # what happened last is still to be told
    if directory.is_lost:
        return BROKEN  # and nothing is taken down
    listener.close()
    first_mac.stop()
    guard.stop()
    # Without the process that starts programs nothing can come up any more: the
    # next broker goes on with what there is.
    await broker.stop(everything=rootless is not None and not programs.is_lost)
    if not len(ledger):
        reconcile.remove_tables(broker)
    watch.stop()
    leases.stop()
    broker.open_forwards.close()
    broker.close()
    polkit.close()
    env.netlink.close()
    env.sets.close()
    return BROKEN if programs.is_lost else 0


def _save(broker: Broker) -> None:
    """What nobody could find out from the kernel; :raises OSError."""
    broker.ledger.write_again()
    broker.hooks.rewrite_all()
    broker.env.ip_forwarding.keep()


async def _stop_when_idle(
    broker: Broker, listener: Listener, stop: asyncio.Event
) -> None:
    """End when there has been no NIC and no connection for the time set."""
    limit = broker.config.broker.idle_seconds
    since = asyncio.get_running_loop().time()
    while True:
        await asyncio.sleep(max(min(limit / 10, 1.0), 0.05))
        now = asyncio.get_running_loop().time()
        if len(broker.ledger) or len(listener):
            since = now
        elif now - since >= limit:
            _log.info("idle for %g s; ending", limit)
            stop.set()
            return
