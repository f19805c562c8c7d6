# SPDX-License-Identifier: LGPL-2.1-or-later
"""`tapster.client.attach`: the calls, and which broker it is that they go to."""

from __future__ import annotations

import gc
import os
import socket
import subprocess
import sys
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import tapster
from fakes import broker as fake
from fakes.broker import ATTACHED, NIC, FakeBroker, Script, encode, say
from tapster import errors
from tapster.client import attach as client
from tapster.client import fields
from tapster.client.reply import check
from tapster.errors import ProtocolError

pytestmark = pytest.mark.usefixtures("no_leaked_fd")

# How fast the machine is just now says nothing about the code.
PATIENT = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])


# Attaching ------------------------------------------------------------------


def test_attach_returns_the_tap_with_every_field(path: str) -> None:
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


def test_interactive_attach_waits_for_a_person(path: str) -> None:
    with FakeBroker(path) as broker:
        client.attach(socket=path, interactive=True).close()
    parameters = {"vnet_hdr": True, "interactive": True}
    assert broker.requests[0]["parameters"] == parameters


def test_taken_descriptor_is_the_callers(path: str) -> None:
    with FakeBroker(path):
        with client.attach(socket=path, vnet_hdr=False) as nic:
            fd = nic.take()
        nic.close()
        os.close(fd)  # raises if somebody else had


def test_lost_nic_is_closed_with_a_warning(path: str) -> None:
    with FakeBroker(path):
        nic = client.attach(socket=path)
        with pytest.warns(ResourceWarning, match="unclosed <Nic tapster1"):
            del nic
            gc.collect()


def test_nullable_fields_may_be_missing_and_unknown_ones_are_ignored(path: str) -> None:
    nic = {k: v for k, v in NIC.items() if k not in ("mac", "ipv4", "ipv6", "network")}
    data = encode({"fd": 0, "nic": {**nic, "colour": "red"}, "more": 1}, future=[])
    with FakeBroker(path, say(data, 1)), client.attach(socket=path) as attached:
        assert attached.mac is attached.ipv4 is attached.network is None


@pytest.mark.parametrize("field", [f for f, v in fields.NIC.items() if not v[1]])
@pytest.mark.parametrize("value", [None, [], True])
def test_field_that_is_missing_or_of_another_type_is_an_error(
    path: str, field: str, value: object
) -> None:
    data = encode({"fd": 0, "nic": {**NIC, field: value}})
    with FakeBroker(path, say(data, 1)), pytest.raises(ProtocolError, match=field):
        client.attach(socket=path)


NONSENSE: dict[str, Script] = {
    "continues": say(encode({"fd": 0, "nic": NIC}, continues=True), 1),
    "no fd": say(ATTACHED),
    "two fds": say(ATTACHED, 2),
    "no index": say(encode({"nic": NIC}), 1),
    "index of another": say(encode({"fd": 1, "nic": NIC}), 1),
    "index is false": say(encode({"fd": False, "nic": NIC}), 1),
    "no nic": say(encode({"fd": 0}), 1),
}


@pytest.mark.parametrize("kind", NONSENSE)
def test_reply_without_exactly_one_tap_is_an_error(path: str, kind: str) -> None:
    with FakeBroker(path, NONSENSE[kind]), pytest.raises(ProtocolError) as caught:
        client.attach(socket=path)
    assert "\n" not in caught.value.oneline()


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=10,
)


@PATIENT
@given(st.dictionaries(st.sampled_from([*NIC, "x"]), JSON) | JSON)
def test_any_nic_is_checked_or_refused(nic: object) -> None:
    try:
        checked = check(nic, fields.NIC, "NIC")
    except ProtocolError:
        return
    assert set(checked) >= set(fields.NIC)


# Refused before anybody is asked --------------------------------------------


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
def test_wrong_parameters_are_refused_before_the_broker_is_asked(
    runtime: str, wrong: dict[str, Any]
) -> None:
    with pytest.raises(errors.InvalidRequest):
        client.attach(**wrong)


@pytest.mark.parametrize("name", ["b'\"\\", "fifteen-bytes-x", "brücke", "a" * 15])
def test_unusual_but_valid_bridge_names_are_sent(path: str, name: str) -> None:
    with FakeBroker(path) as broker, client.attach(bridge=name, socket=path):
        assert broker.requests[0]["parameters"]["bridge"] == name


# The other calls ------------------------------------------------------------


def test_list_returns_every_field_of_every_nic(path: str) -> None:
    with FakeBroker(path, say(encode({"nics": [NIC, NIC]}))) as broker:
        assert client.list_nics(socket=path) == [NIC, NIC]
    assert broker.requests == [{"method": "io.tapster.Broker.List", "parameters": {}}]


@pytest.mark.parametrize("nics", [None, {}, [1], [{}]])
def test_list_that_makes_no_sense_is_an_error(path: str, nics: object) -> None:
    script = say(encode({"nics": nics}))
    with FakeBroker(path, script), pytest.raises(ProtocolError):
        client.list_nics(socket=path)


def test_detach_and_info_are_sent_as_they_are_given(path: str) -> None:
    # An unexpected descriptor is closed: see no_leaked_fd.
    with FakeBroker(path, say(encode({}), 1), say(encode({"version": "1"}))) as broker:
        client.detach("tapster1", socket=path)
        assert client.get_info(socket=path) == {"version": "1"}
    assert broker.requests[0]["parameters"] == {"ifname": "tapster1"}


def test_watch_yields_events_until_the_last(path: str) -> None:
    data = b"".join(encode({"event": {"n": n}}, continues=n < 3) for n in range(4))
    for script in (say(data, 1), *[fake.split(data, at) for at in (1, 40, 90)]):
        with FakeBroker(path, script) as broker:
            events = list(client.watch(socket=path))
        assert [event["n"] for event in events] == [0, 1, 2, 3]
        assert broker.requests[0]["more"] is True


def test_watch_that_is_left_closes_its_connection(path: str) -> None:
    with FakeBroker(path, fake.say_and_hang(encode({"event": {}}, continues=True))):
        events = client.watch(socket=path)
        assert next(events) == {}
        events.close()  # type: ignore[attr-defined]


def test_watch_of_a_broker_that_dies_is_an_error(path: str) -> None:
    with FakeBroker(path, say(encode({"event": {}}, continues=True))):
        events = client.watch(socket=path)
        next(events)
        with pytest.raises(errors.BrokerUnavailable):
            next(events)


# Finding a broker -----------------------------------------------------------


def test_broker_is_looked_for_in_order(
    runtime: str, monkeypatch: pytest.MonkeyPatch
) -> None:
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


def test_named_socket_is_the_only_one_tried(
    runtime: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    with FakeBroker(f"{runtime}/system"):
        with pytest.raises(errors.BrokerUnavailable, match="/nowhere: No such file"):
            client.attach(socket="/nowhere")
        monkeypatch.setenv("TAPSTER_SOCKET", "/nowhere")
        with pytest.raises(errors.BrokerUnavailable) as caught:
            client.attach()
        assert caught.value.hint == "see TAPSTER_SOCKET"


def test_socket_path_that_is_too_long_is_an_error(
    runtime: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(errors.BrokerUnavailable, match="too long"):
        client.attach(socket="/" + "x" * 200)
    long = f"{runtime}/{'x' * 200}"
    os.makedirs(f"{long}/tapster", 0o700)
    monkeypatch.setenv("XDG_RUNTIME_DIR", long)
    with pytest.raises(errors.BrokerUnavailable, match="too long"):
        client.attach()


def test_calls_that_only_look_start_no_broker(runtime: str) -> None:
    with pytest.raises(client.NotRunning, match="no broker is running"):
        client.list_nics()
    assert os.listdir(runtime) == []


def test_directory_of_another_user_is_not_trusted(runtime: str) -> None:
    os.mkdir(f"{runtime}/tapster")
    os.chmod(f"{runtime}/tapster", 0o720)
    with pytest.raises(errors.BrokerUnavailable, match="not a private directory"):
        client.attach()


def test_rootless_broker_that_was_exiting_is_asked_again(runtime: str) -> None:
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


# The public API -------------------------------------------------------------


def test_public_names_are_found_at_the_top() -> None:
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
        ("tapster", {"json", "socket", "tapster.client.attach", "tapster.errors"}),
        (
            "tapster.client.attach",
            {
                "asyncio",
                "subprocess",
                "typing",
                "dataclasses",
                "tempfile",
                "tapster.client.start",
            },
        ),
    ],
)
def test_client_imports_nothing_slow(module: str, absent: set[str]) -> None:
    code = f"import sys; had = set(sys.modules); import {module}"
    code += "; print(*set(sys.modules) - had)"
    assert not absent & set(run_lean(code).stdout.split())
