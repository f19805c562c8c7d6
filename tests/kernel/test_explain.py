# SPDX-License-Identifier: LGPL-2.1-or-later
"""`tapster explain` against a real broker: what it says is what a request gets,
and who may not have something learns no more from it than from the request.

Shows daemon/api.
"""

from __future__ import annotations

import json
import os
import shlex
from collections.abc import Iterator
from contextlib import ExitStack
from typing import Any

import pytest

from lab import OTHER, USER, Daemon, Lab, until
from support.host import (
    SOCKET_NAME,
    as_user,
    attach,
    broker,
    links,
    nics,
    ruleset,
)
from support.managing import forward, remove
from support.serving import bridges, serving
from tapster import errors
from tapster.client import manage

STAFF = 4711  # a group that alice is in by the group file, and not by its processes
PATH = "/run/config/tapster.toml"
CONFIG = f"""
[broker]
network_grace_seconds = 0.2
[networks.default]
[networks.office]
[networks.pair]
[networks.small]
scope = "shared"
max_nics = 1
[networks.staff]
[networks.hidden]

[[rules]]  # of others
users = [{OTHER}]
networks = ["office"]
[[rules]]  # of gateways
networks = ["office"]
guests = ["gateway"]
effect = "deny"
[[rules]]  # of the web
users = ["alice"]
networks = ["office"]
guests = ["web*"]
macs = ["52:54:00:*"]
max_nics = 3
forward = ["tcp/8000-8999"]
[[rules]]  # behind
users = ["alice"]
networks = ["office"]
guests = ["web*", "db"]
[[rules]]  # of the default
networks = ["default"]
[[rules]]  # of pairs
networks = ["pair", "small"]
max_nics = 2
[[rules]]  # of staff
groups = [{STAFF}]
networks = ["staff"]
[[rules]]  # of br7
users = ["alice"]
bridges = ["br7"]
max_nics = 1
[[rules]]  # of br5
bridges = ["br5"]
effect = "deny"
"""
BRIDGE_CONF = "allow br5\nallow br6\ndeny br8\nallow br7\n"
BRIDGES = ("br5", "br6", "br7", "br8", "br9")
GOOD, BAD = "52:54:00:00:00:01", "0a:00:00:00:00:01"


def place(of: str) -> str:
    """Where a rule of CONFIG stands."""
    return f"{PATH}:{CONFIG.splitlines().index(f'[[rules]]  # {of}') + 1}"


@pytest.fixture(scope="module")
def daemon(lab: Lab) -> Iterator[Daemon]:
    lab.bridge_conf(BRIDGE_CONF)
    with bridges(lab, BRIDGES):
        lab.host.run(
            "sh", "-ec",
            "ip link property add dev br6 altname office-lan;"
            "ip link add d0 type veth peer name d1;"
            "cp /etc/passwd /etc/group /run;"
            f"echo 'alice:x:{USER}:{USER}::/:/bin/sh' >> /run/passwd;"
            f"echo 'staffers:x:{STAFF}:alice' >> /run/group;"
            "for f in passwd group; do mount --bind /run/$f /etc/$f; done",
        )  # fmt: skip
        with serving(lab, CONFIG) as running:
            yield running
        lab.host.run("ip", "link", "del", "d0")


def explain(
    lab: Lab, uid: int, user: str | None = None, **asked: str | None
) -> dict[str, Any]:
    with as_user(lab, uid):
        return manage.explain(user, **asked, socket=SOCKET_NAME)


def outcomes(told: dict[str, Any]) -> dict[str, str]:
    """What came of each rule, by its place, in their order."""
    return {step["place"]: step["outcome"] for step in told["steps"]}


# Root about alice -------------------------------------------------------------


class TestRoot:
    def test_root_is_told_which_rule_decides_and_which_were_passed_over(
        self, lab: Lab, held: ExitStack
    ) -> None:
        told = explain(lab, 0, "alice", network="office", name="WEB1")
        assert (told["user"], told["uid"], told["allowed"]) == ("alice", USER, True)
        assert told["rule"] == place("of the web")
        assert told["reason"] == f"allowed by {place('of the web')}"
        assert list(outcomes(told).items()) == [
            (place("of others"), "not about this user"),
            (place("of gateways"), "not for a guest named web1"),
            (place("of the web"), "decides"),
            (place("behind"), "passed over: an earlier rule decides"),
        ]
        effects = [step["effect"] for step in told["steps"]]
        assert effects == ["allow", "deny", "allow", "allow"]
        told = explain(lab, 0, "alice", network="office", name="web1", mac=BAD)
        assert told["rule"] == place("behind")
        assert outcomes(told)[place("of the web")] == f"not for the MAC {BAD}"

    def test_root_is_told_why_not(self, lab: Lab, held: ExitStack) -> None:
        told = explain(lab, 0, "alice", network="office", name="gateway")
        assert (told["allowed"], told["rule"]) == (False, place("of gateways"))
        assert outcomes(told)[place("of gateways")] == "decides"
        told = explain(lab, 0, "alice", network="office", name="mail")
        assert (told["allowed"], told["rule"]) == (False, None)
        assert outcomes(told)[place("behind")] == "not for a guest named mail"
        assert place("of the web") in told["reason"]
        told = explain(lab, 0, "alice", network="hidden")
        assert told["reason"] == "no rule allows network hidden"
        assert told["steps"] == []
        told = explain(lab, 0, "alice", network="gone")
        assert told["reason"] == "no such network or bridge"

    def test_root_is_told_which_line_of_bridge_conf_decides(
        self, lab: Lab, held: ExitStack
    ) -> None:
        told = explain(lab, 0, "alice", bridge="br6")
        assert told["allowed"] and told["rule"] == "/etc/qemu/bridge.conf:2"
        assert (told["max_nics"], told["steps"]) == (None, [])
        told = explain(lab, 0, "alice", bridge="br8")
        assert not told["allowed"] and told["rule"] == "/etc/qemu/bridge.conf:3"
        told = explain(lab, 0, "alice", bridge="br9")
        assert (told["allowed"], told["rule"]) == (False, None)

    def test_root_is_told_how_much_of_a_quota_is_left(
        self, lab: Lab, held: ExitStack
    ) -> None:
        def counts(**asked: str) -> list[int | None]:
            told = explain(lab, 0, "alice", **asked)
            keys = ("max_nics", "nics", "network_max_nics", "network_nics")
            return [told[key] for key in keys]

        assert counts(network="office", name="web1") == [3, 0, None, None]
        held.enter_context(attach(lab, USER, network="office", name="web1", mac=GOOD))
        held.enter_context(attach(lab, OTHER, network="office", name="web2"))
        assert counts(network="office", name="web2") == [3, 1, None, None]
        assert counts(network="small") == [2, 0, 1, 0]
        held.enter_context(attach(lab, OTHER, network="small"))
        assert counts(network="small") == [2, 0, 1, 1]
        told = explain(lab, 0, "alice", network="small")
        assert (told["allowed"], told["rule"]) == (False, place("of pairs"))

    def test_root_is_told_which_ports_may_be_forwarded(
        self, lab: Lab, held: ExitStack
    ) -> None:
        asked = {"network": "office", "name": "web1"}
        told = explain(lab, 0, "alice", **asked, forward="tcp/8080")
        assert told["allowed"] and told["rule"] == place("of the web")
        told = explain(lab, 0, "alice", **asked, forward="udp/8080")
        assert not told["allowed"]
        assert told["reason"] == (
            f"udp/8080 is not among what {place('of the web')} allows: tcp/8000-8999"
        )

    def test_root_s_answer_goes_by_the_group_file_and_a_user_s_by_its_own_groups(
        self, lab: Lab, held: ExitStack
    ) -> None:
        assert explain(lab, 0, "alice", network="staff")["allowed"]
        assert not explain(lab, USER, network="staff")["allowed"]
        assert not explain(lab, USER, "alice", network="staff")["allowed"]
        with pytest.raises(errors.NotAuthorized):
            attach(lab, USER, network="staff").close()
        with broker(lab, USER, (STAFF,)) as wire:
            parameters = {"user": str(USER), "network": "staff"}
            told = wire.call("Explain", parameters)[0]["explanation"]
        assert told["allowed"] and told["rule"] == place("of staff")
        attach(lab, USER, [STAFF], network="staff").close()

    def test_root_may_ask_about_a_number_without_an_account_but_no_such_name(
        self, lab: Lab, held: ExitStack
    ) -> None:
        told = explain(lab, 0, "3000", network="pair")
        assert (told["user"], told["uid"], told["allowed"]) == ("3000", 3000, True)
        for user in ("nobody-of-that-name", "-1", "", "4294967295", "9" * 5000, "a\0"):
            with broker(lab, 0) as wire, pytest.raises(errors.InvalidRequest) as no:
                wire.call("Explain", {"user": user})
            assert no.value.message == "user: there is no such user"

    def test_asking_changes_nothing(self, lab: Lab, held: ExitStack) -> None:
        before = links(lab.host, ""), ruleset(lab.host)
        for asked in ({}, {"network": "small"}, {"bridge": "br7"}):
            assert explain(lab, 0, "alice", **asked)["allowed"]
        assert (links(lab.host, ""), ruleset(lab.host)) == before


# Alice about herself ----------------------------------------------------------

ALLOWED, DENIED, FULL = "allowed", "denied", "full"
SITUATIONS: list[tuple[dict[str, str | None], str]] = [
    ({}, ALLOWED),
    ({"bridge": "qemubr0"}, ALLOWED),
    ({"network": "office", "name": "web1", "mac": GOOD}, ALLOWED),
    ({"network": "office", "name": "web1", "mac": BAD}, ALLOWED),
    ({"network": "office", "name": "db"}, ALLOWED),
    ({"network": "office"}, DENIED),  # vm1
    ({"network": "office", "name": "mail"}, DENIED),
    ({"network": "office", "name": "Gateway"}, DENIED),
    ({"network": "hidden"}, DENIED),
    ({"network": "staff"}, DENIED),
    ({"network": "gone"}, DENIED),
    ({"network": "br6"}, DENIED),
    ({"network": "pair"}, FULL),
    ({"network": "pair", "name": "x"}, FULL),
    ({"network": "small"}, FULL),
    ({"bridge": "br5"}, DENIED),  # by a rule, though bridge.conf allows it
    ({"bridge": "br6"}, ALLOWED),
    ({"bridge": "br7"}, ALLOWED),
    ({"bridge": "br7", "name": "x", "mac": BAD}, ALLOWED),
    ({"bridge": "br8"}, DENIED),
    ({"bridge": "br9"}, DENIED),
    ({"bridge": "br10"}, DENIED),
    ({"bridge": "d0"}, DENIED),
    ({"bridge": "eth0"}, DENIED),
    ({"bridge": "office-lan"}, DENIED),
    ({"bridge": "tapbr"}, DENIED),
]


def got(lab: Lab, **asked: str | None) -> str:
    """What comes of alice's request."""
    try:
        attach(lab, USER, **asked).close()
    except errors.NotAuthorized:
        return DENIED
    except errors.QuotaExceeded:
        return FULL
    return ALLOWED


def verdict(told: dict[str, Any]) -> str:
    """The same of what was told: who is told of a quota has met it."""
    if told["allowed"]:
        return ALLOWED
    return DENIED if told["max_nics"] is None else FULL


class TestAUser:
    def test_a_user_is_told_what_a_request_would_tell(
        self, lab: Lab, held: ExitStack
    ) -> None:
        for _ in range(2):
            held.enter_context(attach(lab, USER, network="pair"))
        held.enter_context(attach(lab, OTHER, network="small"))
        for asked, wanted in SITUATIONS:
            told = explain(lab, USER, **asked)
            about = explain(lab, 0, str(USER), **asked)
            if asked.get("network") != "staff":  # see above
                assert about["allowed"] == told["allowed"], asked
            assert (verdict(told), got(lab, **asked)) == (wanted, wanted), asked
            if wanted != DENIED:
                # Save for what others' rules are, it is all there is to know.
                mine = [s for s in about["steps"] if "this user" not in s["outcome"]]
                assert told == {**about, "steps": mine}, asked
            until("only what is held", lambda: len(nics(lab)) == 3)

    def test_a_user_that_is_denied_is_told_the_same_whatever_exists(
        self, lab: Lab, held: ExitStack
    ) -> None:
        """To the word: of another's network, too, and of what is not there."""
        others = held.enter_context(attach(lab, OTHER))
        denied = [asked for asked, wanted in SITUATIONS if wanted == DENIED]
        denied += [{"bridge": others.bridge}, {"bridge": others.ifname}]
        answers = [explain(lab, USER, **asked) for asked in denied]
        answers += [
            explain(lab, USER, **asked, forward="tcp/8080")
            for asked in denied
            if "bridge" not in asked
        ]
        assert answers == [
            {
                "user": "alice",
                "uid": USER,
                "allowed": False,
                "reason": "you may not use it, or it does not exist",
                "rule": None,
                "polkit": False,
                "max_nics": None,
                "nics": 0,
                "network_max_nics": None,
                "network_nics": None,
                "steps": [],
                "notes": [],
            }
        ] * len(answers)

    @pytest.mark.parametrize(
        ("port", "name", "allowed"),
        [
            ("tcp/8080", "web1", True),
            ("udp/8080", "web1", False),
            ("tcp/80", "web1", False),
            ("tcp/9000", "web1", False),
            ("tcp/9000", "db", True),
            ("tcp/80", "db", False),
            ("tcp/8080", "mail", False),
        ],
    )
    def test_a_user_is_told_of_a_port_what_a_request_would_tell(
        self, lab: Lab, held: ExitStack, port: str, name: str, allowed: bool
    ) -> None:
        asked = {"network": "office", "name": name}
        told = explain(lab, USER, **asked, forward=port)
        assert told["allowed"] == allowed
        assert explain(lab, 0, "alice", **asked, forward=port)["allowed"] == allowed
        if allowed:
            forward(lab, USER, port, name, 80, "office")
            remove(lab, USER, port, "office")
        else:
            with pytest.raises((errors.NotAuthorized, errors.ForwardRefused)):
                forward(lab, USER, port, name, 80, "office")

    def test_a_user_is_told_nothing_of_others(self, lab: Lab, held: ExitStack) -> None:
        """One answer, whoever there is, and whatever they may have."""
        held.enter_context(attach(lab, OTHER))
        answers = set()
        for user in ("root", "0", str(OTHER), "4242", "nobody-of-that-name", "", "-1",
                     "99999999999999999999", "9" * 5000, "a\0b", "*"):  # fmt: skip
            for asked in ({}, {"network": "hidden"}, {"bridge": "br9"}):
                with (
                    broker(lab, USER) as wire,
                    pytest.raises(errors.RequestError) as caught,
                ):
                    wire.call("Explain", {"user": user, **asked})
                answers.add((type(caught.value), caught.value.oneline()))
        assert answers == {
            (errors.NotAuthorized, "only root may ask about other users (use sudo)")
        }

    def test_a_user_may_name_itself(self, lab: Lab, held: ExitStack) -> None:
        told = explain(lab, USER)
        assert told["allowed"]
        assert explain(lab, USER, "alice") == explain(lab, USER, str(USER)) == told

    @pytest.mark.parametrize(
        "asked",
        [
            {"network": "a/b"},
            {"bridge": "sixteen-bytes-xx"},
            {"mac": "ff:ff:ff:ff:ff:ff"},
            {"name": "-"},
            {"network": "office", "bridge": "br7"},
            {"forward": "tcp/1-2"},
            {"forward": "8080"},
            {"bridge": "br7", "forward": "tcp/8080"},
        ],
        ids=repr,
    )
    def test_a_user_is_told_which_parameter_cannot_be_meant(
        self, lab: Lab, held: ExitStack, asked: dict[str, str]
    ) -> None:
        with broker(lab, USER) as wire, pytest.raises(errors.InvalidRequest):
            wire.call("Explain", asked)


# The command ------------------------------------------------------------------


def command(
    lab: Lab, *arguments: str, user: int | None = None
) -> tuple[int, list[str]]:
    """Its exit status and lines; it says nothing on stderr."""
    done = lab.host.run(*lab.tapster("explain", *arguments), user=user, check=False)
    assert done.stderr == ""
    return done.returncode, done.stdout.splitlines()


class TestCommand:
    def test_the_command_s_status_is_the_verdict(
        self, lab: Lab, held: ExitStack
    ) -> None:
        held.enter_context(attach(lab, USER, network="office", name="web1", mac=GOOD))
        asked = ("--user", "alice", "--network", "office")
        status, lines = command(lab, *asked, "--name", "web2")
        assert status == 0
        assert lines[0] == f"allowed by {place('of the web')}"
        assert "  quota    1 of 3 NICs by that rule, 2 left" in lines
        assert f"{place('of the web')}  allow   decides" in lines
        status, lines = command(lab, *asked, "--name", "gateway")
        assert (status, lines[0]) == (1, f"denied by {place('of gateways')}")
        status, lines = command(lab, *asked, "--name", "web2", "--json")
        told = json.loads("\n".join(lines))
        assert (status, told.pop("left")) == (0, 2)
        assert told == explain(lab, 0, "alice", network="office", name="web2")

    def test_the_command_tells_a_user_whom_to_ask(
        self, lab: Lab, held: ExitStack
    ) -> None:
        status, lines = command(lab, user=USER)
        assert (status, lines[0]) == (0, f"allowed by {place('of the default')}")
        status, lines = command(lab, "--bridge", "br8", "--mac", GOOD, user=USER)
        assert status == 1
        assert lines[0] == "denied: you may not use it, or it does not exist"
        *words, hint = lines[-1].split("tapster ", 1)
        assert words == ["  sudo "]
        # Which is what it takes.
        status, lines = command(lab, *shlex.split(hint)[1:])
        assert status == 1
        assert "  rule     /etc/qemu/bridge.conf:3" in lines

    def test_the_command_tells_a_user_nothing_of_others(
        self, lab: Lab, held: ExitStack
    ) -> None:
        for user in ("root", "nobody-of-that-name"):
            done = lab.host.run(
                *lab.tapster("explain", "--user", user, "--json"),
                user=USER,
                check=False,
            )
            assert (done.returncode, done.stdout) == (1, "")
            assert done.stderr == (
                "tapster: only root may ask about other users (use sudo)\n"
            )

    def test_the_command_takes_bytes_that_are_no_text(
        self, lab: Lab, held: ExitStack
    ) -> None:
        done = lab.host.run(
            *lab.tapster("explain", "--user", os.fsdecode(b"\xff")), check=False
        )
        assert (done.returncode, done.stdout) == (1, "")
        assert done.stderr.startswith("tapster: ") and done.stderr.count("\n") == 1
