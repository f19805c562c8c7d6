# SPDX-License-Identifier: LGPL-2.1-or-later
"""Hooks, run by a real broker: when, with what, and whatever happens meanwhile.

Shows daemon/publish/hooks.
"""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from random import Random
from typing import Any

import pytest

from lab import OTHER, USER, Daemon, Lab, until
from support.host import (
    RUNTIME,
    Watcher,
    ask,
    attach,
    commands,
    inside,
    link,
    links,
    nics,
    plain_socket,
    ruleset,
    until_nothing_is_left,
)
from support.managing import reload
from support.records import of_log
from support.tampering import as_user, set_mac
from tapster import errors

DIRECTORY = "/run/config/hooks.d"
DUE = f"{RUNTIME}/hooks-due"
KILLS = 20
CONFIG = "[broker]\nnetwork_grace_seconds = 0.1\n"
# What it was told, and that it has heard it to the end.
LOG = """#!/bin/sh
told="$TAPSTER_HOOK $1 ${TAPSTER_IFNAME:-$TAPSTER_BRIDGE} ${TAPSTER_AGAIN:-0}"
echo "$told" >> /run/told
"""
HEARD = """
echo "$told" >> /run/heard
"""
# Not before the test says so.
WAIT = """
while [ ! -e /run/go ]; do sleep 0.02; done
"""


@pytest.fixture(autouse=True)
def nothing_before(lab: Lab) -> Iterator[None]:
    lab.config(CONFIG)
    lab.bridge_conf("")
    lab.host.run("rm", "-rf", DIRECTORY, DUE, "/run/told", "/run/heard", "/run/go")
    lab.host.run("mkdir", "-p", DIRECTORY)
    yield
    lab.host.run("rm", "-rf", DIRECTORY, "/run/go")


@contextmanager
def broker(lab: Lab, *, ends_well: bool = True, **how: Any) -> Iterator[Daemon]:
    running = lab.daemon("--config", "/run/config", **how)
    try:
        yield running
        if ends_well:
            until_nothing_is_left(lab, networks=True)
            until("nobody is owed anything", lambda: not due(lab))
    finally:
        status = running.stop()
    if ends_well:
        assert status == 0 and "Traceback" not in running.log, running.log
        assert ruleset(lab.host) == []


def hook(lab: Lab, name: str, text: str = LOG + HEARD, mode: int = 0o755) -> Path:
    path = Path(inside(lab, f"{DIRECTORY}/{name}"))
    path.write_text(text)
    path.chmod(mode)
    return path


def on(event: str, text: str) -> str:
    """A hook that logs all it is told and does something besides at one event."""
    return f'{LOG}\nif [ "$1" = {event} ]; then\n{text}\nfi\n{HEARD}'


def lines(lab: Lab, path: str = "/run/told") -> list[list[str]]:
    try:
        return [s.split() for s in Path(inside(lab, path)).read_text().splitlines()]
    except FileNotFoundError:
        return []


def told(lab: Lab, ifname: str = "") -> list[str]:
    """Who was told what, in order; of one device, or of all taps."""
    return [
        f"{name} {event}" + (" again" if again == "1" else "")
        for name, event, device, again in lines(lab)
        if device.startswith(ifname or "tapster")
    ]


def due(lab: Lab) -> list[str]:
    try:
        return os.listdir(inside(lab, DUE))
    except FileNotFoundError:
        return []


def go(lab: Lab) -> None:
    Path(inside(lab, "/run/go")).touch()


class Later:
    """An attach that is going on."""

    def __init__(self, lab: Lab, uid: int = USER, **what: Any) -> None:
        self._sock = plain_socket(lab, uid)
        call = {"method": "io.tapster.Broker.Attach", "parameters": what}
        self._sock.sendall(json.dumps(call).encode() + b"\0")

    def die(self) -> None:
        self._sock.close()

    def answer(self) -> dict[str, Any]:
        """The broker's reply; a descriptor that comes along is closed."""
        data, fds, _, _ = socket.recv_fds(self._sock, 65536, 4)
        for fd in fds:
            os.close(fd)
        self._sock.close()
        return dict(json.loads(data.rstrip(b"\0")))


def pairs(lab: Lab) -> None:
    """Each hook has heard of one end for each beginning of each tap."""
    begun = [(n, d) for n, e, d, _ in lines(lab) if e == "attach"]
    ended = [(n, d) for n, e, d, _ in lines(lab, "/run/heard") if e == "detach"]
    assert sorted(begun) == sorted(ended) and len(set(begun)) == len(begun)


# --- what is run, when and with what


def test_hooks_run_in_order_before_the_reply_and_after_the_end(lab: Lab) -> None:
    for name in ("20-b", "10-a"):
        hook(lab, name, LOG + "ip link show $TAPSTER_IFNAME >/dev/null 2>&1 &&"
             " echo $1 >> /run/heard\n")  # fmt: skip
    with broker(lab):
        with attach(lab, USER) as nic:
            assert told(lab, nic.ifname) == ["10-a attach", "20-b attach"]
            bridge = nic.bridge
        until("it", lambda: len(told(lab, nic.ifname)) == 4)
        assert told(lab, nic.ifname)[2:] == ["10-a detach", "20-b detach"]
        until("it", lambda: len(told(lab, bridge)) == 4)
    # The network before its guests and after them; the tap was there, then not.
    assert [line[1] for line in lines(lab)] == [
        *("network-up",) * 2, *("attach",) * 2, *("detach",) * 2,
        *("network-down",) * 2,
    ]  # fmt: skip
    about_taps = [line for line in lines(lab, "/run/heard") if "work" not in line[0]]
    assert about_taps == [["attach"]] * 2


def test_a_hook_is_told_the_nic_and_has_a_session_of_its_own(lab: Lab) -> None:
    hook(
        lab,
        "10-a",
        '#!/bin/sh\ncat > "/run/stdin.$1"; tr "\\0" "\\n" < /proc/$$/environ'
        ' > "/run/env.$1"\n'
        "{ pwd; ps -o sid= -p $$; echo $$;"
        ' for fd in /proc/$$/fd/*; do readlink $fd; done; :; } > "/run/state.$1"\n',
    )

    def read(name: str) -> str:
        return lab.host.run("cat", f"/run/{name}").stdout

    with broker(lab):
        with attach(lab, USER, name="web") as nic:
            (listed,) = nics(lab)
        until("it", lambda: os.path.exists(inside(lab, "/run/state.network-down")))
    for event in ("attach", "detach"):
        words = json.loads(read(f"stdin.{event}"))
        assert words.pop("event") == event and words.pop("hook") == "10-a"
        assert words.pop("again") is False and words.pop("reason") is None
        assert words == {name: listed[name] for name in words}
        assert words["ifname"] == nic.ifname and words["name"] == "web"
    up, down = (json.loads(read(f"stdin.network-{end}")) for end in ("up", "down"))
    assert up["bridge"] == nic.bridge and up["uid"] == USER
    assert {**up, "event": "network-down"} == down
    for event in ("attach", "network-up"):
        variables = dict(s.split("=", 1) for s in read(f"env.{event}").splitlines())
        words = json.loads(read(f"stdin.{event}"))
        assert variables.pop("PATH") == "/usr/sbin:/usr/bin:/sbin:/bin"
        assert variables.pop("LC_ALL") == "C.UTF-8"
        assert variables.pop("TAPSTER_RUN").startswith(DUE)
        assert variables == {
            f"TAPSTER_{name.upper()}": str(value)
            for name, value in words.items()
            if value not in (None, False)
        }
        cwd, session, pid, *descriptors = read(f"state.{event}").split()
        assert cwd == "/" and session == pid
        # The shell has some of them a second time.
        ours = {d for d in descriptors if not d.startswith("/run/state.")}
        pipes = {d for d in ours if d.startswith("pipe:")}
        assert ours - pipes == {f"{DIRECTORY}/10-a"} and len(pipes) == 2


def test_a_hook_may_be_a_program_that_is_no_script(lab: Lab) -> None:
    lab.host.run("cp", "/bin/true", f"{DIRECTORY}/10-true")
    lab.host.run("cp", "/bin/false", f"{DIRECTORY}/20-false")
    with broker(lab) as daemon:
        with pytest.raises(errors.BrokerFailure, match="a hook refused"):
            attach(lab, USER)
        assert "hook 20-false, attach of tapster" in daemon.log
        assert "hook 10-true" not in daemon.log


def test_without_hooks_nothing_is_run_or_written(lab: Lab) -> None:
    lab.host.run("rmdir", DIRECTORY)
    with broker(lab), attach(lab, USER):
        assert not os.path.exists(inside(lab, DUE))


TAMPERER = """if True:
    import fcntl, struct, sys, tapster
    TUNSETPERSIST = 0x400454cb
    with tapster.attach(name="web") as nic:
        print(nic.ifname, flush=True)
        sys.stdin.readline()
        fcntl.ioctl(nic.fd, TUNSETPERSIST, 1)
        sys.stdin.read()
"""


def test_tampering_is_told(lab: Lab) -> None:
    hook(lab, "10-a", LOG + "cat > /run/stdin.$1\n" + HEARD)
    with broker(lab), program(lab, TAMPERER) as (child, ifname):
        assert child.stdin is not None
        child.stdin.write(b"\n")
        child.stdin.flush()
        until("it", lambda: "10-a tamper" in told(lab, ifname))
        text = lab.host.run("cat", "/run/stdin.tamper").stdout
        words = json.loads(text)
        assert (words["event"], words["ifname"]) == ("tamper", ifname)
        assert words["reason"] and words["uid"] == USER
        child.kill()
    # Its end is told as any other's, and after that.
    assert told(lab, ifname)[:: len(told(lab, ifname)) - 1] == [
        "10-a attach", "10-a detach",
    ]  # fmt: skip
    pairs(lab)


EXAMPLE = Path(__file__).resolve().parents[2] / "data/hooks.d/50-rules-and-route"


def test_the_example_of_the_document_works(lab: Lab) -> None:
    lab.config(CONFIG + "[networks.lab]\n[[rules]]\nnetworks = ['default', 'lab']\n")
    hook(lab, EXAMPLE.name, EXAMPLE.read_text().replace("alice", str(USER)))

    def site() -> str:
        return lab.host.run("nft", "list", "table", "bridge", "site").stdout

    def route() -> str:
        return lab.host.run("ip", "route", "show", "198.51.100.0/28").stdout

    with broker(lab, ends_well=False) as daemon:
        with attach(lab, USER, network="lab", name="router") as nic:
            assert f'"{nic.ifname}" : jump {nic.ifname}' in site()
            assert f"via {nic.ipv4} dev {nic.bridge}" in route()
            with attach(lab, OTHER, network="lab", name="router") as other:
                assert site().count("tcp dport 25 counter") == 2
                assert site().count("iifname vmap @taps") == 1
                assert f"via {nic.ipv4} dev {nic.bridge}" in route()
            until("it", lambda: other.ifname not in site())
            assert route() and nic.ifname in site()
        lab.host.run("ip", "link", "add", "br9", "type", "bridge")
        lab.bridge_conf("allow br9\n")
        with attach(lab, USER, bridge="br9") as waiting:
            assert waiting.ifname in site()
        lab.host.run("ip", "link", "del", "br9")
        until("it", lambda: nic.ifname not in site() and not route())
        until_nothing_is_left(lab, networks=True)
        # A detach whose attach came to nothing is no error.
        lab.host.run("nft", "delete", "table", "bridge", "site")
        words = {"USER": "x", "NETWORK": "lab", "IFNAME": nic.ifname}
        env = {f"TAPSTER_{name}": value for name, value in words.items()}
        lab.host.run(f"{DIRECTORY}/{EXAMPLE.name}", "detach", env=env)
        lab.host.run("nft", "delete", "table", "bridge", "site")
        assert "ERROR" not in daemon.log and "hook" not in daemon.log, daemon.log


# --- a hook that says no


def test_an_attach_that_a_hook_refuses_leaves_nothing(lab: Lab) -> None:
    hook(lab, "10-a")
    hook(lab, "20-no", on("attach", "echo out; echo because of this >&2; exit 3"))
    hook(lab, "30-never")
    with broker(lab) as daemon, Watcher(lab, 0) as root, Watcher(lab, USER) as own:
        with pytest.raises(errors.BrokerFailure) as caught:
            attach(lab, USER, name="web")
        # All is undone when the caller hears of it.
        assert caught.value.message == "a hook refused"
        assert "because" not in caught.value.oneline()
        assert links(lab.host, "tapster") == [] and nics(lab) == []
        assert due(lab) in ([], [own_bridge(lab)])
        assert told(lab) == [
            "10-a attach",
            "20-no attach",
            "10-a detach",
            "20-no detach",
        ]
        failed = root.wait("failed")
        assert failed["reason"] == "hook 20-no: ended with status 3: because of this"
        assert (failed["uid"], failed["verb"], failed["name"]) == (
            USER,
            "attach",
            "web",
        )
        assert own.wait("failed")["reason"] is None
        log = daemon.log
        for line in ("out", "because of this"):
            assert f"INFO: hook 20-no, attach of {lines(lab)[3][2]}: {line}\n" in log
        # Nobody has had it, so that it is neither attached nor detached.
        events = [record["event"] for record in of_log(log)]
        assert "attached" not in events and "detached" not in events
        hook(lab, "20-no")
        with attach(lab, USER, name="web"):
            pass
    pairs(lab)


def own_bridge(lab: Lab) -> str:
    return next(iter(links(lab.host, "tapbr")), "")


def test_a_hook_that_is_late_is_killed_with_its_children(lab: Lab) -> None:
    lab.config(CONFIG + "[hooks]\ntimeout_seconds = 1\n")
    hook(lab, "10-slow", on("attach", "sleep 4711 & setsid sleep 4711 & sleep 4711"))
    with broker(lab) as daemon:
        with pytest.raises(errors.BrokerFailure, match="a hook refused"):
            attach(lab, USER)
        assert not [c for c in commands(lab.host).values() if c == "sleep 4711"]
        assert (
            "10-slow, attach of" in daemon.log and "took longer than 1 s" in daemon.log
        )
        assert told(lab) == ["10-slow attach", "10-slow detach"]


def test_a_detach_hook_that_fails_is_logged_and_not_run_again(lab: Lab) -> None:
    lab.config(CONFIG + "[hooks]\ntimeout_seconds = 1\n")
    hook(lab, "10-slow", on("detach", "sleep 4711"))
    hook(lab, "20-no", on("detach", "echo alas; kill -9 $$"))
    with broker(lab), Watcher(lab, 0) as watcher:
        with attach(lab, USER, name="web") as nic:
            pass
        slow, no = watcher.wait("failed"), watcher.wait("failed")
        assert slow["reason"].startswith("hook 10-slow, detach: took longer than 1 s")
        assert no["reason"] == "hook 20-no, detach: was killed by signal 9: alas"
        for event in (slow, no):
            assert event["ifname"] == nic.ifname and event["verb"] is None
            assert event["owner"] == USER and event["outcome"] == "failed"
        assert not [c for c in commands(lab.host).values() if c == "sleep 4711"]
    assert len(told(lab)) == 4


ODD = {
    "writes 10 MB": "head -c 10000000 /dev/zero; yes | head -n 1000000",
    "says it on one line": "yes | tr -d '\\n' | head -c 3000000; echo; echo end",
    "closes its stdin": "exec <&-",
    "never reads": "sleep 0.1",
    "closes its output": "exec >&- 2>&-; sleep 0.1",
    "leaves a child with its output": "sleep 4712 &",
    "moves the cursor": "printf '\\033[2Jx\\ntapsterd: ERROR: forged\\n'",
}


@pytest.mark.parametrize("text", ODD.values(), ids=ODD.keys())
def test_hooks_that_misuse_their_descriptors_do_no_harm(lab: Lab, text: str) -> None:
    hook(lab, "10-odd", LOG + text + HEARD)
    with broker(lab) as daemon:
        with attach(lab, USER) as nic:
            assert told(lab, nic.ifname) == ["10-odd attach"]
            assert "sleep 4712" not in commands(lab.host).values()
        until("it", lambda: len(lines(lab, "/run/heard")) == 4)
    pairs(lab)
    assert len(daemon.log) < 4 * 120_000
    assert "\nERROR" not in daemon.log and "\033" not in daemon.log
    assert "\ntapsterd: ERROR: forged" not in daemon.log


# --- what is not run


def not_executable(lab: Lab) -> str:
    hook(lab, "10-bad", mode=0o644)
    return ""


def a_directory(lab: Lab) -> str:
    lab.host.run("mkdir", f"{DIRECTORY}/10-bad")
    return ""


def a_backup(lab: Lab) -> str:
    hook(lab, "10-bad.bak")
    return ""


def anothers(lab: Lab) -> str:
    os.chown(hook(lab, "10-bad"), USER, USER)
    return f"belongs to uid {USER}, not to root"


def writable(lab: Lab) -> str:
    hook(lab, "10-bad", mode=0o775)
    return "others than root may write to it (mode 0775)"


def a_link(lab: Lab) -> str:
    lab.host.run("ln", "-s", "/bin/true", f"{DIRECTORY}/10-bad")
    return "a symbolic link"


def in_a_directory_of_all(lab: Lab) -> str:
    hook(lab, "10-bad")
    lab.host.run("chmod", "0777", DIRECTORY)
    return "others than root may write to it (mode 0777)"


@pytest.mark.parametrize("make", [not_executable, a_directory, a_backup])
def test_files_that_are_no_hooks_are_passed_over(
    lab: Lab, make: Callable[[Lab], str]
) -> None:
    make(lab)
    with broker(lab), attach(lab, USER):
        assert told(lab) == []


@pytest.mark.parametrize("make", [anothers, writable, a_link, in_a_directory_of_all])
def test_no_tap_is_handed_out_past_a_hook_that_cannot_be_trusted(
    lab: Lab, make: Callable[[Lab], str]
) -> None:
    why = make(lab)
    hook(lab, "20-good")
    with broker(lab) as daemon:
        with pytest.raises(errors.BrokerFailure, match="a hook refused"):
            attach(lab, USER)
        with pytest.raises(errors.BrokerFailure, match="a hook refused"):
            attach(lab, USER)
        assert told(lab) == []
        (line,) = [s for s in daemon.log.splitlines() if "no hook is run" in s]
        assert DIRECTORY in line and why in line
        (found,) = [f for f in findings(lab, 0) if f["code"] == "hook"]
        assert why in found["message"] and found["severity"] == "error"
        (found,) = [f for f in findings(lab, USER) if f["code"] == "hook"]
        assert DIRECTORY not in found["message"]
        lab.host.run("rm", "-rf", f"{DIRECTORY}/10-bad")
        lab.host.run("chmod", "0755", DIRECTORY)
        with attach(lab, USER):
            assert told(lab) == ["20-good attach"]


def findings(lab: Lab, uid: int) -> list[dict[str, Any]]:
    return list(ask(lab, uid, "Diagnose")["findings"])


SWAP = """
import os
from tapster.daemon.process.programs import Programs
start_hook = Programs.start_hook
async def swap(self, name, *rest):
    os.replace("/run/evil", "/run/config/hooks.d/" + name)
    return await start_hook(self, name, *rest)
Programs.start_hook = swap
"""


def test_a_file_that_takes_a_checked_hooks_place_is_not_run(lab: Lab) -> None:
    hook(lab, "10-a")
    evil = Path(inside(lab, "/run/evil"))
    evil.write_text("#!/bin/sh\ntouch /run/evil-ran\n")
    evil.chmod(0o777)
    with broker(lab, script=SWAP, ends_well=False):
        lab.host.run("ip", "link", "add", "br9", "type", "bridge")
        lab.bridge_conf("allow br9\n")
        try:
            with pytest.raises(errors.BrokerFailure, match="a hook refused"):
                attach(lab, USER, bridge="br9")
            assert links(lab.host, "tapster") == []
        finally:
            lab.host.run("ip", "link", "del", "br9")
    assert not os.path.exists(inside(lab, "/run/evil-ran"))


# --- meanwhile


def test_other_requests_go_on_while_a_hook_runs(lab: Lab) -> None:
    hook(lab, "10-wait", on("attach", WAIT))
    with broker(lab):
        waiting = Later(lab)
        until("it", lambda: told(lab))
        assert [n["uid"] for n in nics(lab)] == [USER]
        assert ask(lab, OTHER, "GetInfo")["networks"]
        reload(lab)
        other = Later(lab, OTHER)
        until("it", lambda: len(told(lab)) == 2)
        go(lab)
        for one in (waiting, other):
            assert one.answer()["parameters"]["nic"]["ifname"]


def test_hooks_of_different_guests_run_at_the_same_time(lab: Lab) -> None:
    """Each waits for 19 others to be told, which would never come if they were told
    one after the other."""
    lab.host.run("mkdir", "/run/there")
    meet = """touch "/run/there/$TAPSTER_IFNAME"
    while [ "$(ls /run/there | wc -l)" -lt 20 ]; do sleep 0.02; done"""
    hook(lab, "10-meet", on("attach", meet))
    with broker(lab), attach_network(lab), ExitStack() as stack:
        waiting = [Later(lab, uid) for uid in (USER, OTHER) for _ in range(10)]
        for one in waiting:
            stack.callback(one.die)
            assert "nic" in one.answer()["parameters"]
    lab.host.run("rm", "-rf", "/run/there")
    pairs(lab)


@contextmanager
def attach_network(lab: Lab) -> Iterator[None]:
    """Have both users' networks up, by guests that no hook is told of."""
    os.rename(inside(lab, DIRECTORY), inside(lab, f"{DIRECTORY}.off"))
    with attach(lab, USER), attach(lab, OTHER):
        os.rename(inside(lab, f"{DIRECTORY}.off"), inside(lab, DIRECTORY))
        yield


def test_a_detach_is_told_before_the_next_attach_of_that_name(lab: Lab) -> None:
    hook(lab, "10-wait", on("detach", WAIT))
    with broker(lab):
        with attach(lab, USER, name="web") as first:
            pass
        until("it", lambda: "10-wait detach" in told(lab))
        second = Later(lab, name="web")
        until("it", lambda: nics(lab) and nics(lab)[0]["ifname"] != first.ifname)
        with attach(lab, USER, name="other"):  # another name waits for nobody
            pass
        assert "web" in [n["name"] for n in nics(lab)]
        go(lab)
        ifname = second.answer()["parameters"]["nic"]["ifname"]
    heard = [(event, device) for _, event, device, _ in lines(lab, "/run/heard")]
    begun = [(event, device) for _, event, device, _ in lines(lab)]
    assert ("attach", ifname) in begun
    assert heard.index(("detach", first.ifname)) < heard.index(("attach", ifname))
    pairs(lab)


def by_root(lab: Lab, ifname: str) -> None:
    lab.host.run("ip", "link", "del", ifname)


def by_its_owner(lab: Lab, ifname: str) -> None:
    ask(lab, USER, "Detach", {"ifname": ifname})


@pytest.mark.parametrize("take", [by_root, by_its_owner])
def test_a_tap_that_goes_while_its_attach_is_told_is_not_handed_out(
    lab: Lab, take: Callable[[Lab, str], None]
) -> None:
    hook(lab, "10-wait", on("attach", WAIT))
    hook(lab, "20-never")
    with broker(lab):
        waiting = Later(lab)
        until("it", lambda: told(lab))
        (nic,) = nics(lab)
        take(lab, nic["ifname"])
        until("it", lambda: not nics(lab))
        go(lab)
        answer = waiting.answer()
        assert answer["error"].endswith("BrokerFailure"), answer
        assert "taken away" in answer["parameters"]["message"]
        assert told(lab) == ["10-wait attach", "10-wait detach"]
    pairs(lab)


def test_a_caller_that_goes_while_a_hook_runs_leaves_nothing(lab: Lab) -> None:
    hook(lab, "10-wait", on("attach", WAIT))
    with broker(lab):
        waiting = Later(lab)
        until("it", lambda: told(lab))
        waiting.die()
        go(lab)
        until("it", lambda: len(told(lab)) == 2)
    pairs(lab)


def test_a_hook_that_is_removed_before_its_detach_is_reported(lab: Lab) -> None:
    hook(lab, "10-a")
    with broker(lab), Watcher(lab, 0) as watcher:
        with attach(lab, USER):
            os.unlink(inside(lab, f"{DIRECTORY}/10-a"))
            hook(lab, "20-new")
        assert "10-a: No such file" in watcher.wait("failed")["reason"]
    assert told(lab) == ["10-a attach"]  # and nobody hears of an end alone


# --- crashes

PROGRAM = """if True:
    import sys, tapster
    with tapster.attach(name="web") as nic:
        print(nic.ifname, flush=True)
        sys.stdin.read()
"""


@contextmanager
def program(
    lab: Lab, text: str = PROGRAM
) -> Iterator[tuple[subprocess.Popen[Any], str]]:
    """A guest's process of USER's, and its tap."""
    child = lab.host.popen(
        lab.python, "-c", text, user=USER, stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )  # fmt: skip
    assert child.stdin is not None and child.stdout is not None
    with child.stdin, child.stdout:
        yield child, child.stdout.readline().decode().strip()
        child.kill()
    child.wait(10)


def test_a_guest_that_is_killed_is_told_of(lab: Lab) -> None:
    hook(lab, "10-a")
    with broker(lab), program(lab) as (child, ifname):
        child.send_signal(signal.SIGKILL)
        until("it", lambda: told(lab, ifname) == ["10-a attach", "10-a detach"])
    pairs(lab)


def kill(daemon: Daemon) -> None:
    daemon.stop(signal.SIGKILL)


class TestTheBrokerIsKilled:
    def test_a_guest_that_outlives_its_broker_is_told_of_once(self, lab: Lab) -> None:
        hook(lab, "10-a")
        hook(lab, "20-b")
        with broker(lab, ends_well=False) as first, program(lab) as (_, ifname):
            kill(first)
            with broker(lab, ends_well=False):
                assert told(lab, ifname) == ["10-a attach", "20-b attach"]
                with program(lab) as (_, other):
                    # The name is taken: the first guest is known still.
                    assert other == ""
        # The guest ended with nobody there.
        with broker(lab):
            until("it", lambda: len(told(lab, ifname)) == 4)
        pairs(lab)

    def test_the_next_broker_tells_of_a_guest_that_ended_meanwhile(
        self, lab: Lab
    ) -> None:
        hook(lab, "10-a")
        with broker(lab, ends_well=False) as first, program(lab) as (_, ifname):
            kill(first)
        assert told(lab, ifname) == ["10-a attach"] and ifname in due(lab)
        for _ in range(2):  # and then it is not told again
            with broker(lab):
                until("it", lambda: len(told(lab, ifname)) == 2)
        assert told(lab, ifname) == ["10-a attach", "10-a detach"]
        ups = [e for _, e, d, _ in lines(lab) if d.startswith("tapbr")]
        assert ups == ["network-up", "network-down"]

    def test_a_broker_killed_while_an_attach_is_told_leaves_the_detach(
        self, lab: Lab
    ) -> None:
        hook(lab, "10-a")
        hook(lab, "20-wait", on("attach", WAIT))
        hook(lab, "30-never")
        with broker(lab, ends_well=False) as first:
            waiting = Later(lab)
            until("it", lambda: len(told(lab)) == 2)
            kill(first)
            waiting.die()
        # It went on neither with the broker's death nor after it.
        until("it", lambda: not strays(lab))
        with broker(lab):
            until("it", lambda: len(told(lab)) == 4)
        assert told(lab)[2:] == ["10-a detach", "20-wait detach"]
        assert ["20-wait", "attach"] not in [s[:2] for s in lines(lab, "/run/heard")]

    def test_a_detach_that_a_killed_broker_was_telling_is_told_again(
        self, lab: Lab
    ) -> None:
        hook(lab, "10-a")
        hook(lab, "20-wait", on("detach", WAIT))
        hook(lab, "30-c")
        with broker(lab, ends_well=False) as first:
            with attach(lab, USER) as nic:
                pass
            until("it", lambda: len(told(lab)) == 5)
            kill(first)
        until("it", lambda: not strays(lab))
        go(lab)
        with broker(lab):
            until("it", lambda: len(told(lab, nic.ifname)) == 7)
        # Only the one that was cut off is told again, and told that it is.
        assert told(lab, nic.ifname)[3:] == [
            "10-a detach", "20-wait detach", "20-wait detach again", "30-c detach",
        ]  # fmt: skip
        pairs(lab)

    def test_the_next_broker_kills_hooks_that_outlived_the_last(self, lab: Lab) -> None:
        """A machine short of memory may kill the spawner too: its hooks go on."""
        hook(lab, "10-wait", on("attach", WAIT))
        with broker(lab, ends_well=False) as first:
            waiting = Later(lab)
            until("it", lambda: told(lab))
            for pid, text in commands(lab.host).items():
                if "spawner" in text:
                    os.kill(pid, signal.SIGSTOP)
                    kill(first)
                    os.kill(pid, signal.SIGKILL)
            waiting.die()
        assert strays(lab)
        with broker(lab):
            assert not strays(lab)
            until("it", lambda: told(lab)[1:] == ["10-wait detach"])

    def test_a_damaged_record_of_pending_ends_is_logged(self, lab: Lab) -> None:
        hook(lab, "10-a")
        with broker(lab, ends_well=False) as first, program(lab) as (_, ifname):
            kill(first)
        Path(inside(lab, f"{DUE}/{ifname}")).write_text('{"words"')
        with broker(lab) as daemon:
            assert f"{ifname} is damaged" in daemon.log
        assert told(lab, ifname) == ["10-a attach"]


def strays(lab: Lab) -> list[str]:
    return [c for c in commands(lab.host).values() if "/proc/self/fd/3" in c]


def test_a_broker_that_is_stopped_tells_what_it_can(lab: Lab) -> None:
    """What can be told in a short time is, and the rest by the next."""
    lab.config(CONFIG + "[hooks]\ntimeout_seconds = 1\n")
    hook(lab, "10-a", on("detach", "sleep 0.3"))
    with broker(lab, ends_well=False) as daemon:
        with attach(lab, USER) as nic:
            pass
        until("it", lambda: len(told(lab)) == 2)
        assert daemon.stop() == 0
    assert due(lab) == [] and told(lab, nic.ifname) == ["10-a attach", "10-a detach"]
    pairs(lab)


LOAD = """if True:
    import sys, tapster, time
    while True:
        try:
            with tapster.attach(socket='/run/tapster/io.tapster.Broker', timeout=5):
                time.sleep(0.02)
        except tapster.errors.TapsterError:
            time.sleep(0.01)
"""


def test_a_broker_stopped_while_an_attach_is_told_refuses_it(lab: Lab) -> None:
    lab.config(CONFIG + "[hooks]\ntimeout_seconds = 1\n")
    hook(lab, "10-slow", on("attach", "sleep 0.5"))
    hook(lab, "20-never")
    with broker(lab, ends_well=False) as daemon:
        waiting = Later(lab)
        until("it", lambda: told(lab))
        assert daemon.stop() == 0
        assert "Traceback" not in daemon.log, daemon.log
        waiting.die()
    with broker(lab):
        pass
    assert told(lab) == ["10-slow attach", "10-slow detach"]
    pairs(lab)


def test_taps_are_guarded_until_a_broker_that_is_stopped_has_ended(lab: Lab) -> None:
    """It may wait for hooks first, and a holder has nothing of that time."""
    lab.config(CONFIG + '[guard]\non_tamper = "restore"\n')
    hook(lab, "10-slow", on("detach", WAIT))
    with broker(lab, ends_well=False) as daemon:
        with attach(lab, USER) as nic:
            own = link(lab.host, nic.ifname)["address"]
            with attach(lab, USER):
                pass
            until("the slow hook", lambda: "10-slow detach" in told(lab))
            with plain_socket(lab, USER) as sock:
                daemon.process.terminate()
                assert sock.recv(1) == b""  # it ends, and waits for the hook
            as_user(USER, lambda: set_mac(nic.fd, "02:00:00:00:00:77"))
            until("its MAC", lambda: link(lab.host, nic.ifname)["address"] == own)
            assert daemon.process.poll() is None
            go(lab)
            assert daemon.stop() == 0
        assert "Traceback" not in daemon.log, daemon.log
    with broker(lab):
        pass
    pairs(lab)


def test_everybody_hears_of_its_end_if_brokers_are_killed_under_load(lab: Lab) -> None:
    """Everybody hears of its end: once, or again if it was cut off at that."""
    for name in ("10-a", "20-b"):
        hook(lab, name, LOG + "sleep 0.0$(($$ % 3))\n" + HEARD)
    random = Random(7)
    with ExitStack() as stack:
        for uid in (USER, OTHER):
            for _ in range(3):
                guest = lab.host.popen(lab.python, "-c", LOAD, user=uid)
                stack.callback(guest.wait)
                stack.callback(guest.kill)
        for _ in range(KILLS):
            daemon = lab.daemon("--config", "/run/config")
            time.sleep(random.uniform(0, 0.4))
            kill(daemon)
    with broker(lab):
        pass
    begun = Counter((n, d) for n, e, d, _ in lines(lab) if e == "attach")
    first = Counter((n, d) for n, e, d, a in lines(lab) if e == "detach" and a == "0")
    heard = Counter((n, d) for n, e, d, _ in lines(lab, "/run/heard") if e == "detach")
    assert len(begun) > 2 * KILLS
    assert set(begun.values()) == {1} and set(first.values()) == {1}
    assert set(begun) <= set(heard)
    again = Counter((n, d) for n, e, d, a in lines(lab) if e == "detach" and a == "1")
    for pair, times in heard.items():
        assert times <= 1 + again[pair]
