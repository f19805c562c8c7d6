# SPDX-License-Identifier: LGPL-2.1-or-later
"""What polkit allows besides attaching, by the real polkitd: forwarding a port to
one's guest, and what other users have. It is asked about the very thing that is
done, and what is done is what it was asked about.

Shows cli/agent.
"""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from lab import OTHER, USER, Daemon, Lab, until, why_not
from support import host, polkit
from support.polkit import GROUPS, THIRD, Agent, Asker, Polkitd
from support.serving import open_directory

KVM, ADMINS = GROUPS["kvm"][0], GROUPS["dmz-admins"][0]  # alice's, carol's

CONFIG = """
[broker]
network_grace_seconds = 0.2

[networks.lan]

[[rules]]
networks = ["lan"]
effect = "polkit"

[[rules]]
networks = ["default"]
"""
MANAGED = f"""
[[rules]]
groups = [{ADMINS}]
networks = ["*"]
effect = "polkit"
manage = true
"""
# polkit's own rules: what the details are is what they go by.
RULES = """
polkit.addAdminRule(function() { return ["unix-user:0"]; });
polkit.addRule(function(action, subject) {
    var verb = action.lookup("verb"), guest = action.lookup("guest");
    var port = action.lookup("port"), network = action.lookup("network");
    if (action.id == "io.tapster.attach")
        return verb != "attach" ? polkit.Result.NO
             : guest == "vm1" || guest == "vm2" ? polkit.Result.AUTH_ADMIN
             : polkit.Result.YES;
    if (action.id == "io.tapster.forward")
        return verb != "add-forward" || network != "lan" ? polkit.Result.NO
             : port == "tcp/8080" && guest == "web" ? polkit.Result.YES
             : port == "tcp/8443" ? polkit.Result.AUTH_ADMIN
             : polkit.Result.NO;
    if (action.id == "io.tapster.manage")
        return verb == "list" && !network && !guest ? polkit.Result.YES
             : verb == "reload" && !network && !guest ? polkit.Result.AUTH_ADMIN
             : guest == "web" ? polkit.Result.YES
             : guest == "db" ? polkit.Result.AUTH_ADMIN
             : polkit.Result.NO;
});
"""


@pytest.fixture(scope="module")
def lab(this_machine_is_untouched: None) -> Iterator[Lab]:
    """In a directory that a broker which is not root can get at."""
    if reason := why_not() or polkit.why_not():
        pytest.skip(reason)
    with open_directory() as path, Lab(path) as made:
        made.config(CONFIG + MANAGED)
        yield made


@pytest.fixture(scope="module")
def daemon(lab: Lab, polkitd: Polkitd) -> Iterator[Daemon]:
    with polkit.broker_as_tapster(lab) as running:
        yield running


@pytest.fixture
def ready(lab: Lab, polkitd: Polkitd, daemon: Daemon) -> Iterator[Polkitd]:
    """A new bus and polkitd for each test; the broker is the same."""
    polkitd.rules(_50_tapster=RULES)
    try:
        polkitd.start()
        yield polkitd
    finally:
        polkitd.kill_bus()
    host.until_nothing_is_left(lab, networks=True)
    assert forwards(lab) == []


@pytest.fixture
def carol(lab: Lab, ready: Polkitd) -> Iterator[Asker]:
    """The only one whom the rule of managers is about."""
    with Asker(lab, THIRD) as asker:
        yield asker


def forwards(lab: Lab) -> list[tuple[int, str, str]]:
    rows = host.ask(lab, 0, "ListForwards")["forwards"]
    return [(row["uid"], row["port"], row["guest"]) for row in rows]


def call(asker: Asker, method: str, **parameters: Any) -> str:
    """The name of the error; "" if there is none."""
    asker.begin(method, **parameters)
    return ended(asker)


def ended(asker: Asker) -> str:
    return str(asker.end().get("error", ""))


def seen(asker: Asker) -> set[str]:
    asker.begin("List")
    return {nic["name"] for nic in asker.end()["nics"]}


def forward(asker: Asker, port: str, guest: str = "web", **more: Any) -> str:
    what = {"network": "lan", "port": port, "guest": guest, "guest_port": 80}
    return call(asker, "AddForward", **what, **more)


def remove(lab: Lab, uid: int, port: str) -> None:
    host.ask(lab, uid, "RemoveForward", {"network": "lan", "port": port})


@contextmanager
def asked(ready: Polkitd, asker: Asker, uid: int, message: str) -> Iterator[Any]:
    """What a person is asked meanwhile, by an agent of that process's; it yields
    what says yes."""
    with Agent(ready, asker.pid, uid) as agent:
        begun: Any = None

        def yes() -> None:
            agent.vouch(ready, begun.cookie)
            agent.finish(begun.cookie)

        def begin(method: str, **parameters: Any) -> Any:
            nonlocal begun
            asker.begin(method, interactive=True, **parameters)
            begun = agent.asked.get(timeout=10)
            assert begun.message == f"Authentication is required for {message}"
            return yes

        begin.agent = agent  # type: ignore[attr-defined]
        yield begin


class TestForward:
    """io.tapster.forward"""

    TO = "to forward tcp/8443 of this host to guest web on network lan"

    def test_a_rule_of_polkit_s_may_go_by_the_forwarded_port(
        self, lab: Lab, alice: Asker, daemon: Daemon
    ) -> None:
        assert forward(alice, "tcp/8080") == ""
        since = len(daemon.log)
        for port, guest in (("tcp/8081", "web"), ("tcp/8082", "web")):
            assert forward(alice, port, guest) == "ForwardRefused"
        assert forward(alice, "tcp/8080", "db") == "ForwardRefused"
        until("it is told", lambda: daemon.log[since:].count('"event": "denied"') == 3)
        assert "polkit does not allow it" in daemon.log[since:]
        assert forwards(lab) == [(USER, "tcp/8080", "web")]
        remove(lab, USER, "tcp/8080")

    def test_a_person_is_told_which_port_is_forwarded(
        self, lab: Lab, bob: Asker, ready: Polkitd
    ) -> None:
        assert forward(bob, "tcp/8443") == "ForwardRefused"  # nobody was offered
        what = {"network": "lan", "port": "tcp/8443", "guest": "web", "guest_port": 80}
        with asked(ready, bob, OTHER, f"bob {self.TO}") as begin:
            yes = begin("AddForward", **what)
            assert forwards(lab) == []
            yes()
            assert ended(bob) == ""
        assert forwards(lab) == [(OTHER, "tcp/8443", "web")]
        remove(lab, OTHER, "tcp/8443")

    def test_a_client_that_goes_has_forwarded_nothing(
        self, lab: Lab, bob: Asker, ready: Polkitd, daemon: Daemon
    ) -> None:
        what = {"network": "lan", "port": "tcp/8443", "guest": "web", "guest_port": 80}
        since = len(daemon.log)
        with asked(ready, bob, OTHER, f"bob {self.TO}") as begin:
            begin("AddForward", **what)
            bob.kill()
            begin.agent.cancelled.get(timeout=10)
        assert forwards(lab) == []
        until("on record", lambda: "its client went" in daemon.log[since:])

    def test_a_rule_that_is_removed_while_polkit_is_asked_does_not_count(
        self, lab: Lab, bob: Asker, ready: Polkitd, daemon: Daemon
    ) -> None:
        what = {"network": "lan", "port": "tcp/8443", "guest": "web", "guest_port": 80}
        with asked(ready, bob, OTHER, f"bob {self.TO}") as begin:
            yes = begin("AddForward", **what)
            with configured(lab, daemon, CONFIG.replace('"lan"', '"default"')):
                yes()
                assert ended(bob) == "NotAuthorized"
        assert forwards(lab) == []


class TestManage:
    """io.tapster.manage"""

    DB = "carol to manage guest db on network default"

    def test_lists_show_what_polkit_allows_to_see(
        self, alice: Asker, bob: Asker, carol: Asker, ready: Polkitd
    ) -> None:
        assert alice.attach("default", "web").startswith("tapster")
        assert forward(alice, "tcp/8080") == ""
        assert seen(bob) == set()
        assert seen(carol) == {"web"}
        carol.begin("ListForwards")
        assert [row["uid"] for row in carol.end()["forwards"]] == [USER]
        carol.begin("ListNetworks")
        told = carol.end()["networks"]
        assert (USER, "default") in [(row["uid"], row["name"]) for row in told]
        ready.kill_polkitd()
        assert seen(carol) == set()
        carol.begin("ListForwards")
        assert carol.end()["forwards"] == []
        assert call(alice, "RemoveForward", network="lan", port="tcp/8080") == ""

    def test_another_user_s_nic_is_detached_if_polkit_allows_it(
        self, lab: Lab, alice: Asker, bob: Asker, carol: Asker, ready: Polkitd
    ) -> None:
        web, db = (alice.attach("default", name) for name in ("web", "db"))
        for ifname in (web, db):
            assert call(bob, "Detach", ifname=ifname, interactive=True) == "NoSuchNic"
        assert call(carol, "Detach", ifname=web) == ""
        assert call(carol, "Detach", ifname=db) == "NoSuchNic"
        with asked(ready, carol, THIRD, self.DB) as begin:
            yes = begin("Detach", ifname=db)
            assert [nic["name"] for nic in host.nics(lab)] == ["db"]
            yes()
            assert ended(carol) == ""
        assert host.nics(lab) == []

    def test_polkit_allows_nothing_that_no_rule_gives_any_more(
        self, lab: Lab, alice: Asker, carol: Asker, ready: Polkitd, daemon: Daemon
    ) -> None:
        db = alice.attach("default", "db")
        with asked(ready, carol, THIRD, self.DB) as begin:
            yes = begin("Detach", ifname=db)
            with configured(lab, daemon, CONFIG):
                yes()
                assert ended(carol) == "NoSuchNic"
        assert [nic["name"] for nic in host.nics(lab)] == ["db"]

    def test_another_user_s_forward_is_removed_if_polkit_allows_it(
        self, lab: Lab, alice: Asker, bob: Asker, carol: Asker
    ) -> None:
        assert forward(alice, "tcp/8080") == ""
        what = {"network": "lan", "port": "tcp/8080"}
        assert call(bob, "RemoveForward", **what) == "NoSuchForward"
        assert forwards(lab) == [(USER, "tcp/8080", "web")]
        assert call(carol, "RemoveForward", **what) == ""
        assert forwards(lab) == []

    def test_polkit_is_asked_about_a_reload_in_its_own_words(
        self, bob: Asker, carol: Asker, ready: Polkitd, daemon: Daemon
    ) -> None:
        since = len(daemon.log)
        assert call(bob, "Reload", interactive=True) == "NotAuthorized"
        assert call(carol, "Reload") == "NotAuthorized"
        message = "carol to have the configuration of tapster's networks read anew"
        with asked(ready, carol, THIRD, message) as begin:
            yes = begin("Reload")
            assert '"reloaded"' not in daemon.log[since:]
            yes()
            assert ended(carol) == ""
        until("it is told", lambda: '"reloaded"' in daemon.log[since:])


class TestNames:
    def test_polkit_is_told_the_name_that_a_guest_without_one_gets(
        self, lab: Lab, alice: Asker, ready: Polkitd
    ) -> None:
        """The yes to vm1, which another guest has by then, is none to vm2."""
        to = "alice to attach guest {} to network lan"
        with (
            Asker(lab, USER) as second,
            asked(ready, alice, USER, to.format("vm1")) as begin,
            asked(ready, second, USER, to.format("vm1")) as begin_second,
        ):
            yes = begin("Attach", network="lan")
            begin_second("Attach", network="lan", name="vm1")()
            assert second.attached().startswith("tapster")
            yes()
            again = begin.agent.asked.get(timeout=10)
            assert again.message.endswith(to.format("vm2"))
            begin.agent.dismiss(again.cookie)
            assert alice.attached() == "NotAuthorized"
            assert [nic["name"] for nic in host.nics(lab)] == ["vm1"]


@contextmanager
def configured(lab: Lab, daemon: Daemon, text: str) -> Iterator[None]:
    """Another configuration for a while."""

    def read() -> None:
        since = len(daemon.log)
        daemon.process.send_signal(signal.SIGHUP)
        until("it is read", lambda: '"reloaded"' in daemon.log[since:])

    lab.config(text)
    try:
        read()
        yield
    finally:
        lab.config(CONFIG + MANAGED)
        read()
