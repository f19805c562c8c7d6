# SPDX-License-Identifier: LGPL-2.1-or-later
"""`tapster run` becomes the VMM: with its taps, and with nothing else changed.

The VMM is a script that tells what it finds itself to be.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
from argparse import Namespace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fakes import broker as fake
from fakes.broker import ATTACHED, NIC, FakeBroker, error, say
from support.command import COMMAND, tapster, world
from tapster.cli import run
from tapster.errors import UsageError
from tapster.vmm.net_option import Grant
from tapster.vmm.qemu import NicRequest

pytestmark = pytest.mark.usefixtures("no_leaked_fd")

# A shell first, as Python would ignore some signals before it could look.
VMM = f"""#!/bin/sh
ignored=$(sed -n 's/^SigIgn:\t//p' /proc/self/status) exec {sys.executable} -I -S -c '
import json, os, signal, sys
fds = dict()
for fd in os.listdir("/proc/self/fd"):
    try:
        fds[fd] = os.fstat(int(fd)).st_ino
    except OSError:
        pass  # it listed the directory
print(json.dumps(dict(
    argv=[os.fsencode(word).decode("latin-1") for word in sys.argv[1:]],
    pid=os.getpid(),
    fds=fds,
    ignored=int(os.environ["ignored"], 16),
    environ=dict((k, v) for k, v in os.environ.items() if k.startswith("TAPSTER_")),
)), flush=True)
end = os.environ.get("END", "0")
if end.startswith("SIG"):
    signal.signal(signal.SIGPIPE, signal.SIG_DFL)  # Python ignores it
    os.kill(os.getpid(), getattr(signal, end))
sys.exit(int(end))
' "$@"
"""


@pytest.fixture
def vmm(runtime: str) -> str:
    return install(f"{runtime}/my-vmm")


@pytest.fixture
def qemu(runtime: str) -> str:
    return install(f"{runtime}/qemu-system-x86_64")


def install(path: str, text: str = VMM, mode: int = 0o755) -> str:
    with open(path, "w") as file:
        file.write(text)
    os.chmod(path, mode)
    return path


def report(done: subprocess.CompletedProcess[str]) -> dict[str, Any]:
    """What the VMM said; tapster itself must have said nothing."""
    assert (done.returncode, done.stderr) == (0, "")
    told: dict[str, Any] = json.loads(done.stdout)
    return told


def asked(broker: FakeBroker) -> list[dict[str, Any]]:
    """The parameters of each Attach, without what is always there."""
    parameters = [dict(request["parameters"]) for request in broker.requests]
    assert [p.pop("vnet_hdr") for p in parameters] == [True] * len(parameters)
    return parameters


def is_one_line(stderr: str) -> bool:
    return stderr.startswith("tapster: ") and stderr.count("\n") == 1


# What the VMM is -------------------------------------------------------------


def test_the_vmm_has_the_very_descriptor_that_the_broker_sent(
    path: str, vmm: str
) -> None:
    with FakeBroker(path) as broker:
        told = report(tapster("run", "--", vmm, "{fd}", broker=path))
    (fd,) = told["argv"]
    assert told["fds"][fd] in broker._inodes
    assert set(told["fds"]) == {"0", "1", "2", fd}
    assert asked(broker) == [{}]


def test_each_placeholder_is_replaced_and_nothing_else(path: str, vmm: str) -> None:
    words = ["--fd={fd}", "{mac},{ifname},{mac}", "{fd", "{FD}", "{{x}}", "$fd", ""]
    with FakeBroker(path):
        told = report(tapster("run", vmm, *words, b"\xff{}", broker=path))
    fd = told["environ"]["TAPSTER_FD"]
    mac, ifname = NIC["mac"], NIC["ifname"]
    expected = [f"--fd={fd}", f"{mac},{ifname},{mac}", *words[2:], "\xff{}"]
    assert told["argv"] == expected
    assert told["environ"]["TAPSTER_IFNAME"] == ifname
    assert told["environ"]["TAPSTER_MAC"] == mac


@pytest.mark.parametrize("end", ["0", "1", "77", "255"])
def test_exit_status_of_run_is_the_vmms(path: str, vmm: str, end: str) -> None:
    with FakeBroker(path):
        done = tapster("run", vmm, broker=path, env={"END": end})
    assert done.returncode == int(end)


@pytest.mark.parametrize("end", ["SIGTERM", "SIGKILL", "SIGPIPE"])
def test_signal_that_ends_run_is_the_vmms(path: str, vmm: str, end: str) -> None:
    with FakeBroker(path):
        done = tapster("run", vmm, broker=path, env={"END": end})
    assert done.returncode == -signal.Signals[end]


def test_process_of_run_becomes_the_vmm(path: str, vmm: str) -> None:
    with (
        FakeBroker(path),
        subprocess.Popen(
            [*COMMAND, "run", vmm], env=world(path), stdout=subprocess.PIPE
        ) as process,
    ):
        assert process.stdout is not None
        assert json.loads(process.stdout.read())["pid"] == process.pid


def test_the_vmm_ignores_no_signal_that_its_caller_does_not(
    path: str, vmm: str
) -> None:
    with open("/proc/self/status", encoding="ascii", errors="replace") as status:
        line = next(line for line in status if line.startswith("SigIgn:"))
    # Python ignores these two itself, and gives them back.
    given_back = (1 << signal.SIGPIPE - 1) | (1 << signal.SIGXFSZ - 1)
    inherited = int(line.split()[1], 16) & ~given_back
    with FakeBroker(path):
        ignored = report(tapster("run", vmm, broker=path))["ignored"]
        assert ignored == inherited
        ignore = "trap '' HUP INT; exec \"$@\""
        done = subprocess.run(
            ["sh", "-c", ignore, "sh", *COMMAND, "run", vmm],
            env=world(path),
            capture_output=True,
            text=True,
        )
    wanted = inherited | 1 << signal.SIGHUP - 1 | 1 << signal.SIGINT - 1
    assert report(done)["ignored"] == wanted


def test_descriptors_of_the_caller_are_the_vmms(path: str, vmm: str) -> None:
    ours, theirs = os.pipe()
    with FakeBroker(path):
        done = tapster("run", vmm, broker=path, pass_fds=[theirs])
    os.close(ours)
    os.close(theirs)
    told = report(done)
    assert set(told["fds"]) == {
        "0",
        "1",
        "2",
        str(theirs),
        told["environ"]["TAPSTER_FD"],
    }


def test_a_tap_never_becomes_the_console(path: str, vmm: str) -> None:
    """The user closed stdin and stderr; sockets and taps take what is lowest."""
    code = f"from tapster.cli import run; run.main([{vmm!r}])"
    direct = [sys.executable, "-c", code]
    for command in [*COMMAND, "run", vmm], direct:
        with FakeBroker(path) as broker:
            done = subprocess.run(
                ["sh", "-c", 'exec "$@" <&- 2>&-', "sh", *command],
                env=world(path),
                capture_output=True,
                text=True,
            )
        told = report(done)
        taps = [int(fd) for fd, inode in told["fds"].items() if inode in broker._inodes]
        assert taps == [int(told["environ"]["TAPSTER_FD"])]
        assert taps[0] > 2


# QEMU ------------------------------------------------------------------------


def test_qemu_gets_its_taps_in_the_places_of_its_bridges(path: str, qemu: str) -> None:
    line = ["-nic", "bridge,br=br7", "-m", "1G", "-nic", "bridge,mac=52:54:00:00:00:07"]
    with FakeBroker(path) as broker:
        told = report(tapster("run", "--", qemu, *line, broker=path))
    first, rest, second = told["argv"][1], told["argv"][2:5], told["argv"][5]
    one, two = (word.split("fd=")[1].split(",")[0] for word in (first, second))
    assert first == f"tap,fd={one},mac={NIC['mac']}"
    assert rest == ["-m", "1G", "-nic"]
    assert second == f"tap,fd={two},mac=52:54:00:00:00:07"
    assert set(told["fds"]) == {"0", "1", "2", one, two}
    assert {told["fds"][one], told["fds"][two]} == set(broker._inodes)
    assert told["environ"]["TAPSTER_FD"] == one
    assert asked(broker) == [{"bridge": "br7"}, {"mac": "52:54:00:00:00:07"}]


def test_qemu_without_a_network_option_gets_a_nic(path: str, qemu: str) -> None:
    arguments = ("-name", "My Web!", "x.img", "{fd}")
    with FakeBroker(path) as broker:
        told = report(tapster("run", qemu, *arguments, broker=path))
    fd = told["environ"]["TAPSTER_FD"]
    assert told["argv"][:4] == list(arguments)
    assert told["argv"][4:6] == ["-netdev", f"tap,id=tapster0,fd={fd}"]
    assert told["argv"][7].endswith(f"mac={NIC['mac']}")
    assert asked(broker) == [{"name": "my-web"}]


def test_no_broker_is_asked_where_qemu_has_no_nic(qemu: str) -> None:
    stale = {"TAPSTER_FD": "7", "TAPSTER_MAC": "x"}
    done = tapster("run", qemu, "-nic", "none", broker="/nowhere", env=stale)
    told = report(done)
    assert told["argv"] == ["-nic", "none"]
    assert told["environ"] == {"TAPSTER_SOCKET": "/nowhere"}


def test_qemu_is_found_in_path(path: str, qemu: str) -> None:
    where = {"PATH": f"/nowhere:{os.path.dirname(qemu)}:{os.environ['PATH']}"}
    with FakeBroker(path):
        report(tapster("run", "qemu-system-x86_64", broker=path, env=where))


# What is asked for -----------------------------------------------------------


def options(**given: str | None) -> Namespace:
    nothing = dict.fromkeys(("network", "bridge", "name", "mac"))
    return Namespace(**{**nothing, **given})


def plan(
    requests: list[tuple[str | None, str | None]],
    guest_name: str | None = None,
    **given: str | None,
) -> list[dict[str, Any]]:
    """The plan without what is not asked for."""
    nics = [NicRequest(bridge, mac, "") for bridge, mac in requests]
    made = run.make_plan(options(**given), nics, guest_name)
    return [{k: v for k, v in nic.items() if v is not None} for nic in made]


def test_a_bridge_in_qemus_own_words_wins() -> None:
    nics: list[tuple[str | None, str | None]] = [("br7", None), (None, None)]
    assert plan(nics, network="lan") == [{"bridge": "br7"}, {"network": "lan"}]
    assert plan(nics, bridge="br0") == [{"bridge": "br7"}, {"bridge": "br0"}]


def test_the_second_nic_has_the_name_with_a_number() -> None:
    nics: list[tuple[str | None, str | None]] = [(None, None)] * 3
    numbered = [{"name": "web"}, {"name": "web-2"}, {"name": "web-3"}]
    assert plan(nics, name="web", guest_name="other") == numbered
    assert plan(nics, guest_name="WEB") == numbered
    assert plan(nics, guest_name="!") == [{}, {}, {}]


def test_a_mac_goes_to_the_nic_that_has_none() -> None:
    assert plan([(None, "A"), (None, None)], mac="B") == [{"mac": "A"}, {"mac": "B"}]
    assert plan([], mac="B") == []
    with pytest.raises(UsageError, match="--mac: 2 NICs have none"):
        plan([(None, None)] * 2, mac="B")
    with pytest.raises(UsageError, match="--mac: QEMU"):
        plan([(None, "A")], mac="B")


@given(st.text() | st.text("aB-_. é\n"))
def test_any_guest_name_becomes_a_host_name_or_none(text: str) -> None:
    label = run.as_label(text)
    if label is None:
        assert not any(c in "abcdefghijklmnopqrstuvwxyz0123456789" for c in text)
        return
    assert 1 <= len(f"{label}-16") <= 63
    assert label.isascii()
    assert label == label.lower()
    assert label.replace("-", "").isalnum()
    assert label.strip("-") == label
    assert run.as_label(label) == label


@given(st.lists(st.sampled_from(["{fd}", "{", "}", "{mac}", "{ifname}", "fd", "x"])))
def test_placeholders_are_replaced_once(pieces: list[str]) -> None:
    values = {"{fd}": "7", "{mac}": "{fd}", "{ifname}": "{mac}"}
    word = " ".join(pieces)
    expected = " ".join(values.get(piece, piece) for piece in pieces)
    filled = run.fill_in(["{fd}", word], Grant(7, "{fd}"), "{mac}")
    assert filled == ["{fd}", expected]


OURS = st.sampled_from(
    [["--network", "n"], ["--name=x"], ["--mac", "m"], ["--rootless"], ["--name", "y"]]
)
THEIRS = st.sampled_from(["--network", "--", "-m", "--help", "--rootless", "x", ""])


@given(st.lists(OURS, max_size=4), st.booleans(), st.lists(THEIRS, max_size=5))
def test_options_behind_the_vmm_are_the_vmms(
    ours: list[list[str]], dashes: bool, theirs: list[str]
) -> None:
    words = [word for option in ours for word in option]
    parsed = run.parse([*words, *["--"] * dashes, "vmm", *theirs])
    assert parsed.vmm == ["vmm", *theirs]
    assert parsed.rootless is (["--rootless"] in ours)
    assert parsed.network == ("n" if ["--network", "n"] in ours else None)


# Refusals --------------------------------------------------------------------


@pytest.mark.parametrize(
    "arguments",
    [
        [],
        ["--"],
        ["--network", "lan"],
        ["--network"],
        ["--network", "lan", "--bridge", "br0", "VMM"],
        ["--net", "lan", "VMM"],
        ["--colour", "VMM"],
        ["--mac", "52:54:00:00:00:01", "QEMU", "-nic", "bridge", "-nic", "bridge"],
        ["QEMU", "-nic", "foo"],
    ],
)
def test_a_wrong_command_line_is_refused_before_anybody_is_asked(
    path: str, vmm: str, qemu: str, arguments: list[str]
) -> None:
    names = {"VMM": vmm, "QEMU": qemu}
    with FakeBroker(path) as broker:
        done = tapster("run", *[names.get(w, w) for w in arguments], broker=path)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith(("usage: tapster run ", "tapster: "))
    assert broker.requests == []


@pytest.mark.parametrize(
    ("name", "text", "mode", "status", "why"),
    [
        ("absent", None, 0, 127, "not found"),
        ("", None, 0, 127, "not found"),
        ("DIRECTORY", None, 0, 127, "not found"),
        ("text", VMM, 0o644, 126, "not executable"),
    ],
)
def test_no_tap_is_drawn_for_a_vmm_that_is_not_there(
    path: str, runtime: str, name: str, text: str | None, mode: int, status: int,
    why: str,
) -> None:  # fmt: skip
    file = f"{runtime}/{name}"
    if text:
        install(file, text, mode)
    for word in name, file:
        with FakeBroker(path) as broker:
            env = {"PATH": runtime}
            done = tapster("run", "--", word, broker=path, env=env)
        assert (done.returncode, done.stdout) == (status, "")
        assert is_one_line(done.stderr)
        assert f"{word}: {why} (" in done.stderr
        assert broker.requests == []


@pytest.mark.parametrize(
    ("text", "why"),
    [("no program\n", "Exec format error"), ("#!/nowhere\n", "its interpreter is")],
)
def test_what_the_kernel_does_not_execute_has_status_126(
    path: str, runtime: str, text: str, why: str
) -> None:
    with FakeBroker(path):
        done = tapster("run", install(f"{runtime}/odd", text), broker=path)
    assert (done.returncode, done.stdout) == (126, "")
    assert is_one_line(done.stderr)
    assert why in done.stderr


def test_the_taps_are_closed_where_no_vmm_takes_them(
    path: str, runtime: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """no_leaked_fd looks after us; the process is this one."""
    monkeypatch.setenv("TAPSTER_SOCKET", path)
    odd = install(f"{runtime}/odd", "no program\n")
    old = [(n, signal.getsignal(n)) for n in (signal.SIGPIPE, signal.SIGXFSZ)]
    try:
        with FakeBroker(path), pytest.raises(run.CannotExecute):
            run.main([odd])
    finally:
        for number, handler in old:
            signal.signal(number, handler)


def test_refused_tap_is_one_line_with_its_hint(path: str, vmm: str) -> None:
    no = error("io.tapster.Broker.NameInUse", message="there is one", hint="end\nit")
    with FakeBroker(path, say(no)):
        done = tapster("run", "--name", "web", vmm, broker=path)
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr == "tapster: there is one (end it)\n"


def test_message_of_the_broker_cannot_control_the_terminal(path: str, vmm: str) -> None:
    no = error("io.tapster.Broker.NotAuthorized", message="\x1b]0;x\a\u202e no")
    with FakeBroker(path, say(no)):
        done = tapster("run", vmm, broker=path)
    assert done.stderr == "tapster: ?]0;x?? no\n"


def test_no_vmm_runs_with_half_of_its_nics(path: str, qemu: str) -> None:
    no = error("io.tapster.Broker.QuotaExceeded", message="enough")
    line = [qemu, "-nic", "bridge", "-nic", "bridge"]
    with FakeBroker(path, say(ATTACHED, 1), say(no)) as broker:
        done = tapster("run", "--name", "web", *line, broker=path)
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr == "tapster: enough\n"
    assert asked(broker) == [{"name": "web"}, {"name": "web-2"}]


def test_nic_without_a_mac_is_an_error_of_the_broker(path: str, vmm: str) -> None:
    data = fake.encode({"fd": 0, "nic": {**NIC, "mac": None}})
    with FakeBroker(path, say(data, 1)):
        done = tapster("run", vmm, broker=path)
    assert (done.returncode, done.stdout) == (1, "")
    assert is_one_line(done.stderr)


def test_run_without_a_broker_is_an_error(vmm: str) -> None:
    done = tapster("run", vmm, broker="/nowhere")
    assert (done.returncode, done.stdout) == (1, "")
    assert is_one_line(done.stderr)
    assert "see TAPSTER_SOCKET" in done.stderr


def test_ctrl_c_before_the_vmm_runs_has_status_130(path: str, vmm: str) -> None:
    asked = threading.Event()

    def hang(peer: fake.Peer) -> None:
        asked.set()
        peer.hang()

    with (
        FakeBroker(path, hang),
        subprocess.Popen(
            [*COMMAND, "run", vmm],
            env=world(path),
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        ) as process,
    ):
        assert asked.wait(60)
        process.send_signal(signal.SIGINT)
        assert process.communicate() == (b"", b"")
        assert process.returncode == 130


# Imports ---------------------------------------------------------------------


def test_run_imports_nothing_slow() -> None:
    code = "import sys; import tapster.cli.main, tapster.cli.run; print(*sys.modules)"
    done = subprocess.run(
        [sys.executable, "-c", code], check=True, capture_output=True, text=True
    )
    slow = {"rich", "asyncio", "subprocess", "typing", "dataclasses", "tempfile"}
    others = {
        "tapster.cli.ls",
        "tapster.cli.events",
        "tapster.client.start",
        "asyncvarlink",
    }
    assert not (slow | others) & set(done.stdout.split())
