# SPDX-License-Identifier: LGPL-2.1-or-later
"""Who gets what, and what the others learn: nothing.

Shows daemon/resolve.
"""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest

from lab import OTHER, USER, Daemon, Lab
from support.host import (
    Watcher,
    ask,
    attach,
    broker,
    inside,
    links,
    nics,
    until_nothing_is_left,
)
from tapster import errors
from tapster.client import attach as client

pytestmark = pytest.mark.usefixtures("clean")

QUOTA = 16


@pytest.fixture(scope="module", autouse=True)
def bridges(lab: Lab, daemon: Daemon) -> Iterator[None]:
    lab.host.run(
        "sh", "-ec",
        "for b in br7 br8; do ip link add $b type bridge; ip link set $b up; done;"
        "ip link property add dev br7 altname office;"
        "ip link add d0 type veth peer name d1",
    )  # fmt: skip
    lab.bridge_conf("")
    yield
    for name in ("br7", "br8", "d0"):
        lab.host.run("ip", "link", "del", name)


@pytest.fixture(autouse=True)
def empty_bridge_conf(lab: Lab) -> Iterator[None]:
    lab.bridge_conf("")
    yield


def all_of(held: list[client.Nic]) -> None:
    for nic in held:
        nic.close()


def test_every_user_may_use_the_default_network(lab: Lab) -> None:
    for uid in (USER, OTHER, 0, 65534):
        with attach(lab, uid) as nic:
            assert nic.network == "default"
            (listed,) = nics(lab, uid)
            assert listed["uid"] == uid
    info = ask(lab, USER, "GetInfo")
    assert info["tier"] == "system"
    assert info["networks"] == [
        {"name": "default", "mode": "nat", "max_nics": QUOTA, "nics": 0}
    ]
    assert info["bridges"] == []


@pytest.mark.parametrize("name", ["br0", "qemubr0", "default"])
def test_qemu_s_own_bridge_names_mean_the_default_network(lab: Lab, name: str) -> None:
    with attach(lab, USER, bridge=name) as nic:
        assert nic.network == "default"


class TestQuota:
    def test_a_quota_is_16_a_user_and_given_back_at_once(self, lab: Lab) -> None:
        held = [attach(lab, USER) for _ in range(QUOTA)]
        try:
            assert ask(lab, USER, "GetInfo")["networks"][0]["nics"] == QUOTA
            with pytest.raises(errors.QuotaExceeded) as raised:
                attach(lab, USER)
            assert str(QUOTA) in raised.value.message and raised.value.hint
            with attach(lab, OTHER):
                pass
            held.pop().close()
            held.append(attach(lab, USER))
            ask(lab, USER, "Detach", {"ifname": held[0].ifname})
            held.append(attach(lab, USER))
            with pytest.raises(errors.QuotaExceeded):
                attach(lab, USER)
        finally:
            all_of(held)

    def test_a_quota_is_not_reached_by_a_user_who_closes_first(self, lab: Lab) -> None:
        held = [attach(lab, USER) for _ in range(QUOTA - 1)]
        try:
            for _ in range(60):
                attach(lab, USER).close()
        finally:
            all_of(held)

    def test_a_quota_is_not_reached_by_clients_that_drop_the_reply(
        self, lab: Lab
    ) -> None:
        for _ in range(60):
            ask(lab, USER, "Attach")

    def test_a_request_over_quota_makes_nothing(self, lab: Lab) -> None:
        held = [attach(lab, USER) for _ in range(QUOTA)]
        try:
            before = links(lab.host, "tap")
            for _ in range(5):
                with pytest.raises(errors.QuotaExceeded):
                    attach(lab, USER)
            assert links(lab.host, "tap") == before
        finally:
            all_of(held)


class TestBridgeConf:
    def test_an_edit_of_bridge_conf_takes_effect_with_the_next_request(
        self, lab: Lab
    ) -> None:
        for text, granted in (
            ("allow br7\n", True),
            ("deny br7\n", False),
            ("allow all\n", True),
            ("allow all\ndeny br7\n", False),
            ("# allow br7\n", False),
            ("allow br7\n", True),
        ):
            lab.bridge_conf(text)
            if granted:
                with attach(lab, USER, bridge="br7") as nic:
                    assert (nic.bridge, nic.network) == ("br7", None)
                assert "br7" in ask(lab, USER, "GetInfo")["bridges"]
            else:
                with pytest.raises(errors.NotAuthorized):
                    attach(lab, USER, bridge="br7")
                assert "br7" not in ask(lab, USER, "GetInfo")["bridges"]

    def test_a_missing_bridge_conf_denies_bridges_only(self, lab: Lab) -> None:
        os.unlink(inside(lab, "/etc/qemu/bridge.conf"))
        with pytest.raises(errors.NotAuthorized):
            attach(lab, USER, bridge="br7")
        with attach(lab, USER):
            pass

    def test_an_included_file_grants_to_those_who_may_read_it(self, lab: Lab) -> None:
        lab.bridge_conf("include /etc/qemu/some.conf\n")
        lab.host.run(
            "sh", "-ec",
            f"echo 'allow br7' > /etc/qemu/some.conf;"
            f"chown root:{OTHER} /etc/qemu/some.conf; chmod 0640 /etc/qemu/some.conf",
        )  # fmt: skip
        with attach(lab, OTHER, bridge="br7"):
            pass
        with pytest.raises(errors.NotAuthorized):
            attach(lab, USER, bridge="br7")
        with attach(lab, USER, [OTHER], bridge="br7"):
            pass

    def test_root_is_judged_by_bridge_conf_as_well(self, lab: Lab) -> None:
        with pytest.raises(errors.NotAuthorized):
            attach(lab, 0, bridge="br7")

    def test_an_alternative_name_is_no_way_around_a_deny(self, lab: Lab) -> None:
        lab.bridge_conf("allow all\ndeny br7\n")
        with pytest.raises(errors.NotAuthorized):
            attach(lab, USER, bridge="office")
        lab.bridge_conf("allow office\nallow br7\n")
        with pytest.raises(errors.NotAuthorized):
            attach(lab, USER, bridge="office")


def test_denied_caller_learns_nothing(lab: Lab) -> None:
    """One answer, to the word, for what is not allowed and what is not there."""
    lab.bridge_conf("allow all\ndeny br7\n")
    with attach(lab, OTHER) as others, attach(lab, USER) as own:
        wanted = [
            {"bridge": "br7"},  # denied
            {"bridge": "br9"},  # not there
            {"bridge": "office"},  # an alternative name
            {"bridge": "d0"},  # no bridge
            {"bridge": others.bridge},  # another user's network
            {"bridge": own.bridge},  # one's own network, by its bridge
            {"bridge": others.ifname},
            {"network": "gone"},
            {"network": "br8"},  # a bridge is no network
            {"bridge": "tapbr"},
        ]
        answers = set()
        for request in wanted:
            name = next(iter(request.values()))
            for extra in ({}, {"name": "x"}, {"for_parent": True}):
                with (
                    broker(lab, USER) as wire,
                    pytest.raises(errors.RequestError) as raised,
                ):
                    wire.call("Attach", {**request, **extra})
                error = raised.value
                text = error.message.replace(repr(name), "NAME")
                answers.add((type(error), text, error.hint))
    ((kind, text, _),) = answers
    assert kind is errors.NotAuthorized
    assert text == "you may not use NAME, or it does not exist"


class TestTwoUsers:
    def test_neither_of_two_users_sees_the_other_s_nics(self, lab: Lab) -> None:
        with attach(lab, USER, name="a") as one, attach(lab, OTHER, name="a") as two:
            assert [n["ifname"] for n in nics(lab, USER)] == [one.ifname]
            assert [n["ifname"] for n in nics(lab, OTHER)] == [two.ifname]
            everything = {n["ifname"]: n["uid"] for n in nics(lab)}
            assert everything == {one.ifname: USER, two.ifname: OTHER}

    def test_neither_of_two_users_detaches_the_other_s_and_the_answers_are_one(
        self, lab: Lab
    ) -> None:
        with attach(lab, OTHER) as others, attach(lab, USER) as own:
            answers = set()
            for ifname in (others.ifname, "tapstergone0000", "br8", "eth0", "lo", ""):
                with pytest.raises(errors.NoSuchNic) as raised:
                    ask(lab, USER, "Detach", {"ifname": ifname})
                answers.add((raised.value.message, raised.value.hint))
            assert len(answers) == 1
            assert [n["ifname"] for n in nics(lab, OTHER)] == [others.ifname]
            ask(lab, USER, "Detach", {"ifname": own.ifname})
            assert nics(lab, USER) == []
            ask(lab, 0, "Detach", {"ifname": others.ifname})
            assert nics(lab) == []

    def test_neither_of_two_users_hears_of_the_other_s_nics(self, lab: Lab) -> None:
        with (
            Watcher(lab, USER) as own,
            Watcher(lab, OTHER) as others,
            Watcher(lab, 0) as root,
        ):
            with attach(lab, OTHER):
                others.wait("attached")
            others.wait("detached")
            with pytest.raises(errors.NotAuthorized):
                attach(lab, OTHER, bridge="br7")
            others.wait("denied")
            with attach(lab, USER) as nic:
                own.wait("attached")
            own.wait("detached")
            root.wait("detached", ifname=nic.ifname)
            assert {e["uid"] for e in own.seen} == {USER}
            assert [e["event"] for e in own.seen] == [
                "watching",
                "attached",
                "detached",
            ]
            assert [e["event"] for e in others.seen] == [
                "watching", "attached", "detached", "denied",
            ]  # fmt: skip
            assert {e["uid"] for e in root.seen[1:]} == {USER, OTHER}
            assert len(root.seen) == 6
            assert all(e["reason"] is None for e in own.seen + others.seen)

    def test_two_users_may_have_guests_of_one_name(self, lab: Lab) -> None:
        with attach(lab, USER, name="web"), attach(lab, OTHER, name="web"):
            for uid in (USER, OTHER):
                with pytest.raises(errors.NameInUse):
                    attach(lab, uid, name="WEB")


@pytest.mark.parametrize(
    "request_",
    [
        {"bridge": "sixteen-bytes-xx"},
        {"bridge": ""},
        {"bridge": "a/b"},
        {"bridge": ".."},
        {"bridge": "a\0b"},
        {"bridge": "br7\n"},
        {"bridge": "br 7"},
        {"network": ""},
        {"network": "../x"},
        {"network": "x" * 64},
        {"network": "default", "bridge": "br7"},
        {"name": ""},
        {"name": "-a"},
        {"name": "a.b"},
        {"name": "a\nb"},
        {"name": "a,b"},
        {"name": "ä"},
        {"name": "x" * 64},
        {"mac": ""},
        {"mac": "52:54:00:12:34:5"},
        {"mac": "52-54-00-12-34-56"},
        {"mac": " 2:54:00:12:34:56"},
    ],
    ids=repr,
)
def test_a_request_that_cannot_be_meant_is_refused_as_such(
    lab: Lab, request_: dict[str, str]
) -> None:
    lab.bridge_conf("allow all\n")
    with broker(lab, USER) as wire, pytest.raises(errors.InvalidRequest):
        wire.call("Attach", request_)
    until_nothing_is_left(lab)
