# SPDX-License-Identifier: LGPL-2.1-or-later
"""`tapster.client` against brokers that are right, wrong, slow, or not there."""

from __future__ import annotations

import gc
import glob
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import tapster
from fakes import broker as fake
from fakes.broker import ATTACHED, NIC, FakeBroker, Script, encode, error, say
from tapster import client, errors
from tapster.errors import ProtocolError

# How fast the machine is just now says nothing about the code.
PATIENT = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])


def open_fds() -> list[str]:
    return sorted(os.listdir("/proc/self/fd"))


@pytest.fixture(autouse=True)
def no_leaked_fd() -> Iterator[None]:
    gc.collect()
    before = open_fds()
    yield
    gc.collect()
    assert open_fds() == before


@pytest.fixture
def runtime(monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """A world without any broker; its runtime directory, with a short path."""
    directory = tempfile.mkdtemp(prefix="tapster-test-")
    monkeypatch.setenv("XDG_RUNTIME_DIR", directory)
    monkeypatch.delenv("TAPSTER_SOCKET", raising=False)
    monkeypatch.setattr(client, "SYSTEM_SOCKET", f"{directory}/system")
    yield directory
    shutil.rmtree(directory)


@pytest.fixture
def path(runtime: str) -> str:
    return f"{runtime}/broker"


def daemon_facts(runtime: str) -> list[dict[str, Any]]:
    facts = []
    for name in glob.glob(f"{runtime}/tapster/facts.*"):
        with open(name) as file:
            facts.append(json.load(file))
    return facts


@pytest.fixture
def daemon(runtime: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """`tapsterd` is a fake; it is ended after the test. The runtime directory."""
    command = [sys.executable, "-I", fake.__file__, "--rootless"]
    monkeypatch.setattr(client, "_daemon_command", lambda: command)
    yield runtime
    for fact in daemon_facts(runtime):
        try:
            pidfd = os.pidfd_open(fact["pid"])
        except ProcessLookupError:
            continue
        signal.pidfd_send_signal(pidfd, signal.SIGKILL)
        os.close(pidfd)


# Attaching -----------------------------------------------------------------


def test_attach(path: str) -> None:
    with FakeBroker(path, say(ATTACHED, 1)) as broker:
        with tapster.attach(
            "lan", name="web1", mac="52:54:00:AB:00:01", socket=path
        ) as nic:
            assert broker.made(nic.fd)
            assert nic.fileno() == nic.fd
            assert not os.get_inheritable(nic.fd)
            for field in ("ifname", "mac", "ipv4", "ipv6", "mtu", "bridge", "network"):
                assert getattr(nic, field) == NIC[field]
            assert nic.name == "web1"
            assert "tapster1" in repr(nic)
        nic.close()
        for use in (nic.fileno, nic.take):
            with pytest.raises(ValueError, match="closed or taken"):
                use()
    assert broker.requests == [
        {
            "method": "io.tapster.Broker.Attach",
            "parameters": {
                "network": "lan",
                "name": "web1",
                "mac": "52:54:00:ab:00:01",
                "vnet_hdr": True,
            },
        }
    ]


def test_take(path: str) -> None:
    with FakeBroker(path):
        with client.attach(socket=path, vnet_hdr=False) as nic:
            fd = nic.take()
        nic.close()
        os.close(fd)  # raises if somebody else had


def test_a_lost_nic_is_closed_and_told(path: str) -> None:
    with FakeBroker(path):
        nic = client.attach(socket=path)
        with pytest.warns(ResourceWarning, match="unclosed <Nic tapster1"):
            del nic
            gc.collect()


def test_fields_that_may_be_missing_and_ones_from_the_future(path: str) -> None:
    nic = {k: v for k, v in NIC.items() if k not in ("mac", "ipv4", "ipv6", "network")}
    data = encode({"fd": 0, "nic": {**nic, "colour": "red"}, "more": 1}, future=[])
    with FakeBroker(path, say(data, 1)), client.attach(socket=path) as attached:
        assert attached.mac is attached.ipv4 is attached.network is None


@pytest.mark.parametrize(
    "field", [f for f, v in client._NIC_FIELDS.items() if not v[1]]
)
@pytest.mark.parametrize("value", [None, [], True])
def test_a_field_must_be_there(path: str, field: str, value: object) -> None:
    data = encode({"fd": 0, "nic": {**NIC, field: value}})
    with FakeBroker(path, say(data, 1)), pytest.raises(ProtocolError, match=field):
        client.attach(socket=path)


MISBEHAVIOUR: dict[str, tuple[Script, type[errors.TapsterError]]] = {
    "hangs": (fake.hang, errors.BrokerUnavailable),
    "trickles": (fake.trickle, errors.BrokerUnavailable),
    "sends an fd, then hangs": (
        fake.say_and_hang(b"{", 1),
        errors.BrokerUnavailable,
    ),
    "hangs up": (fake.hang_up, errors.BrokerUnavailable),
    "hangs up in the middle": (say(ATTACHED[:-1], 1), ProtocolError),
    "garbage": (say(b"\xff\xfe{]\0", 1), ProtocolError),
    "nothing": (say(b"\0", 1), ProtocolError),
    "deep": (say(b"[" * 100_000 + b"\0", 1), ProtocolError),
    "a list": (say(b"[1]\0", 1), ProtocolError),
    "no parameters": (say(b"{}\0", 1), ProtocolError),
    "odd parameters": (say(b'{"parameters":7}\0', 1), ProtocolError),
    "odd error": (say(b'{"error":7}\0', 1), ProtocolError),
    "odd continues": (say(encode({}, continues=3), 1), ProtocolError),
    "continues": (
        say(encode({"fd": 0, "nic": NIC}, continues=True), 1),
        ProtocolError,
    ),
    "no fd": (say(ATTACHED), ProtocolError),
    "two fds": (say(ATTACHED, 2), ProtocolError),
    "too many fds": (say(ATTACHED, 40), ProtocolError),
    "no index": (say(encode({"nic": NIC}), 1), ProtocolError),
    "index of another": (say(encode({"fd": 1, "nic": NIC}), 1), ProtocolError),
    "index is false": (say(encode({"fd": False, "nic": NIC}), 1), ProtocolError),
    "no nic": (say(encode({"fd": 0}), 1), ProtocolError),
    "huge": (fake.say_and_hang(b" " * (3 << 20), 1), ProtocolError),
    "an error with an fd": (
        say(error("io.tapster.Broker.NotAuthorized", message="no"), 1),
        errors.NotAuthorized,
    ),
}


@pytest.mark.parametrize("kind", MISBEHAVIOUR)
def test_misbehaviour(path: str, kind: str) -> None:
    script, expected = MISBEHAVIOUR[kind]
    with FakeBroker(path, script), pytest.raises(expected) as caught:
        client.attach(socket=path, timeout=0.3)
    assert "\n" not in caught.value.oneline()


def test_a_reply_may_be_split_anywhere(path: str) -> None:
    nic = {**NIC, "user": "ürsula"}
    data = json.dumps({"parameters": {"fd": 0, "nic": nic}}, ensure_ascii=False)
    wire = data.encode() + b"\0"
    places = range(1, len(wire))
    with FakeBroker(path, *[fake.split(wire, at, 1) for at in places]) as broker:
        for _ in places:
            with client.attach(socket=path) as attached:
                assert broker.made(attached.fd)


# Errors on the wire --------------------------------------------------------


@pytest.mark.parametrize("kind", errors.RequestError.__subclasses__())
def test_each_error_keeps_its_class(path: str, kind: type[errors.RequestError]) -> None:
    data = error(f"io.tapster.Broker.{kind.__name__}", message="so it is", hint="do it")
    with FakeBroker(path, say(data)), pytest.raises(kind) as caught:
        client.attach(socket=path)
    assert type(caught.value) is kind
    assert caught.value.oneline() == "so it is (do it)"


@pytest.mark.parametrize(
    ("data", "kind", "text"),
    [
        (error("io.tapster.Broker.Strange"), errors.BrokerFailure, "Strange"),
        (error("io.tapster.Broker.Strange", message="m"), errors.BrokerFailure, "^m$"),
        (error("io.tapster.Broker.TapsterError"), errors.BrokerFailure, "answered"),
        (error("io.tapster.Broker.annotations"), errors.BrokerFailure, "annotations"),
        (
            error("io.tapster.Broker.NameInUse", message=3),
            errors.NameInUse,
            "NameInUse",
        ),
        (
            error("org.varlink.service.InvalidParameter", parameter="mac"),
            errors.InvalidRequest,
            "'mac'",
        ),
        (
            error("org.varlink.service.MethodNotFound", method="x"),
            ProtocolError,
            "MethodNotFound",
        ),
        (error("com.example.NotAuthorized"), ProtocolError, "com.example"),
        (error("NotAuthorized"), ProtocolError, "answered NotAuthorized"),
    ],
)
def test_other_errors(data: bytes, kind: type[Exception], text: str) -> None:
    with pytest.raises(kind, match=text):
        client.parse_reply(data[:-1])


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=10,
)
WORDS = st.sampled_from(["parameters", "error", "continues", "message", "x"])


@PATIENT
@given(st.binary() | st.dictionaries(WORDS, JSON).map(lambda d: json.dumps(d).encode()))
def test_any_reply_is_parsed_or_refused(message: bytes) -> None:
    try:
        parameters, more = client.parse_reply(message)
    except (ProtocolError, errors.RequestError):
        return
    assert isinstance(parameters, dict)
    assert isinstance(more, bool)


@PATIENT
@given(st.dictionaries(st.text(), JSON), st.booleans())
def test_what_is_said_is_understood(parameters: dict[str, Any], more: bool) -> None:
    message = json.dumps({"parameters": parameters, "continues": more}).encode()
    parsed, continues = client.parse_reply(message)
    assert json.dumps(parsed) == json.dumps(parameters)
    assert continues is more


@PATIENT
@given(st.dictionaries(st.sampled_from([*NIC, "x"]), JSON) | JSON)
def test_any_nic_is_checked(nic: object) -> None:
    try:
        checked = client._check_nic(nic)
    except ProtocolError:
        return
    assert set(checked) >= set(client._NIC_FIELDS)


# Refused before anybody is asked -------------------------------------------


@pytest.mark.parametrize(
    "wrong",
    [
        {"network": "lan", "bridge": "br0"},
        {"network": ""},
        {"network": "a\nb"},
        {"network": 7},
        {"name": "a\0b"},
        {"name": "\udcff"},
        {"bridge": ""},
        {"bridge": "sixteen-bytes-xx"},
        {"bridge": "ü" * 8},
        {"bridge": ".."},
        {"bridge": "a/b"},
        {"bridge": "a b"},
        {"bridge": "a:b"},
        {"mac": "52:54:00:12:34"},
        {"mac": "52-54-00-12-34-56"},
        {"mac": "52:54:00:12:34:5g"},
        {"mac": "52:54:00:12:34:+5"},
        {"mac": "53:54:00:12:34:56"},
        {"mac": "00:00:00:00:00:00"},
        {"mac": "ff:ff:ff:ff:ff:ff"},
    ],
)
def test_wrong_parameters(runtime: str, wrong: dict[str, Any]) -> None:
    with pytest.raises(errors.InvalidRequest):
        client.attach(**wrong)


@pytest.mark.parametrize("name", ["b'\"\\", "fifteen-bytes-x", "brücke", "a" * 15])
def test_odd_but_good_bridges(path: str, name: str) -> None:
    with FakeBroker(path) as broker, client.attach(bridge=name, socket=path):
        assert broker.requests[0]["parameters"]["bridge"] == name


# The other calls -----------------------------------------------------------


def test_list(path: str) -> None:
    with FakeBroker(path, say(encode({"nics": [NIC, NIC]}))) as broker:
        assert client.list_nics(socket=path) == [NIC, NIC]
    assert broker.requests == [{"method": "io.tapster.Broker.List", "parameters": {}}]


@pytest.mark.parametrize("nics", [None, {}, [1], [{}]])
def test_list_makes_no_sense(path: str, nics: object) -> None:
    script = say(encode({"nics": nics}))
    with FakeBroker(path, script), pytest.raises(ProtocolError):
        client.list_nics(socket=path)


def test_detach_and_info(path: str) -> None:
    # An unexpected descriptor is closed: see no_leaked_fd.
    with FakeBroker(path, say(encode({}), 1), say(encode({"version": "1"}))) as broker:
        client.detach("tapster1", socket=path)
        assert client.get_info(socket=path) == {"version": "1"}
    assert broker.requests[0]["parameters"] == {"ifname": "tapster1"}


def test_watch_until_the_end(path: str) -> None:
    data = b"".join(encode({"event": {"n": n}}, continues=n < 3) for n in range(4))
    for script in (say(data, 1), *[fake.split(data, at) for at in (1, 40, 90)]):
        with FakeBroker(path, script) as broker:
            events = list(client.watch(socket=path))
        assert [event["n"] for event in events] == [0, 1, 2, 3]
        assert broker.requests[0]["more"] is True


def test_watch_may_be_left(path: str) -> None:
    with FakeBroker(path, fake.say_and_hang(encode({"event": {}}, continues=True))):
        events = client.watch(socket=path)
        assert next(events) == {}
        events.close()  # type: ignore[attr-defined]


def test_watch_and_the_broker_dies(path: str) -> None:
    with FakeBroker(path, say(encode({"event": {}}, continues=True))):
        events = client.watch(socket=path)
        next(events)
        with pytest.raises(errors.BrokerUnavailable):
            next(events)


def test_several_calls_on_one_connection(path: str) -> None:
    def script(peer: fake.Peer) -> None:
        peer.send(error("io.tapster.Broker.NoSuchNic", message="none"))
        peer.conn.recv(65536)
        peer.send(encode({"n": 1}) + encode({"n": 2}))
        peer.hang()

    with FakeBroker(path, script), client.connect(path) as broker:
        with pytest.raises(errors.NoSuchNic):
            broker.call("Detach", {"ifname": "x"})
        assert broker.call("org.example.Other", {})[0] == {"n": 1}
        assert broker.fileno() >= 0
        with pytest.raises(ProtocolError, match="nobody asked"):
            broker.call("List", {})
        assert broker.fileno() == -1


# Finding a broker ----------------------------------------------------------


def test_order(runtime: str, monkeypatch: pytest.MonkeyPatch) -> None:
    os.mkdir(f"{runtime}/tapster", 0o700)
    names = ("explicit", "variable", "system", "tapster/io.tapster.Broker")
    paths = [f"{runtime}/{name}" for name in names]
    brokers = [FakeBroker(p, say(encode({"name": p}))) for p in paths]
    with brokers[0], brokers[1], brokers[3]:
        with brokers[2]:
            monkeypatch.setenv("TAPSTER_SOCKET", paths[1])
            assert client.get_info(socket=paths[0])["name"] == paths[0]
            assert client.get_info()["name"] == paths[1]
            monkeypatch.delenv("TAPSTER_SOCKET")
            assert client.get_info()["name"] == paths[2]
            assert client.get_info(rootless=True)["name"] == paths[3]
        assert client.get_info()["name"] == paths[3]
        with socket.socket(socket.AF_UNIX) as left_behind:
            left_behind.bind(paths[2])
        assert client.get_info()["name"] == paths[3]


def test_no_falling_back(runtime: str, monkeypatch: pytest.MonkeyPatch) -> None:
    with FakeBroker(f"{runtime}/system"):
        with pytest.raises(errors.BrokerUnavailable, match="/nowhere: No such file"):
            client.attach(socket="/nowhere")
        monkeypatch.setenv("TAPSTER_SOCKET", "/nowhere")
        with pytest.raises(errors.BrokerUnavailable) as caught:
            client.attach()
        assert caught.value.hint == "see TAPSTER_SOCKET"


def test_paths_that_cannot_be(runtime: str, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(errors.BrokerUnavailable, match="too long"):
        client.attach(socket="/" + "x" * 200)
    long = f"{runtime}/{'x' * 200}"
    os.makedirs(f"{long}/tapster", 0o700)
    monkeypatch.setenv("XDG_RUNTIME_DIR", long)
    with pytest.raises(errors.BrokerUnavailable, match="too long"):
        client.attach()


def test_nothing_is_started_to_look(runtime: str) -> None:
    with pytest.raises(errors.BrokerUnavailable, match="no broker is running"):
        client.list_nics()
    assert os.listdir(runtime) == []


def test_a_full_backlog_is_waited_for(path: str) -> None:
    """Unix sockets refuse at once, with EAGAIN, where others would wait."""
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(path)
        listener.listen(0)
        with socket.socket(socket.AF_UNIX) as first:
            first.connect(path)
            with pytest.raises(errors.BrokerUnavailable, match="in time"):
                client.attach(socket=path, timeout=0.1)


@pytest.mark.parametrize("mode", [0o777, 0o720, 0o702])
def test_a_directory_that_others_may_write(runtime: str, mode: int) -> None:
    os.mkdir(f"{runtime}/tapster")
    os.chmod(f"{runtime}/tapster", mode)
    with pytest.raises(errors.BrokerUnavailable, match="not a private directory"):
        client.attach()


def test_a_directory_that_is_none(runtime: str) -> None:
    os.mkdir(f"{runtime}/elsewhere", 0o700)
    os.symlink("elsewhere", f"{runtime}/tapster")
    with pytest.raises(errors.BrokerUnavailable, match="not a private directory"):
        client.attach()


def test_runtime_directory(runtime: str, monkeypatch: pytest.MonkeyPatch) -> None:
    assert client.runtime_directory() == runtime
    for unusable in ("relative/path", ""):
        monkeypatch.setenv("XDG_RUNTIME_DIR", unusable)
        monkeypatch.setattr(os, "geteuid", lambda: 4_000_000_001)
        assert client.runtime_directory() == "/tmp/tapster-4000000001"


def test_an_idle_broker_that_was_exiting_is_asked_again(runtime: str) -> None:
    os.mkdir(f"{runtime}/tapster", 0o700)
    rootless = f"{runtime}/tapster/io.tapster.Broker"
    with FakeBroker(rootless, fake.hang_up, say(ATTACHED, 1)) as broker:
        client.attach().close()
    assert len(broker.requests) == 2
    for place, times in (rootless, 2), (f"{runtime}/system", 1):
        with (
            FakeBroker(place, fake.hang_up) as broker,
            pytest.raises(errors.BrokerUnavailable, match="hung up"),
        ):
            client.attach()
        assert len(broker.requests) == times


# Starting one --------------------------------------------------------------


def children() -> str:
    with open(f"/proc/self/task/{os.getpid()}/children") as file:
        return file.read()


def test_a_broker_is_started(daemon: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LISTEN_FDS", "1")
    extra, other = socket.socketpair()
    os.set_inheritable(extra.fileno(), True)
    old = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGALRM, signal.SIGCHLD})
    handler = signal.signal(signal.SIGUSR2, signal.SIG_IGN)
    before = children()
    try:
        client.attach(name="first").close()
        client.attach(name="second").close()
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, old)
        signal.signal(signal.SIGUSR2, handler)
        extra.close()
        other.close()
    (facts,) = daemon_facts(daemon)
    assert children() == before
    assert os.stat(f"/proc/{facts['pid']}")
    assert facts["sid"] == facts["pid"]
    assert facts["cwd"] == "/"
    assert facts["blocked"] == facts["ignored"] == 0
    log = f"{daemon}/tapster/broker.log"
    assert facts["fds"] == {"0": "/dev/null", "1": "/dev/null", "2": log}
    assert facts["others"] == []
    assert "LISTEN_FDS" not in facts["environ"]
    assert os.stat(f"{daemon}/tapster").st_mode & 0o777 == 0o700
    assert os.stat(log).st_mode & 0o777 == 0o600
    assert not glob.glob(f"{daemon}/tapster/ready-*")


def test_sigchld_ignored_by_the_program_we_are_in(daemon: str) -> None:
    handler = signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    try:
        client.attach().close()
    finally:
        signal.signal(signal.SIGCHLD, handler)


def test_its_own_words(daemon: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FAKE_TAPSTERD", "fail")
    before = children()
    with pytest.raises(errors.BrokerUnavailable) as caught:
        client.attach()
    assert caught.value.message == "cannot start a broker: no user namespaces here"
    assert caught.value.hint == f"see {daemon}/tapster/broker.log"
    assert children() == before


def test_another_one_was_faster(daemon: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Ours finds the lock taken, by one that exits: another is started."""
    monkeypatch.setenv("FAKE_TAPSTERD", "locked-once")
    client.attach().close()
    assert len(daemon_facts(daemon)) == 2


def test_it_takes_too_long(daemon: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FAKE_TAPSTERD", "hang")
    monkeypatch.setattr(client, "START_TIMEOUT", 1.0)
    with pytest.raises(errors.BrokerUnavailable, match="did not start in time"):
        client.attach()


def test_there_is_no_tapsterd(runtime: str, monkeypatch: pytest.MonkeyPatch) -> None:
    command = [f"{runtime}/tapsterd", "--rootless"]
    monkeypatch.setattr(client, "_daemon_command", lambda: command)
    with pytest.raises(errors.BrokerUnavailable, match=r"cannot be started.*No such"):
        client.attach()


def test_it_outlives_us(daemon: str) -> None:
    """Also where we become another program, which must not have a child then."""
    code = f"""if True:
        import os, sys
        from tapster import client
        client.SYSTEM_SOCKET = "/nowhere"
        client._daemon_command = lambda: {client._daemon_command()!r}
        client.attach().close()
        os.execvp("cat", ["cat", f"/proc/self/task/{{os.getpid()}}/children"])
    """
    env = {
        **os.environ,
        "PYTHONPATH": os.path.dirname(os.path.dirname(client.__file__)),
    }
    done = subprocess.run(
        [sys.executable, "-c", code], env=env, check=True, capture_output=True
    )
    assert done.stdout + done.stderr == b""
    (facts,) = daemon_facts(daemon)
    assert os.stat(f"/proc/{facts['pid']}")


def test_the_real_command(monkeypatch: pytest.MonkeyPatch) -> None:
    command = client._daemon_command()
    assert command[-1] == "--rootless"
    if os.path.isdir(os.path.join(os.path.dirname(client.__file__), "daemon")):
        assert command[0] == sys.executable
        compile(command[3], "daemon", "exec")
    monkeypatch.setattr(sys, "executable", "")
    assert client._daemon_command() == ["tapsterd", "--rootless"]


# The public API ------------------------------------------------------------


def test_public_names() -> None:
    kinds = {
        name
        for name, value in vars(errors).items()
        if isinstance(value, type) and issubclass(value, errors.TapsterError)
    }
    assert set(tapster.__all__) == kinds | {"attach", "Nic", "__version__"}
    assert dir(tapster) == sorted(tapster.__all__)
    for name in kinds:
        assert getattr(tapster, name) is getattr(errors, name)
    assert tapster.Nic is client.Nic
    with pytest.raises(AttributeError, match="no attribute 'other'"):
        getattr(tapster, "other")  # noqa: B009


def run_lean(code: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", code], check=True, capture_output=True, text=True
    )


@pytest.mark.parametrize(
    ("module", "absent"),
    [
        ("tapster", {"json", "socket", "tapster.client", "tapster.errors"}),
        (
            "tapster.client",
            {"asyncio", "subprocess", "typing", "dataclasses", "tempfile"},
        ),
    ],
)
def test_imports_are_few(module: str, absent: set[str]) -> None:
    code = f"import sys; had = set(sys.modules); import {module}"
    code += "; print(*set(sys.modules) - had)"
    assert not absent & set(run_lean(code).stdout.split())
