# SPDX-License-Identifier: LGPL-2.1-or-later
"""The policy's words on the real broker: names, totals, time, managers, and what
a configuration that is wrong does not open.

Shows daemon/api/service.
"""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import ExitStack

import pytest

from lab import OTHER, USER, Daemon, Lab, until
from support.host import (
    Watcher,
    ask,
    attach,
    broker,
    links,
    nics,
)
from support.managing import forward, forwards, network, reload, remove
from support.serving import bridges, serving
from tapster import errors

THIRD = 3000  # a user that has nothing
STAFF = 4711  # a group

BEGINNING = """
[broker]
network_grace_seconds = 0.2
[networks.office]
scope = "shared"
isolation = false
[networks.lab]
[networks.small]
scope = "shared"
max_nics = 3
"""
RULES = f"""
[[rules]]                      # 11
networks = ["default", "small"]
[[rules]]                      # 13
users = [{USER}]
networks = ["office"]
guests = ["web-*", "vm?"]
max_nics = 2
[[rules]]                      # 18
users = [{USER}]
networks = ["office", "lab"]
guests = ["db"]
[[rules]]                      # 22
users = [{USER}, {OTHER}]
networks = ["*"]
effect = "deny"
guests = ["gateway"]
[[rules]]                      # 27
groups = [{STAFF}]
networks = ["*"]
manage = true
[[rules]]                      # 31
users = [{OTHER}]
networks = ["office"]
ttl = 3
[[rules]]                      # 35
users = [{OTHER}]
bridges = ["br7"]
max_nics = 1
"""


@pytest.fixture(scope="module")
def daemon(lab: Lab) -> Iterator[Daemon]:
    lab.bridge_conf("")
    with bridges(lab, ["br7"]), serving(lab, BEGINNING + RULES) as running:
        yield running


def denied(lab: Lab, uid: int, **what: str) -> str:
    with pytest.raises(errors.NotAuthorized) as caught:
        attach(lab, uid, **what).close()
    return caught.value.oneline()


class TestNames:
    def test_a_rule_for_some_guests_names_is_for_no_others(
        self, lab: Lab, held: ExitStack
    ) -> None:
        for name in ("web-1", "db", None):
            held.enter_context(attach(lab, USER, network="office", name=name))
        for name in ("web", "mail", "db2"):
            denied(lab, USER, network="office", name=name)
        denied(lab, USER, network="lab", name="web-1")
        denied(lab, USER, network="lab")
        held.enter_context(attach(lab, USER, network="lab", name="DB"))

    def test_a_name_that_is_given_is_judged_like_one_that_is_asked_for(
        self, lab: Lab, held: ExitStack
    ) -> None:
        """vm1 to vm9 fit vm?, the next one would be vm10: but there are but two."""
        held.enter_context(attach(lab, USER, network="office"))
        held.enter_context(attach(lab, USER, network="office"))
        with pytest.raises(errors.QuotaExceeded):
            attach(lab, USER, network="office").close()

    def test_a_name_that_is_denied_is_denied_everywhere(
        self, lab: Lab, held: ExitStack
    ) -> None:
        for where in ("default", "small", "office"):
            denied(lab, USER, network=where, name="gateway")
        held.enter_context(attach(lab, THIRD, name="gateway"))


class TestQuotas:
    def test_a_quota_counts_what_its_rule_is_about_and_no_more(
        self, lab: Lab, held: ExitStack
    ) -> None:
        held.enter_context(attach(lab, USER, network="office", name="web-1"))
        held.enter_context(attach(lab, USER, network="office", name="web-2"))
        with pytest.raises(errors.QuotaExceeded, match=r"\(2\)"):
            attach(lab, USER, network="office", name="web-3").close()
        # Another rule's guest, and other networks, are not of this rule.
        held.enter_context(attach(lab, USER, network="office", name="db"))
        held.enter_context(attach(lab, USER, name="web-3"))

    def test_a_network_has_a_quota_for_all_users(
        self, lab: Lab, held: ExitStack
    ) -> None:
        first = attach(lab, USER, network="small")
        with first:
            for uid in (OTHER, THIRD):
                held.enter_context(attach(lab, uid, network="small"))
            for uid in (USER, OTHER, 0):
                with pytest.raises(errors.QuotaExceeded, match="network has all"):
                    attach(lab, uid, network="small").close()
        held.enter_context(attach(lab, OTHER, network="small"))

    def test_a_rule_for_a_bridge_has_a_quota_of_its_own(
        self, lab: Lab, held: ExitStack
    ) -> None:
        held.enter_context(attach(lab, OTHER, bridge="br7"))
        with pytest.raises(errors.QuotaExceeded):
            attach(lab, OTHER, bridge="br7").close()
        denied(lab, USER, bridge="br7")


class TestTime:
    def test_a_nic_is_taken_away_when_its_time_is_over(
        self, lab: Lab, daemon: Daemon, held: ExitStack
    ) -> None:
        with Watcher(lab, OTHER) as watcher:
            nic = held.enter_context(attach(lab, OTHER, network="office", name="a"))
            (listed,) = nics(lab, OTHER)
            assert listed["expires"] is not None
            mine = held.enter_context(attach(lab, USER, network="office", name="db"))
            event = watcher.wait("expired")
            assert event["ifname"] == nic.ifname
            watcher.wait("detached", ifname=nic.ifname)
        assert links(lab.host, "tapster") == [mine.ifname]
        assert [row["expires"] for row in nics(lab)] == [None]


class TestManagers:
    """Of the group STAFF, on all networks but not on Linux bridges."""

    def test_a_manager_sees_and_changes_what_is_others(
        self, lab: Lab, held: ExitStack
    ) -> None:
        nic = held.enter_context(attach(lab, USER, name="web"))
        forward(lab, USER, "tcp/8080", "web", 80)
        with broker(lab, THIRD, (STAFF,)) as manager, Watcher(lab, USER) as watcher:
            (seen,) = manager.call("List", {})[0]["nics"]
            assert (seen["ifname"], seen["uid"]) == (nic.ifname, USER)
            (row,) = manager.call("ListForwards", {})[0]["forwards"]
            assert row["uid"] == USER
            shown = manager.call("ListNetworks", {})[0]["networks"]
            assert USER in [network["uid"] for network in shown]
            manager.call("RemoveForward", {"port": "tcp/8080"})
            event = watcher.wait("forward-removed")
            assert (event["port"], event["uid"]) == ("tcp/8080", THIRD)
            manager.call("Detach", {"ifname": nic.ifname})
            assert watcher.wait("detached")["uid"] == THIRD
        assert links(lab.host, "tapster") == []
        assert forwards(lab, USER) == {}

    def test_a_manager_sees_events_of_others(self, lab: Lab, held: ExitStack) -> None:
        with Watcher(lab, THIRD, (STAFF,)) as watcher:
            held.enter_context(attach(lab, OTHER, bridge="br7"))
            nic = held.enter_context(attach(lab, USER))
            event = watcher.next()
            assert (event["event"], event["ifname"]) == ("attached", nic.ifname)

    def test_a_manager_is_nobody_on_other_networks(
        self, lab: Lab, held: ExitStack
    ) -> None:
        nic = held.enter_context(attach(lab, OTHER, bridge="br7"))
        with broker(lab, THIRD, (STAFF,)) as manager:
            assert manager.call("List", {})[0]["nics"] == []
            with pytest.raises(errors.NoSuchNic):
                manager.call("Detach", {"ifname": nic.ifname})
        assert links(lab.host, "tapster") == [nic.ifname]

    def test_a_manager_of_all_networks_may_reload(
        self, lab: Lab, held: ExitStack
    ) -> None:
        with broker(lab, THIRD, (STAFF,)) as manager:
            manager.call("Reload", {})
        with broker(lab, THIRD) as nobody, pytest.raises(errors.NotAuthorized):
            nobody.call("Reload", {})


class TestOwnership:
    """What is another's can neither be changed nor seen, however it is named."""

    def test_nics_are_their_owner_s_to_see_and_to_end(
        self, lab: Lab, held: ExitStack
    ) -> None:
        nic = held.enter_context(attach(lab, USER, name="web"))
        assert nics(lab, OTHER) == []
        guesses = [nic.ifname, "web", str(USER), "tapstern0000000", "*", ""]
        refusals = set()
        for guess in guesses:
            with pytest.raises(errors.NoSuchNic) as caught:
                ask(lab, OTHER, "Detach", {"ifname": guess})
            refusals.add(caught.value.oneline())
        assert len(refusals) == 1
        # The same name is free for another user, on networks of their own.
        held.enter_context(attach(lab, OTHER, name="web"))
        assert network(lab, OTHER, "default")["nics"] == 1

    def test_forwards_are_their_owner_s_to_see_and_to_end(
        self, lab: Lab, held: ExitStack
    ) -> None:
        held.enter_context(attach(lab, USER, name="web"))
        forward(lab, USER, "tcp/8080", "web", 80)
        assert forwards(lab, OTHER) == {}
        with pytest.raises(errors.NoSuchForward) as caught:
            remove(lab, OTHER, "tcp/8080")
        with pytest.raises(errors.NoSuchForward) as other:
            remove(lab, OTHER, "tcp/8081")
        one, two = caught.value.oneline(), other.value.oneline()
        assert one.replace("8080", "8081") == two
        assert set(forwards(lab, USER)) == {"tcp/8080"}
        remove(lab, USER, "tcp/8080")

    def test_a_user_hears_of_its_own_denials_only(
        self, lab: Lab, held: ExitStack
    ) -> None:
        """They are the same for what is another's and for what is not there."""
        nic = held.enter_context(attach(lab, USER, name="web"))
        forward(lab, USER, "tcp/8080", "web", 80)
        heard = []
        with Watcher(lab, OTHER) as watcher:
            for ifname, port in ((nic.ifname, 8080), ("tapstern0000000", 8081)):
                with pytest.raises(errors.NoSuchNic):
                    ask(lab, OTHER, "Detach", {"ifname": ifname})
                heard.append(watcher.wait("denied"))
                with pytest.raises(errors.NoSuchForward):
                    remove(lab, OTHER, f"tcp/{port}")
                heard.append(watcher.wait("denied"))
        same = [
            {
                key: str(value).replace("8081", "8080").replace(nic.ifname, "X")
                for key, value in event.items()
                if key not in ("time", "ifname")
            }
            for event in heard
        ]
        assert same[:2] == same[2:]
        assert [event["ifname"] for event in heard] == [
            nic.ifname, None, "tapstern0000000", None
        ]  # fmt: skip
        remove(lab, USER, "tcp/8080")

    def test_a_user_hears_of_its_own_events_only(
        self, lab: Lab, held: ExitStack
    ) -> None:
        with Watcher(lab, OTHER) as watcher:
            held.enter_context(attach(lab, USER, name="web"))
            forward(lab, USER, "tcp/8080", "web", 80)
            remove(lab, USER, "tcp/8080")
            denied(lab, USER, network="nowhere")
            mine = held.enter_context(attach(lab, OTHER))
            event = watcher.next()
            assert (event["event"], event["ifname"]) == ("attached", mine.ifname)


class TestRefusals:
    def test_refusals_look_the_same_whatever_exists(
        self, lab: Lab, daemon: Daemon
    ) -> None:
        lab.bridge_conf("deny br7\n")
        try:
            told = {
                key: denied(lab, THIRD, **{key.partition("=")[0]: name}).replace(
                    name, "NAME"
                )
                for key, name in (
                    ("network=another's", "office"),
                    ("network=none", "nowhere"),
                    ("bridge=denied", "br7"),
                    ("bridge=none", "br9"),
                    ("bridge=no bridge", "eth0"),
                    ("bridge=ours", "tapbr0"),
                    ("bridge=a network", "lab"),
                )
            }
        finally:
            lab.bridge_conf("")
        assert len(set(told.values())) == 1, told
        # The log has the truth.
        until("all are told", lambda: daemon.log.count('"denied"') >= len(told))

    def test_a_refusal_does_not_tell_that_a_name_is_taken(
        self, lab: Lab, held: ExitStack
    ) -> None:
        held.enter_context(attach(lab, USER, network="office", name="web-1"))
        one = denied(lab, THIRD, network="office", name="web-1")
        two = denied(lab, THIRD, network="office", name="web-2")
        assert one == two


class TestBrokenFiles:
    def test_the_old_policy_stays_where_a_reloaded_file_is_broken(
        self, lab: Lab, daemon: Daemon, held: ExitStack
    ) -> None:
        lab.config(BEGINNING + '[[rules]]\nnetworks = ["*", "lba"]\n')
        try:
            with pytest.raises(errors.ConfigInvalid, match=r"lba.*did you mean"):
                reload(lab)
            denied(lab, THIRD, network="office")
            held.enter_context(attach(lab, USER, network="office", name="db"))
            daemon.process.send_signal(signal.SIGHUP)
            until("it is told", lambda: daemon.log.count("stays as it was") == 2)
            denied(lab, THIRD, network="office")
        finally:
            lab.config(BEGINNING + RULES)
            reload(lab)
