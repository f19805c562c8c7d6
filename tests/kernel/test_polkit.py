# SPDX-License-Identifier: LGPL-2.1-or-later
"""effect = "polkit", with a real message bus and a real polkitd: what comes of a
request depends on the action file and the example of rules, as they are shipped.

The broker runs as tapster, as its unit has it, with three capabilities and no
other right; clients are processes with all their ids a user's own.
"""

from __future__ import annotations

import asyncio
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from jeepney import Message, new_method_call

from lab import CHECKOUT, OTHER, USER, Daemon, Lab, until, why_not
from support import host, polkit
from support.polkit import AUTHORITY, BUS, THIRD, Agent, Asker, Polkitd
from support.serving import bridges, open_directory
from tapster.daemon.decide.polkit import dbus as bus
from tapster.daemon.decide.polkit import messages as authority
from tapster.kernel import process

POLICY = CHECKOUT / "data/io.tapster.policy"
EXAMPLE = CHECKOUT / "data/50-tapster.rules.example"
DTD = Path("/usr/share/polkit-1/policyconfig-1.dtd")
ACTIONS = [f"io.tapster.{verb}" for verb in ("attach", "forward", "manage")]

CONFIG = """
[networks.lan]
mode = "bridge"
bridge = "br7"

[networks.dmz]
mode = "bridge"
bridge = "br8"

[networks.open]
mode = "bridge"
bridge = "br9"

[[rules]]
networks = ["lan", "dmz"]
effect = "polkit"

[[rules]]
networks = ["open"]
"""
# Who an administrator is, to polkit, is the distribution's to say.
ADMIN = 'polkit.addAdminRule(function() { return ["unix-user:0"]; });\n'


@pytest.fixture(scope="module")
def lab(this_machine_is_untouched: None) -> Iterator[Lab]:
    """In a directory that a broker which is not root can get at."""
    if reason := why_not() or polkit.why_not():
        pytest.skip(reason)
    with open_directory() as path, Lab(path) as made:
        made.config(CONFIG)
        with bridges(made, ["br7", "br8", "br9"]):
            yield made


@pytest.fixture(scope="module")
def daemon(lab: Lab, polkitd: Polkitd) -> Iterator[Daemon]:
    with polkit.broker_as_tapster(lab) as running:
        yield running


@pytest.fixture
def ready(polkitd: Polkitd, daemon: Daemon, clean: None) -> Iterator[Polkitd]:
    """A new bus and polkitd for each test; the broker is the same."""
    polkitd.rules(_40_admin=ADMIN, _50_tapster=EXAMPLE.read_text())
    try:
        polkitd.start()
        yield polkitd
    finally:
        polkitd.kill_bus()


def is_tap(answer: str) -> bool:
    return answer.startswith("tapster")


def reasons(daemon: Daemon, since: int) -> str:
    """What the log has more than so many bytes."""
    return daemon.log[since:]


def until_logged(daemon: Daemon, since: int, words: str) -> None:
    until(words, lambda: words in reasons(daemon, since))


# The files


def test_the_action_file_is_valid() -> None:
    if not DTD.exists():
        pytest.skip(f"no {DTD} (Debian: polkitd)")
    if shutil.which("xmllint") is None:
        pytest.skip("no xmllint (Debian: libxml2-utils)")
    done = subprocess.run(
        ["xmllint", "--noout", "--nonet", "--dtdvalid", DTD, POLICY],
        capture_output=True,
        text=True,
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_polkit_knows_the_actions(ready: Polkitd) -> None:
    with ready.connect() as connection:
        call = new_method_call(AUTHORITY, "EnumerateActions", "s", ("",))
        (found,) = connection.send_and_get_reply(call, timeout=10).body
    assert sorted(action[0] for action in found) == ACTIONS
    for action in found:
        assert action[2].startswith("Authentication is required to ")
        assert action[6:9] == (2, 2, 2)  # an administrator's, and not kept
        assert action[9] == {"org.freedesktop.policykit.owner": "unix-user:tapster"}


# What rules of polkit's decide


def test_a_rule_of_polkit_s_may_say_yes(alice: Asker) -> None:
    assert is_tap(alice.attach("lan", "web-1"))


def test_a_rule_of_polkit_s_may_go_by_the_details(alice: Asker, daemon: Daemon) -> None:
    since = len(daemon.log)
    assert alice.attach("lan", "mail") == "NotAuthorized"
    until_logged(daemon, since, "polkit wants authentication")
    assert alice.attach("dmz", "web-1") == "NotAuthorized"
    until_logged(daemon, since, "polkit does not allow it")
    assert is_tap(alice.attach("lan", "web-1"))


def test_a_rule_of_polkit_s_may_go_by_groups(bob: Asker, daemon: Daemon) -> None:
    since = len(daemon.log)
    assert bob.attach("lan", "web-1") == "NotAuthorized"
    until_logged(daemon, since, "did not offer")


def test_only_members_of_its_group_get_to_the_dmz(
    lab: Lab, ready: Polkitd, alice: Asker
) -> None:
    assert alice.attach("dmz", "web-1", interactive=True) == "NotAuthorized"
    with Asker(lab, THIRD) as carol, Agent(ready, carol.pid, THIRD) as agent:
        carol.begin("Attach", network="dmz", name="gate", interactive=True)
        asked = agent.asked.get(timeout=10)
        assert asked.identities == [0]  # an administrator
        agent.vouch(ready, asked.cookie)
        agent.finish(asked.cookie)
        assert is_tap(carol.attached())


def test_polkit_is_not_asked_about_what_a_rule_of_ours_allows(bob: Asker) -> None:
    assert is_tap(bob.attach("open", "web-1"))


def test_a_rule_of_polkit_s_that_is_removed_allows_nothing_more(
    alice: Asker, ready: Polkitd
) -> None:
    ready.kill_polkitd()
    ready.rules(_40_admin=ADMIN)
    ready.start()
    assert alice.attach("lan", "web-1") == "NotAuthorized"


# A person is asked


class Asked(NamedTuple):
    agent: Agent
    message: str
    cookie: str


@pytest.fixture
def asked(bob: Asker, ready: Polkitd) -> Iterator[Asked]:
    """bob's agent has been asked whether his guest may be on the LAN."""
    with Agent(ready, bob.pid, OTHER) as agent:
        bob.begin("Attach", network="lan", name="db", interactive=True)
        begun = agent.asked.get(timeout=10)
        assert begun.action == "io.tapster.attach"
        yield Asked(agent, begun.message, begun.cookie)


def test_a_user_who_authenticates_is_allowed(
    asked: Asked, bob: Asker, ready: Polkitd
) -> None:
    assert asked.message == (
        "Authentication is required for bob to attach guest db to network lan"
    )
    asked.agent.vouch(ready, asked.cookie)
    asked.agent.finish(asked.cookie)
    assert is_tap(bob.attached())
    # It was for once: nothing is kept for the next, whatever its details.
    assert bob.attach("lan", "db2") == "NotAuthorized"
    assert asked.agent.asked.empty()


def test_a_user_who_does_not_authenticate_is_denied(
    asked: Asked, bob: Asker, daemon: Daemon
) -> None:
    since = len(daemon.log)
    asked.agent.finish(asked.cookie)
    assert bob.attached() == "NotAuthorized"
    until_logged(daemon, since, "polkit does not allow it")


def test_a_user_who_dismisses_the_dialogue_is_denied(
    asked: Asked, bob: Asker, daemon: Daemon
) -> None:
    since = len(daemon.log)
    asked.agent.dismiss(asked.cookie)
    assert bob.attached() == "NotAuthorized"
    until_logged(daemon, since, "dismissed")


def test_nobody_is_asked_for_a_password_without_having_offered(
    bob: Asker, ready: Polkitd
) -> None:
    with Agent(ready, bob.pid, OTHER) as agent:
        assert bob.attach("lan", "db") == "NotAuthorized"
        assert agent.asked.empty()


def test_nobody_is_asked_for_a_password_for_what_is_refused_anyway(
    bob: Asker, ready: Polkitd
) -> None:
    with Agent(ready, bob.pid, OTHER) as agent:
        assert bob.attach("dmz", "db", interactive=True) == "NotAuthorized"
        assert agent.asked.empty()


def test_without_an_agent_nobody_can_be_asked(bob: Asker, daemon: Daemon) -> None:
    since = len(daemon.log)
    assert bob.attach("lan", "db", interactive=True) == "NotAuthorized"
    until_logged(daemon, since, "has no agent")


def test_others_do_not_wait_while_a_person_is_asked(
    lab: Lab, asked: Asked, alice: Asker, bob: Asker, ready: Polkitd
) -> None:
    assert is_tap(alice.attach("open", "a"))
    assert is_tap(alice.attach("lan", "web-2"))  # polkit is asked about another
    with Asker(lab, OTHER) as second, Asker(lab, THIRD) as carol:
        assert is_tap(second.attach("open", "b"))
        assert second.attach("lan", "c") == "NotAuthorized"
        assert is_tap(carol.attach("open", "d"))
        asked.agent.vouch(ready, asked.cookie)
        asked.agent.finish(asked.cookie)
        assert is_tap(bob.attached())


def test_a_client_that_dies_has_its_dialogue_closed(
    lab: Lab, asked: Asked, bob: Asker, ready: Polkitd, daemon: Daemon
) -> None:
    bob.kill()
    assert asked.agent.cancelled.get(timeout=10) == asked.cookie
    with pytest.raises(RuntimeError, match="No session for cookie"):
        asked.agent.vouch(ready, asked.cookie)
    with Asker(lab, OTHER) as again:
        assert is_tap(again.attach("open", "db"))
        assert len(host.nics(lab)) == 1


# What goes wrong


def test_a_polkitd_that_dies_is_no_and_the_next_is_asked(
    asked: Asked, alice: Asker, bob: Asker, ready: Polkitd, daemon: Daemon
) -> None:
    since = len(daemon.log)
    ready.kill_polkitd()
    assert bob.attached() == "NotAuthorized"
    until_logged(daemon, since, "polkit can't say")
    assert alice.attach("lan", "web-1") == "NotAuthorized"  # there is none
    assert is_tap(alice.attach("open", "web-1"))
    ready.start()
    assert is_tap(alice.attach("lan", "web-3"))


def test_a_bus_that_dies_is_no_and_the_next_is_used(
    asked: Asked, alice: Asker, bob: Asker, ready: Polkitd, daemon: Daemon
) -> None:
    since = len(daemon.log)
    ready.kill_bus()
    assert bob.attached() == "NotAuthorized"
    until_logged(daemon, since, "the bus is gone")
    assert alice.attach("lan", "web-1") == "NotAuthorized"  # there is none
    until_logged(daemon, since, "no bus at")
    assert is_tap(alice.attach("open", "web-1"))
    ready.start()
    assert is_tap(alice.attach("lan", "web-3"))


def test_a_client_that_ended_before_it_asked_is_denied(
    lab: Lab, ready: Polkitd, daemon: Daemon
) -> None:
    """Its connection is in another process's hands."""
    since = len(daemon.log)
    with Asker(lab, USER, "--orphan") as asker:
        assert is_tap(asker.attach("open", "web-1"))
        assert asker.attach("lan", "web-2") == "NotAuthorized"
    text = reasons(daemon, since)
    assert "process is gone" in text or "no pidfd" in text


# The subject, told to polkit itself


class Told:
    """As `daemon.subject.Subject`, with whatever a test wants to be believed."""

    def __init__(self, pid: int, started: int, uid: int, pidfd: int) -> None:
        self.pid, self.started, self.uid, self.pidfd = pid, started, uid, pidfd


def put(address: str, *subjects: Any) -> list[tuple[bool, str]]:
    """polkit's answers to the example's yes, about each of these."""

    async def ask() -> list[tuple[bool, str]]:
        connection = await bus.connect(address)
        try:
            replies: list[Message] = [
                await connection.call(
                    authority.check(
                        subject,
                        "io.tapster.attach",
                        {"network": "lan", "guest": "web-1"},
                        False,
                        f"{number}",
                    )
                )
                for number, subject in enumerate(subjects)
            ]
        finally:
            connection.close("done")
        return [authority.understand(reply, False) for reply in replies]

    return asyncio.run(ask())


def test_polkit_refuses_a_process_that_is_not_the_one_it_is_told_of(
    lab: Lab, alice: Asker
) -> None:
    started = process.start_time(alice.pid)
    assert started is not None
    with open("/dev/null") as none:
        right, later, earlier, gone = put(
            f"unix:path={host.inside(lab, BUS)}",
            Told(alice.pid, started, USER, none.fileno()),
            Told(alice.pid, started + 1, USER, none.fileno()),
            Told(alice.pid, started - 1, USER, none.fileno()),
            Told(2**22 + 1, started, USER, none.fileno()),
        )
    if right[0]:  # one that goes by pidfd does not take /dev/null for one
        assert not later[0]
        assert not earlier[0]
    assert not gone[0]


def test_a_forward_takes_the_users_own_password(alice: Asker, ready: Polkitd) -> None:
    """By the example, for who is in kvm."""

    async def ask(agent: Agent) -> None:
        started = process.start_time(alice.pid)
        assert started is not None
        connection = await bus.connect(f"unix:path={host.inside(ready.lab, BUS)}")
        pidfd = os.pidfd_open(alice.pid)
        try:
            subject: Any = Told(alice.pid, started, USER, pidfd)
            what = {"user": "alice", "network": "lan"}
            reply = connection.call(
                authority.check(subject, "io.tapster.forward", what, True, "1")
            )
            begun = await asyncio.to_thread(agent.asked.get, timeout=10)
            assert begun.identities == [USER]
            assert begun.message == (
                "Authentication is required for alice to forward a port of this host"
                " to a guest on network lan"
            )
            agent.dismiss(begun.cookie)
            assert "dismissed" in authority.understand(await reply, True)[1]
        finally:
            os.close(pidfd)
            connection.close("done")

    with Agent(ready, alice.pid, USER) as agent:
        asyncio.run(ask(agent))


REUSED = """
import os, socket, sys, time
from tapster.daemon.identify import peer
from tapster.daemon.decide.polkit.subject import Subject, Unclear

def fork(work):
    child = os.fork()
    if child == 0:
        work()
        os._exit(0)
    return child

listening, sock = socket.socket(socket.AF_UNIX), socket.socket(socket.AF_UNIX)
listening.bind("\\0tapster-test-polkit")
listening.listen()
first = fork(lambda: sock.connect("\\0tapster-test-polkit"))
os.waitpid(first, 0)
accepted, _ = listening.accept()

class Caller:
    peer = peer.identify(accepted)
    accepted = time.clock_gettime(time.CLOCK_BOOTTIME)
    def pidfd(self):
        return peer.pidfd(accepted)

class Older(Caller):
    def pidfd(self):
        raise OSError(92, "Protocol not available")  # ENOPROTOOPT

assert Caller.peer.pid == first
time.sleep(0.05)  # some clock ticks
with open("/proc/sys/kernel/ns_last_pid", "w") as file:
    file.write(str(first - 1))
second = fork(lambda: time.sleep(60))
assert second == first, (first, second)
for caller in (Caller(), Older()):
    try:
        Subject(caller.peer, caller)
        print("taken for the first")
    except Unclear as err:
        print(err)
os.kill(second, 9)
"""


@pytest.mark.skipif(
    not os.path.exists("/proc/sys/kernel/ns_last_pid"),
    reason="the kernel lets nobody choose a pid (CONFIG_CHECKPOINT_RESTORE)",
)
def test_a_process_that_has_got_a_client_s_pid_is_not_taken_for_it() -> None:
    if reason := why_not():
        pytest.skip(reason)
    done = subprocess.run(
        ["unshare", "--pid", "--net", "--fork", "--mount-proc", "--kill-child",
         sys.executable, "-c", REUSED],
        capture_output=True, text=True, timeout=30,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    exact, older = done.stdout.splitlines()
    assert "gone" in exact or "no pidfd" in exact
    assert "another process's by now" in older
