# SPDX-License-Identifier: LGPL-2.1-or-later
"""bridge.conf against the real helper, and the right to read against the kernel."""

from __future__ import annotations

import os
import random
import re
import resource
import signal
from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import pytest

from support.peer_helper import (
    CONF,
    Node,
    PeerHelper,
    in_private_namespaces,
    make_tree,
    mount,
    open_as,
    set_alternative_name,
    why_not,
)
from tapster.policy.core.facts import Verdict
from tapster.policy.foreign.access import read_as_user
from tapster.policy.foreign.bridge_conf import decide
from tapster.policy.foreign.permissions import Reader

ALICE = Reader(1001, 2001, frozenset())
READERS = [
    ALICE,
    Reader(1001, 2001, frozenset({2002, 2003})),
    Reader(1002, 2002, frozenset({2001})),
    Reader(1003, 1003, frozenset()),
    Reader(0, 0, frozenset()),
]
BRIDGES = ["br0", "br1", "brücke", "br-fifteen-long"]
NO_BRIDGES = ["all", "br0 #", "gone"]
ASKED = [*["br0"] * 9, *["br1"] * 3, *BRIDGES, *NO_BRIDGES]

CORPUS: list[bytes] = [
    b"",
    b"\n",
    b"allow br0",
    b"allow br0\n",
    b"allow br1\n",
    b"allow all\n",
    b"allow ALL\n",
    b"ALLOW br0\n",
    b"deny br0\nallow br0\n",
    b"allow br0\ndeny br0\n",
    b"allow all\ndeny br0\n",
    b"allow all\ndeny br1\n",
    b"allow br0\ndeny all\n",
    b"# allow br0\n",
    b"  # comment\n\t allow \t br0 \t\n",
    b"allow br0 # comment\n",
    b"allow br0 # a long comment\n",
    b"allow br0\ndeny br0 # a\n",
    b"allow br0#\n",
    b"allow br0 br1\n",
    b"allow br0\r\nallow br1\r\n",
    b"allow br0\rdeny br0\n",
    b"allow\tbr0\n",
    b"allow\tbr0 \n",
    b"allow\tbr0\t\n",
    b"allow \tbr0\n",
    b"allow\vbr0\n",
    b"allow br0\v\n",
    b"\vallow br0\n",
    b"\fallow br0\f\n",
    b"\v\nallow br0\n",
    b"allow\fbr0\n",
    b"allow\n",
    b"allow \nallow br0\n",
    b"allow\t\nallow br0\n",
    b"deny \nallow br0\n",
    b"allow br0\nbogus\n",
    b"allow br0\nbogus br0\n",
    b"allow br0\n\0bogus\n",
    b"allow br0\0deny br0\n",
    b"allow br0\nden\0y br0\n",
    b"allow br0\n\0\0\0",
    b"\0\nallow br0",
    b"allow br0\x1a",
    b"\xef\xbb\xbfallow br0\n",
    b"allow br0\xa0\n",
    b"allow br0\x85\n",
    b"allow 123456789012345\nallow br0\n",
    b"allow 1234567890123456\nallow br0\n",
    b"deny 1234567890123456\nallow br0\n",
    b"allow br0\nallow \0" + b"x" * 20,
    b"allow " + b" " * 4000 + b"br0\n",
    b"allow " + b" " * 4086 + b"br0\n",  # 4095 without the newline
    b"allow " + b" " * 4085 + b"br0\n",
    b"allow " + b" " * 4087 + b"br0\n",  # the name is cut
    b"allow " + b" " * 4089 + b"br0\n",
    b"allow " + b" " * 4087 + b"br0allow br0\n",
    b"#" + b"x" * 4094 + b"allow br0\n",
    b"#" + b"x" * 4093 + b"allow br0\n",
    b"#" + b"x" * 4094 + b"\nallow br0\n",
    b"#" * 4094 + b"\nallow br0\n",
    b" " * 4095 + b"allow br0\n",
    b" " * 9000 + b"allow br0\n",
    b"\0" * 5000 + b"allow br0\n",
    b"\0" * 4095 + b"allow br0\n",
    b"allow br0\n#" + b"x" * 5000 + b"\n",
    b"#\n" * 5000 + b"allow br0\n",
    # What follows may include /etc/qemu/inc, which has the next list's content.
    b"include /etc/qemu/inc\n",
    b"include /etc/qemu/inc \r\nallow br0\n",
    b"include\t/etc/qemu/inc\nallow br0",
    b"include /etc/qemu/inc\ndeny br0\n",
    b"include inc\nallow br0\n",
    b"include ./inc\ninclude etc/qemu/inc\nallow br0\n",
    b"include \nallow br0\n",
    b"include\nallow br0\n",
    b"include /etc/qemu/inc\0x\n",
    b"include /etc/qemu/inc # x\n",
    b"include /etc/qemu/inc/\nallow br0\n",
    b"include /etc/qemu/inc/.\nallow br0\n",
    b"include /etc/qemu/inc/../inc\nallow br0\n",
    b"include /etc//qemu/./../qemu//inc\n",
    b"include /../../etc/qemu/inc\n",
    b"include /etc/qemu\nallow br0\n",
    b"include /etc/qemu/with space/inc\n",
    b"include /dev/null\nallow br0\n",
    b"include /etc/qemu/link\n",
    b"include /etc/qemu/dirlink/inc\n",
    b"include /etc/qemu/dirlink/../inc\n",
    b"include /etc/qemu/dangling\nallow br0\n",
    b"include /etc/qemu/ring\nallow br0\n",
    b"include /etc/qemu/hops40\n",
    b"include /etc/qemu/hops41\n",
    b"include /etc/qemu/socket\nallow br0\n",
    b"include /" + b"x" * 300 + b"\nallow br0\n",
    b"include " + b"/" * 4000 + b"etc/qemu/inc\n",
    b"include /etc/qemu/inc\ninclude /etc/qemu/inc\n",
]
INCLUDED = [b"allow br0\n", b"allow br0\nbogus\ndeny br0\n", b"deny br0\n"]


@pytest.fixture(scope="module", autouse=True)
def _possible() -> Iterator[None]:
    if reason := why_not():
        pytest.skip(f"no private copy of the helper: {reason}")
    with open("/proc/self/mountinfo") as mounts:
        before = mounts.read()
    yield
    with open("/proc/self/mountinfo") as mounts:
        assert mounts.read() == before


class Case(NamedTuple):
    """One request, and what came of it."""

    kind: str  # of the helper's answer
    verdict: Verdict
    strict: Verdict  # with strict_includes
    about: Any

    @property
    def granted(self) -> bool:
        """Whether the helper let it pass."""
        return self.kind in ("fd", "gone")

    @property
    def is_right(self) -> bool:
        """Strictly no more than otherwise, and less only over an include."""
        if self.verdict.allowed != self.granted:
            return False
        if self.strict.allowed == self.verdict.allowed:
            return True
        reason = self.strict.reason
        over = self.strict.undecided and re.match(r"/\S+:\d+: include", reason)
        return bool(over) and not self.strict.allowed


def compare(helper: PeerHelper, bridge: str, reader: Reader, about: Any) -> Case:
    answer = helper.ask(bridge, reader)
    assert answer.kind in ("fd", "acl", "parse", "gone"), answer
    usual, strict = (decide(CONF, bridge, reader, strict) for strict in (False, True))
    return Case(answer.kind, usual, strict, (bridge, about))


def report(cases: list[Case], requests: int, least: dict[str, int]) -> None:
    """No differences, and each kind of answer often enough to mean something."""
    wrong = [case for case in cases if not case.is_right]
    assert not wrong, f"{len(wrong)} of {len(cases)} differ: {wrong[:5]}"
    assert len(cases) == requests
    seen = Counter(case.kind for case in cases)
    seen["strictly refused"] = sum(c.granted > c.strict.allowed for c in cases)
    seen["strictly granted"] = sum(c.strict.allowed for c in cases)
    assert all(seen[kind] >= number for kind, number in least.items()), seen


def corpus_job() -> list[Case]:
    helper = PeerHelper(BRIDGES)
    cases = []
    for main in CORPUS:
        for included in INCLUDED if b"include" in main else [b""]:
            nodes = [Node(CONF, main), Node("/etc/qemu/inc", included)]
            nodes += [Node("/etc/qemu/with space", None, 0o755)]
            nodes += [Node("/etc/qemu/with space/inc", included)]
            nodes += [Node("/etc/qemu/link", link="inc")]
            nodes += [Node("/etc/qemu/dirlink", link="/etc/qemu/with space")]
            nodes += [Node("/etc/qemu/dangling", link="gone")]
            nodes += [Node("/etc/qemu/ring", link="ring")]
            if b"hops" in main:
                nodes += [Node("/etc/qemu/hops1", link="inc")]
                for i in range(2, 42):
                    nodes += [Node(f"/etc/qemu/hops{i}", link=f"hops{i - 1}")]
            make_tree(nodes)
            if b"socket" in main:
                os.mknod("/etc/qemu/socket", 0o140666)
            cases.append(compare(helper, "br0", ALICE, (main, included)))
    make_tree([])
    cases.append(compare(helper, "br0", ALICE, "no file"))
    make_tree([Node(CONF, None, 0o755)])
    cases.append(compare(helper, "br0", ALICE, "a directory"))
    make_tree([Node(CONF, "allow brücke\nallow br-fifteen-long\ndeny br0".encode())])
    cases += [compare(helper, bridge, ALICE, "names") for bridge in BRIDGES]
    make_tree([Node(CONF, b"allow all")])
    cases += [compare(helper, bridge, ALICE, "all") for bridge in BRIDGES + NO_BRIDGES]
    return cases


# How many files, and requests about them, a run compares is in the tests' names.
CORPUS_FILES = sum(len(INCLUDED) if b"include" in main else 1 for main in CORPUS)
CORPUS_REQUESTS = CORPUS_FILES + 2 + len(BRIDGES) + len(BRIDGES + NO_BRIDGES)


@pytest.mark.parametrize(
    "requests", [CORPUS_REQUESTS], ids=f"{CORPUS_FILES}-files-{{}}-requests".format
)
def test_corpus(requests: int) -> None:
    least = {"fd": 40, "acl": 20, "parse": 10}
    least |= {"strictly refused": 20, "strictly granted": 30}
    report(in_private_namespaces(corpus_job), requests, least)


PLACES = ["/etc/qemu/a", "/etc/qemu/d/b", "/etc/qemu/d/e/c", "/etc/qemu/f"]
MODES = [0o644, 0o644, 0o640, 0o604, 0o600, 0o440, 0o060, 0o004, 0o000]
DIRECTORY_MODES = [0o755, 0o755, 0o750, 0o711, 0o705, 0o700, 0o070, 0o001, 0o1777]
ACLS = ["", "", "", "u:1001:r-x", "u:1001:---", "g:2002:r-x,g:2001:-w-", "g:2003:r--"]
MASKS = ["", ",m::r-x", ",m::--x", ",m::---"]


def owned(rng: random.Random, node: Node, modes: list[int]) -> Node:
    acl = rng.choice(ACLS)
    return node._replace(
        mode=rng.choice(modes),
        uid=rng.choice([0, 0, 1001, 1002]),
        gid=rng.choice([0, 2001, 2002]),
        acl=acl + rng.choice(MASKS) if acl else "",
    )


def some_line(rng: random.Random, includes: list[str]) -> bytes:
    if includes and rng.random() < 0.4:
        path = rng.choice([*includes, "/etc/qemu/link", "/etc/qemu/d", "f", "/gone"])
        if path != "/etc/qemu/link" or PLACES[3] in includes:
            return b"include " + path.encode() + b"\n"
    if rng.random() < 0.03:
        return bytes(rng.choices(b"allow deny br0\t\v\0\r#\n\xff", k=rng.randrange(12)))
    word = rng.choices([b"allow", b"deny", b"#"], [9, 1, 1])[0]
    gap = rng.choices([b" ", b"\t", b" \t", b"\f "], [9, 2, 1, 0.1])[0]
    name = rng.choice(ASKED).encode()
    end = rng.choices([b"\n", b"\r\n", b" \n", b"\0x\n", b"\v\n"], [9, 1, 1, 0.3, 0.3])
    pad = b" " * rng.randrange(4070, 4100) if rng.random() < 0.03 else b""
    return word + gap + pad + name + end[0]


def some_tree(rng: random.Random) -> list[Node]:
    def content(includes: list[str]) -> bytes:
        lines = rng.randrange(1, 5)
        return b"".join(some_line(rng, includes) for _ in range(lines))

    nodes = [Node("/etc/qemu/d", None), Node("/etc/qemu/d/e", None)]
    nodes = [owned(rng, node, DIRECTORY_MODES) for node in nodes]
    for i, path in enumerate(PLACES):
        nodes.append(owned(rng, Node(path, content(PLACES[i + 1 :])), MODES))
    nodes.append(Node("/etc/qemu/link", link=rng.choice(["f", "d/../f", PLACES[3]])))
    main = Node(CONF, content(PLACES) + b"include " + rng.choice(PLACES).encode())
    nodes.append(owned(rng, main, MODES) if rng.random() < 0.15 else main)
    return nodes


TREES = 300  # of files, directories, modes, owners, ACLs and links
REQUESTS = 4  # about each, by some user for some bridge


def generated_job(seed: int = 20) -> list[Case]:
    helper = PeerHelper(BRIDGES)
    rng = random.Random(seed)
    cases = []
    for number in range(TREES):
        nodes = some_tree(rng)
        make_tree(nodes)
        for _ in range(REQUESTS):
            reader, bridge = rng.choice(READERS), rng.choice(ASKED)
            cases.append(compare(helper, bridge, reader, (number, reader, nodes)))
    return cases


@pytest.mark.parametrize(
    "requests", [TREES * REQUESTS], ids=f"{TREES}-trees-{{}}-requests".format
)
def test_generated_files_modes_and_callers(requests: int) -> None:
    least = {"fd": 300, "acl": 300, "parse": 120}
    least |= {"strictly refused": 100, "strictly granted": 50}
    report(in_private_namespaces(generated_job), requests, least)


def rights_job(seed: int = 7) -> list[tuple[Any, Any, Any]]:
    """Every generated file, by every reader: read_as_user against open(2)."""
    rng = random.Random(seed)
    wrong = []
    paths = [CONF, *PLACES, "/etc/qemu/d", "/etc/qemu/d/e", "/etc/qemu/link"]
    links = [
        Node("/etc/qemu/hop", link="d/e/../b"),
        Node("/etc/qemu/abs", link=PLACES[2]),
    ]
    links += [Node("/etc/qemu/dir", link="/etc/qemu/d/e/")]
    paths += [*(link.path for link in links), "/etc/qemu/dir/c", "/etc/qemu/dir/../b"]
    paths += ["/etc/qemu/d/../f", "/etc/qemu/d/e/../b", "/etc/qemu/f/x", "/etc/gone"]
    for _ in range(80):
        nodes = [
            node if node.content is None or node.link else node._replace(content=b"x")
            for node in some_tree(rng)
        ]
        make_tree(nodes + links)
        for reader in READERS:
            real = open_as(paths, reader)
            for path, expected in zip(paths, real, strict=True):
                found: bytes | int
                try:
                    found = read_as_user(path.encode(), reader, 100).data
                except OSError as error:
                    found = error.errno or 0
                if found != expected:
                    wrong.append((reader, path, (expected, found, nodes)))
    return wrong


def test_right_to_read_is_the_kernels() -> None:
    assert not in_private_namespaces(rights_job)


def test_broker_without_the_callers_right_refuses() -> None:
    def job() -> list[tuple[bool, str]]:
        main = b"allow br0\ninclude /etc/qemu/d/b\n"
        outcome = []
        for mode, directory in ((0o640, 0o755), (0o644, 0o750), (0o600, 0o755)):
            b = Node("/etc/qemu/d/b", b"deny br0", mode, 0, 2001)
            d = Node("/etc/qemu/d", None, directory, 0, 2001)
            make_tree([Node(CONF, main), d, b])
            os.seteuid(1009)
            verdict = decide(CONF, "br0", ALICE)
            os.seteuid(0)
            outcome.append((verdict.allowed, verdict.reason))
        return outcome

    may_read, may_search, neither = in_private_namespaces(job)
    place = f"{CONF}:2: include /etc/qemu/d/b: the broker cannot"
    assert may_read == (False, f"{place} read it: Permission denied")
    assert may_search == (False, f"{place} reach it: Permission denied")
    assert neither == (True, f"allowed by {CONF}:1: allow br0")


def test_file_system_that_a_user_serves_is_not_waited_for() -> None:
    """FUSE that never answers, as any user may mount it where fuse.conf says so,
    and another mount of /proc: neither is asked for anything."""

    def job() -> list[str]:
        make_tree(
            [
                Node(CONF, b"allow br0\ninclude /etc/qemu/link\n"),
                Node("/etc/qemu/fuse", None, 0o755),
                Node("/etc/qemu/proc", None, 0o755),
            ]
        )
        silent = os.open("/dev/fuse", os.O_RDWR)
        options = f"fd={silent},rootmode=40000,user_id=1001,group_id=2001,allow_other"
        mount("fuse", "/etc/qemu/fuse", "fuse", options)
        mount("proc", "/etc/qemu/proc", "proc", "")
        outcome = []
        for target in ("fuse", "fuse/x", "fuse/../f", "proc", "proc/self/environ"):
            if os.path.lexists("/etc/qemu/link"):
                os.unlink("/etc/qemu/link")
            os.symlink(target, "/etc/qemu/link")
            signal.alarm(20)  # what would wait, waits for ever
            verdict = decide(CONF, "br0", ALICE)
            signal.alarm(0)
            assert (verdict.allowed, verdict.undecided) == (False, True)
            outcome.append(verdict.reason.removeprefix(f"{CONF}:2: "))
        os.close(silent)
        return outcome

    served = "include /etc/qemu/link: on a file system that a user serves"
    made = "include /etc/qemu/link: on proc, where files are made when they are read"
    assert in_private_namespaces(job) == [served, served, served, made, made]


def test_documented_differences() -> None:
    """What the helper does where this project refuses, so that it stays true."""

    def job() -> dict[str, tuple[str, bool]]:
        helper = PeerHelper(["br0"])
        outcome = {}

        def ask(
            name: str,
            main: bytes,
            *more: Node,
            before: Callable[[], None] = lambda: None,
            bridge: str = "br0",
            **options: Any,
        ) -> None:
            make_tree([Node(CONF, main), *more])
            before()
            answer = helper.ask(bridge, ALICE, timeout=0.4, **options)
            outcome[name] = (answer.kind, decide(CONF, bridge, ALICE).allowed)

        def limited(number: int) -> Callable[[], None]:
            limits = (number, number)
            return lambda: resource.setrlimit(resource.RLIMIT_NOFILE, limits)

        loop = b"allow br0\n" + f"include {CONF}\n".encode()
        ask("loop", loop, preexec=limited(256))
        ask("branching loop", loop * 2, preexec=limited(256))
        fifo = "/etc/qemu/fifo"
        include = f"include {fifo}\nallow br0".encode()
        ask("fifo", include, before=lambda: os.mkfifo(fifo, 0o644))
        zero = os.makedev(1, 5)
        ask("zero", include, before=lambda: os.mknod(fifo, 0o020644, zero))
        ask("/proc", b"allow br0\ninclude /proc/self/cwd")
        ask("empty name", b"allow \n", bridge="")
        ask("huge", b"allow br0\n" + b"#" * 1023 * 1025)

        for number in range(5, 12):
            ask(
                f"{number} descriptors",
                b"allow br0\ninclude /etc/qemu/1",
                Node("/etc/qemu/1", b"include /etc/qemu/2"),
                Node("/etc/qemu/2", b"include /etc/qemu/3"),
                Node("/etc/qemu/3", b"deny br0"),
                preexec=limited(number),
            )
        own = [Node("/etc/qemu/home", None, 0o700, 1001, 2001)]
        own += [Node("/etc/qemu/home/x", b"allow all", 0o600, 1001, 2001)]
        ask("relative", b"include x", *own, cwd="/etc/qemu/home")
        # Names are compared as given; who calls decide() has to resolve them.
        set_alternative_name("br0", "lan0")
        ask("alternative name", b"allow all\ndeny br0", bridge="lan0")
        return outcome

    outcome = in_private_namespaces(job)
    few = [outcome.pop(f"{number} descriptors") for number in range(5, 12)]
    # Some limit hides the deny and leaves enough for the rest of the work.
    assert ("fd", False) in few
    assert few[-1] == ("acl", False)
    assert outcome == {
        "loop": ("fd", False),
        "branching loop": ("hang", False),
        "fifo": ("hang", False),
        "zero": ("hang", False),
        "/proc": ("fd", False),
        "empty name": ("gone", False),
        "huge": ("fd", False),
        "relative": ("fd", False),
        "alternative name": ("fd", True),
    }
