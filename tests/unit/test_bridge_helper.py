# SPDX-License-Identifier: LGPL-2.1-or-later
"""`tapster-bridge-helper` as QEMU sees it: arguments, one byte, one descriptor.

Most of these run the very file that is installed, by its own interpreter lines.
Those about time limits call `main()` with a short one.
"""

from __future__ import annotations

import json
import os
import posix
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import tapster
from fakes import broker as fake
from fakes.broker import ATTACHED, NIC, FakeBroker, Script, encode, error, say
from tapster import bridge_helper as helper
from tapster import paths
from tapster.client.reply import INTERFACE
from tapster.syntax import is_interface_name

HELPER = os.path.abspath(helper.__file__)
QEMU_BLOCKS = (
    signal.SIGBUS,
    signal.SIGUSR1,
    signal.SIGALRM,
    signal.SIGCHLD,
    signal.SIGIO,
)


# How fast the machine is just now says nothing about the code.
PATIENT = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])


@pytest.fixture(autouse=True)
def no_leaked_fd() -> Iterator[None]:
    before = sorted(os.listdir("/proc/self/fd"))
    yield
    assert sorted(os.listdir("/proc/self/fd")) == before


@pytest.fixture
def directory() -> Iterator[str]:
    """A new directory with a path that is short enough for a socket."""
    path = tempfile.mkdtemp(prefix="tapster-test-")
    yield path
    shutil.rmtree(path)


@pytest.fixture
def path(directory: str) -> str:
    return f"{directory}/broker"


class Qemu:
    """QEMU's side of the contract."""

    def __init__(self) -> None:
        self.ours, self.theirs = socket.socketpair()

    def __enter__(self) -> Qemu:
        return self

    def __exit__(self, *_: object) -> None:
        self.ours.close()
        self.theirs.close()

    @property
    def fd(self) -> int:
        return self.theirs.fileno()

    def run(
        self,
        arguments: Sequence[str | bytes] = ("--use-vnet", "--fd=FD", "--br=br0"),
        program: Sequence[str] = (HELPER,),
        **environment: str,
    ) -> subprocess.CompletedProcess[str]:
        number = str(self.fd)
        words = [
            word.replace("FD", number) if isinstance(word, str) else word
            for word in arguments
        ]
        return subprocess.run(
            [*program, *words],
            env={"PATH": "/usr/bin:/bin", **environment},
            pass_fds=[self.fd],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=30,
        )

    def main(self, time_limit: float) -> int:
        arguments = ["--use-vnet", f"--fd={self.fd}", "--br=br0"]
        return helper.main([word.encode() for word in arguments], time_limit)

    def received(self) -> tuple[bytes, list[int]]:
        """Everything that was sent, once nobody can send any more."""
        self.theirs.close()
        data = b""
        fds: list[int] = []
        while True:
            some, new, flags, _ = socket.recv_fds(self.ours, 100, 10)
            assert not flags & socket.MSG_CTRUNC
            data += some
            fds += new
            if not some:
                return data, fds

    def got_nothing(self) -> bool:
        return self.received() == (b"", [])

    def got_tap(self, broker: FakeBroker) -> bool:
        data, fds = self.received()
        good = data == b"\0" and len(fds) == 1 and broker.made(fds[0])
        for fd in fds:
            os.close(fd)
        return good


def is_one_line(stderr: str) -> bool:
    return (
        stderr.startswith("tapster-bridge-helper: ")
        and stderr.endswith("\n")
        and stderr.count("\n") == 1
        and "Traceback" not in stderr
    )


# Success -------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "vnet"),
    [
        (["--use-vnet", "--fd=FD", "--br=br0"], True),
        (["--br=br0", "--use-vnet", "--fd=FD"], True),
        (["--br=br0", "--fd=FD"], False),
        (["--br=br7", "--br=br0", "--fd=FD"], False),
        (["--use-vnet", "br0", "FD"], True),
        (["br0", "FD"], False),
    ],
)
def test_helper_sends_the_tap_and_exits_with_0(
    path: str, arguments: list[str], vnet: bool
) -> None:
    with FakeBroker(path) as broker, Qemu() as qemu:
        done = qemu.run(arguments, TAPSTER_SOCKET=path)
        assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
        assert qemu.got_tap(broker)
    assert broker.requests == [
        {
            "method": "io.tapster.Broker.Attach",
            "parameters": {"bridge": "br0", "vnet_hdr": vnet, "for_parent": True},
        }
    ]


def test_helper_works_as_qemu_starts_it(path: str) -> None:
    """Signals blocked and ignored, and through `sh -c` if there is a blank."""
    numbers = ",".join(str(int(number)) for number in QEMU_BLOCKS)
    code = f"""if True:
        import os, signal, sys
        signal.pthread_sigmask(signal.SIG_BLOCK, [{numbers}])
        signal.signal(signal.SIGPIPE, signal.SIG_IGN)
        os.execv(sys.argv[1], sys.argv[1:])
    """
    starter = [sys.executable, "-c", code]
    for program in [HELPER], ["/bin/sh", "-c", f"{HELPER} $*", "sh"]:
        with FakeBroker(path) as broker, Qemu() as qemu:
            done = qemu.run(program=[*starter, *program], TAPSTER_SOCKET=path)
            assert (done.returncode, done.stderr) == (0, "")
            assert qemu.got_tap(broker)


def test_environment_of_the_caller_does_not_change_python(
    path: str, directory: str
) -> None:
    for name in ("posix", "json", "_json", "signal", "select"):
        with open(f"{directory}/{name}.py", "w") as file:
            file.write("raise SystemExit(0)")
    environment = {
        "HOME": "/nonexistent",
        "LC_ALL": "xx_YY.ISO-8859-5",
        "PATH": "/nonexistent",
        "PYTHONHOME": "/nonexistent",
        "PYTHONPATH": directory,
        "PYTHONSTARTUP": "/nonexistent",
        "PYTHONWARNINGS": "error",
        "TAPSTER_SOCKET": path,
    }
    with FakeBroker(path) as broker, Qemu() as qemu:
        assert qemu.run(**environment).returncode == 0
        assert qemu.got_tap(broker)


def test_helper_finds_tapsterd_through_a_symlink(path: str, directory: str) -> None:
    os.symlink(HELPER, f"{directory}/qemu-bridge-helper")
    with FakeBroker(path) as broker, Qemu() as qemu:
        program = [f"{directory}/qemu-bridge-helper"]
        assert qemu.run(program=program, TAPSTER_SOCKET=path).returncode == 0
        assert qemu.got_tap(broker)


@pytest.mark.parametrize("name", ["fifteen-bytes-x", "b'\"\\$(x)", "brücke", "a,b=c"])
def test_unusual_but_valid_bridge_names_are_sent(path: str, name: str) -> None:
    with FakeBroker(path) as broker, Qemu() as qemu:
        for locale in ("C", "C.UTF-8"):
            arguments = [f"--br={name}", "--fd=FD"]
            done = qemu.run(arguments, LC_ALL=locale, TAPSTER_SOCKET=path)
            assert (done.returncode, done.stderr) == (0, "")
        data, fds = qemu.received()
        assert data == b"\0\0"
        for fd in fds:
            os.close(fd)
    assert [r["parameters"]["bridge"] for r in broker.requests] == [name, name]


def test_reply_may_be_split_anywhere(
    path: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(posix.environ, b"TAPSTER_SOCKET", path.encode())
    places = range(1, len(ATTACHED))
    with FakeBroker(path, *[fake.split(ATTACHED, at, 1) for at in places]) as broker:
        for _ in places:
            with Qemu() as qemu:
                assert qemu.main(30) == 0
                assert qemu.got_tap(broker)


# Refusals ------------------------------------------------------------------


@pytest.mark.parametrize(
    "arguments",
    [
        [],
        ["--use-vnet"],
        ["--br=br0"],
        ["--fd=FD"],
        ["--br=br0", "--fd="],
        ["--br=br0", "--fd=x"],
        ["--br=br0", "--fd=-1"],
        ["--br=br0", "--fd=99999999999"],
        ["--br=br0", "--fd=FD", "--foo=1"],
        ["--br=br0", "--fd=FD", "--help"],
        ["--br=br0", "--fd=FD", "word"],
        ["--br=br0", "--fd=FD", ""],
        ["--br", "br0", "--fd", "FD"],
        ["--b=br0", "--fd=FD"],
        ["br0", "FD", "more"],
        ["br0", "--fd=FD"],
    ],
)
def test_wrong_arguments_print_the_usage(path: str, arguments: list[str]) -> None:
    with FakeBroker(path) as broker, Qemu() as qemu:
        done = qemu.run(arguments, TAPSTER_SOCKET=path)
        assert (done.returncode, done.stderr) == (1, f"{helper.USAGE}\n")
        assert qemu.got_nothing()
    assert broker.requests == []


@pytest.mark.parametrize(
    ("name", "text"),
    [
        (b"", "1 to 15 bytes"),
        (b"sixteen-bytes-xx", "1 to 15 bytes"),
        ("ü".encode() * 8, "1 to 15 bytes"),
        (b"b\xff", "not UTF-8"),
        (b"..", "cannot be"),
        (b"a/b", "cannot be"),
        (b"a b", "cannot be"),
        (b"a\nb", "cannot be"),
    ],
)
def test_impossible_bridge_names_are_refused_before_the_broker_is_asked(
    path: str, name: bytes, text: str
) -> None:
    with FakeBroker(path) as broker, Qemu() as qemu:
        done = qemu.run([b"--br=" + name, "--fd=FD"], TAPSTER_SOCKET=path)
        assert done.returncode == 1
        assert is_one_line(done.stderr)
        assert text in done.stderr
        assert qemu.got_nothing()
    assert broker.requests == []


def test_help_and_version_are_printed() -> None:
    for word, text in (
        ("--help", helper.HELP),
        ("--version", tapster.__version__ + "\n"),
    ):
        done = subprocess.run([HELPER, word], capture_output=True, text=True)
        assert (done.returncode, done.stdout, done.stderr) == (0, text, "")


def test_descriptor_that_is_no_unix_stream_socket_is_an_error(path: str) -> None:
    pairs: list[Sequence[socket.socket]] = [
        socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM),
        socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET),
        [socket.socket(socket.AF_UNIX)],
        [socket.socket(socket.AF_INET)],
    ]
    with FakeBroker(path) as broker, Qemu() as qemu, open("/dev/null") as null:
        for number in [p[0].fileno() for p in pairs] + [null.fileno(), 4000]:
            arguments = ["--br=br0", f"--fd={number}"]
            done = subprocess.run(
                [HELPER, *arguments],
                env={"TAPSTER_SOCKET": path},
                pass_fds=[number] if number < 4000 else [],
                capture_output=True,
                text=True,
            )
            assert done.returncode == 1
            assert is_one_line(done.stderr)
        assert qemu.got_nothing()
    assert broker.requests == []
    for pair in pairs:
        for sock in pair:
            sock.close()


def test_qemu_that_is_gone_is_an_error(path: str) -> None:
    with FakeBroker(path), Qemu() as qemu:
        qemu.ours.close()
        done = qemu.run(TAPSTER_SOCKET=path)
        assert done.returncode == 1
        assert is_one_line(done.stderr)


def test_stderr_that_nobody_reads_does_not_block(path: str) -> None:
    with Qemu() as qemu:
        for redirection in ("2>&-", "2>/dev/full"):
            program = ["/bin/sh", "-c", f'"$0" "$@" {redirection}', HELPER]
            assert qemu.run(program=program, TAPSTER_SOCKET=path).returncode == 1
        assert qemu.got_nothing()


# Brokers that are wrong ----------------------------------------------------

MISBEHAVIOUR: dict[str, tuple[Script, str]] = {
    "hangs up": (fake.hang_up, "hung up without"),
    "hangs up in the middle": (say(ATTACHED[:-1], 1), "in the middle"),
    "garbage": (say(b"\xff\xfe{]\0", 1), "no sense"),
    "nothing": (say(b"\0", 1), "no sense"),
    "half": (say(b'{"parameters":\0', 1), "no sense"),
    "deep": (say(b"[" * 20000 + b"\0", 1), "no sense"),
    "a list": (say(b"[1]\0", 1), "no sense"),
    "more after it": (say(ATTACHED[:-1] + b"}\0", 1), "no sense"),
    "two answers": (say(ATTACHED + ATTACHED, 1), "two answers"),
    "no parameters": (say(b"{}\0", 1), "no sense"),
    "odd parameters": (say(b'{"parameters":7}\0', 1), "no sense"),
    "odd error": (say(b'{"error":7}\0', 1), "no sense"),
    "continues": (say(encode({"fd": 0}, continues=True), 1), "no sense"),
    "no fd": (say(ATTACHED), "sent 0 descriptors"),
    "two fds": (say(ATTACHED, 2), "sent 2 descriptors"),
    "too many fds": (say(ATTACHED, 40), "too long"),
    "index of another": (say(encode({"fd": 1}), 1), "no sense"),
    "index is false": (say(encode({"fd": False}), 1), "no sense"),
    "huge": (fake.say_and_hang(b" " * (1 << 20), 1), "too long"),
    "an error with an fd": (
        say(error("io.tapster.Broker.QuotaExceeded", message="no", hint="ask"), 1),
        "tapster-bridge-helper: no (ask)\n",
    ),
    "an error of many lines": (
        say(error("io.tapster.Broker.X", message="a\n\x1b[1mb\t c", hint=["x\n"])),
        "tapster-bridge-helper: a ?[1mb c (",
    ),
    "a long error": (say(error("io.tapster.Broker.X", message="x" * 9000)), "xxx\n"),
    "an error without words": (
        say(error("io.tapster.Broker.BrokerBusy")),
        "answered io.tapster.Broker.BrokerBusy",
    ),
    "InvalidParameter": (
        say(error("org.varlink.service.InvalidParameter", parameter="for_parent")),
        "parameter 'for_parent'",
    ),
}


@pytest.mark.parametrize("kind", MISBEHAVIOUR)
def test_broker_that_misbehaves_is_an_error_in_one_line(path: str, kind: str) -> None:
    script, text = MISBEHAVIOUR[kind]
    with FakeBroker(path, script), Qemu() as qemu:
        done = qemu.run(TAPSTER_SOCKET=path)
        assert done.returncode == 1
        assert is_one_line(done.stderr)
        assert text in done.stderr
        assert qemu.got_nothing()


@pytest.mark.parametrize(
    "script", [fake.hang, fake.trickle, fake.say_and_hang(b"{", 1)]
)
def test_slow_broker_is_an_error_in_time(
    path: str,
    script: Script,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setitem(posix.environ, b"TAPSTER_SOCKET", path.encode())
    with FakeBroker(path, script), Qemu() as qemu:
        assert qemu.main(0.2) == 1
        assert qemu.got_nothing()
    stderr = capfd.readouterr().err
    assert is_one_line(stderr)
    assert "did not answer in time" in stderr


def test_broker_that_accepts_nobody_is_an_error_in_time(
    path: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(posix.environ, b"TAPSTER_SOCKET", path.encode())
    with socket.socket(socket.AF_UNIX) as listener, Qemu() as qemu:
        listener.bind(path)
        listener.listen(0)
        with socket.socket(socket.AF_UNIX) as first:
            first.connect(path)
            assert qemu.main(0.1) == 1
        assert qemu.got_nothing()


def test_full_socket_of_qemu_is_an_error_in_time(
    path: str, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(posix.environ, b"TAPSTER_SOCKET", path.encode())
    with FakeBroker(path), Qemu() as qemu:
        with pytest.raises(BlockingIOError):
            while True:
                qemu.theirs.send(b"x" * 4096, socket.MSG_DONTWAIT)
        assert qemu.main(0.3) == 1
        assert qemu.theirs.getblocking()
        data, fds = qemu.received()
        assert set(data) == {ord("x")}
        assert not fds
    assert "full" in capfd.readouterr().err


# Finding and starting brokers ----------------------------------------------


def test_named_socket_is_the_only_one_tried() -> None:
    with Qemu() as qemu:
        done = qemu.run(TAPSTER_SOCKET="/nowhere")
        assert done.returncode == 1
        assert is_one_line(done.stderr)
        assert "/nowhere: No such file or directory (see TAPSTER_S" in done.stderr
        done = qemu.run(TAPSTER_SOCKET="/" + "x" * 200)
        assert "too long" in done.stderr
        assert is_one_line(done.stderr)
        assert qemu.got_nothing()


@pytest.fixture
def installed(directory: str) -> str:
    """The helper as installed, in a world without a system broker."""
    with open(HELPER) as file:
        text = file.read()
    system = 'b"/run/tapster/io.tapster.Broker"'
    assert system in text
    os.mkdir(f"{directory}/bin")
    program = f"{directory}/bin/tapster-bridge-helper"
    with open(program, "w") as file:
        file.write(text.replace(system, f'b"{directory}/system"'))
    os.chmod(program, 0o700)
    return program


@pytest.fixture
def tapsterd(installed: str, directory: str) -> Iterator[None]:
    """A fake beside it, ended after the test."""
    program = f"{directory}/bin/tapsterd"
    with open(program, "w") as file:
        file.write(f'#!/bin/sh\nexec {sys.executable} -I {fake.__file__} "$@"\n')
    os.chmod(program, 0o700)
    yield
    fake.end_daemons(directory)


def test_broker_is_looked_for_in_order(installed: str, directory: str) -> None:
    os.mkdir(f"{directory}/tapster", 0o700)
    rootless = f"{directory}/tapster/io.tapster.Broker"
    with FakeBroker(rootless, fake.hang_up, say(ATTACHED, 1)) as second:
        with FakeBroker(f"{directory}/system") as first, Qemu() as qemu:
            done = qemu.run(program=[installed], XDG_RUNTIME_DIR=directory)
            assert (done.returncode, done.stderr) == (0, "")
            assert qemu.got_tap(first)
        assert second.requests == []
        with Qemu() as qemu:
            done = qemu.run(program=[installed], XDG_RUNTIME_DIR=directory)
            assert (done.returncode, done.stderr) == (0, "")
            assert qemu.got_tap(second)
        assert len(second.requests) == 2, "an idle broker was asked again"


def test_directory_that_others_may_write_is_not_trusted(
    installed: str, directory: str
) -> None:
    os.mkdir(f"{directory}/tapster")
    os.chmod(f"{directory}/tapster", 0o720)
    with Qemu() as qemu:
        done = qemu.run(program=[installed], XDG_RUNTIME_DIR=directory)
        assert done.returncode == 1
        assert "not a private directory" in done.stderr
        assert qemu.got_nothing()


def test_missing_tapsterd_is_an_error(installed: str, directory: str) -> None:
    with Qemu() as qemu:
        done = qemu.run(program=[installed], XDG_RUNTIME_DIR=directory)
        assert done.returncode == 1
        assert is_one_line(done.stderr)
        assert "tapsterd is not found (" in done.stderr
        assert qemu.got_nothing()


@pytest.mark.usefixtures("tapsterd")
def test_broker_is_started_with_a_clean_process(installed: str, directory: str) -> None:
    blocked = ",".join(str(int(number)) for number in QEMU_BLOCKS)
    code = f"""if True:
        import os, signal, sys
        signal.pthread_sigmask(signal.SIG_BLOCK, [{blocked}])
        signal.signal(signal.SIGCHLD, signal.SIG_IGN)
        os.execv(sys.argv[1], sys.argv[1:])
    """
    world = {"XDG_RUNTIME_DIR": directory, "LISTEN_FDS": "1", "NOTIFY_SOCKET": "@x"}
    starter = [sys.executable, "-c", code, installed]
    for program in starter, [installed]:
        with Qemu() as qemu:
            done = qemu.run(program=program, **world)
            assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
            data, fds = qemu.received()
            assert data == b"\0"
            for fd in fds:
                os.close(fd)
            assert len(fds) == 1
    (facts,) = fake.daemon_facts(directory)
    assert os.stat(f"/proc/{facts['pid']}")
    assert facts["argv"] == ["--rootless"]
    assert facts["sid"] == facts["pid"]
    assert facts["cwd"] == "/"
    assert facts["blocked"] == facts["ignored"] == 0
    log = f"{directory}/tapster/broker.log"
    assert facts["fds"] == {"0": "/dev/null", "1": "/dev/null", "2": log}
    assert facts["others"] == []
    assert not {"LISTEN_FDS", "NOTIFY_SOCKET"} & set(facts["environ"])
    assert facts["environ"]["XDG_RUNTIME_DIR"] == directory
    assert os.stat(f"{directory}/tapster").st_mode & 0o777 == 0o700
    assert os.stat(log).st_mode & 0o777 == 0o600


@pytest.mark.usefixtures("tapsterd")
def test_failed_start_repeats_the_last_line_of_the_log(
    installed: str, directory: str
) -> None:
    world = {"XDG_RUNTIME_DIR": directory, "FAKE_TAPSTERD": "fail"}
    with Qemu() as qemu:
        done = qemu.run(program=[installed], **world)
        assert done.returncode == 1
        assert done.stderr == (
            "tapster-bridge-helper: cannot start a broker: no user namespaces here"
            f" (see {directory}/tapster/broker.log)\n"
        )
        assert qemu.got_nothing()


@pytest.mark.usefixtures("tapsterd")
def test_broker_that_another_process_started_is_used(
    installed: str, directory: str
) -> None:
    world = {"XDG_RUNTIME_DIR": directory, "FAKE_TAPSTERD": "locked-once"}
    with Qemu() as qemu:
        done = qemu.run(program=[installed], **world)
        assert (done.returncode, done.stderr) == (0, "")
        for fd in qemu.received()[1]:
            os.close(fd)
    assert len(fake.daemon_facts(directory)) == 2


@pytest.mark.usefixtures("tapsterd")
def test_broker_that_does_not_start_in_time_is_an_error(
    installed: str, directory: str
) -> None:
    with open(installed) as file:
        text = file.read()
    with open(installed, "w") as file:
        file.write(text.replace("TIME_LIMIT = 4.5", "TIME_LIMIT = 0.5"))
    world = {"XDG_RUNTIME_DIR": directory, "FAKE_TAPSTERD": "hang"}
    with Qemu() as qemu:
        done = qemu.run(program=[installed], **world)
        assert done.returncode == 1
        assert "did not start in time" in done.stderr
        assert qemu.got_nothing()


# Properties ----------------------------------------------------------------

WORDS = st.sampled_from(
    [b"--use-vnet", b"--br=br0", b"--fd=3", b"br0", b"3", b"--br=", b"--fd=x", b"-"]
)


@PATIENT
@given(st.lists(WORDS | st.binary(max_size=20), max_size=6))
def test_any_arguments_are_parsed_or_refused(arguments: list[bytes]) -> None:
    try:
        vnet, bridge, number = helper.parse_arguments(arguments)
    except helper.Usage:
        return
    assert vnet == (b"--use-vnet" in arguments)
    assert f"--fd={number}".encode() in arguments or bridge in arguments
    assert 0 <= number < 1 << 31


@PATIENT
@given(
    st.binary(max_size=20)
    | st.text("ab.:/ \t\0\xa0\u0160\u2003", max_size=6).map(str.encode)
)
def test_any_bridge_is_accepted_or_refused_as_by_the_rest_of_tapster(
    name: bytes,
) -> None:
    try:
        text = helper.check_bridge(name)
    except helper.Failure as failure:
        assert "\n" not in str(failure)
        assert not is_interface_name(name.decode(errors="surrogateescape"))
    else:
        assert text.encode() == name
        assert is_interface_name(text)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=10,
)
KEYS = st.sampled_from(["parameters", "error", "continues", "fd", "message", "hint"])
REPLIES = st.dictionaries(KEYS, JSON | st.dictionaries(KEYS, JSON))


@PATIENT
@given(st.binary() | REPLIES.map(lambda reply: json.dumps(reply).encode()))
def test_any_reply_is_a_tap_or_a_failure(message: bytes) -> None:
    try:
        helper.parse_reply(message)
    except helper.Failure as failure:
        assert str(failure).isprintable()
    else:
        assert json.loads(message)["parameters"]["fd"] == 0


@PATIENT
@given(REPLIES)
def test_unknown_fields_of_a_reply_do_not_matter(extra: dict[str, Any]) -> None:
    for word in ("error", "continues"):
        extra.pop(word, None)
    reply = {**extra, "parameters": {"nic": NIC, "fd": 0, "x": extra}}
    helper.parse_reply(json.dumps(reply).encode())


# What it shares with the rest of tapster -----------------------------------


def test_helper_and_client_have_the_same_version_and_paths() -> None:
    assert INTERFACE == paths.SOCKET_NAME
    assert tapster.__version__ == helper.VERSION
    assert paths.SYSTEM_SOCKET.encode() == helper.SYSTEM_SOCKET
    assert paths.SOCKET_NAME.encode() == helper.SOCKET_NAME


@pytest.mark.parametrize("runtime", ["/run/x", "relative", ""])
def test_helper_and_client_look_in_the_same_runtime_directory(
    runtime: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_RUNTIME_DIR", runtime)
    monkeypatch.setitem(posix.environ, b"XDG_RUNTIME_DIR", runtime.encode())
    assert paths.runtime_directory().encode() == helper.runtime_directory()


def test_helper_imports_nothing_slow() -> None:
    code = f"import sys; sys.path.append({os.path.dirname(HELPER)!r})"
    code += (
        "; had = set(sys.modules); import bridge_helper; print(*set(sys.modules) - had)"
    )
    done = subprocess.run(
        [sys.executable, "-I", "-S", "-c", code], capture_output=True, text=True
    )
    few = {"__future__", "errno", "_json", "_socket", "bridge_helper"}
    assert set(done.stdout.split()) <= few
    assert "bridge_helper" in done.stdout
