# SPDX-License-Identifier: LGPL-2.1-or-later
"""Users and groups by name, on the real broker: NSS says who a name is, the kernel
who is asking. And whose files say it at all."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import ExitStack

import pytest

from lab import OTHER, USER, Daemon, Lab, until
from support.host import attach, until_nothing_is_left
from support.managing import reload
from support.serving import bridges, serving
from tapster import errors

THIRD, FOURTH = 23003, 23004
VMS = 24000  # a group

# ann's process has it, which /etc/group does not say; cid's has not, though
# /etc/passwd and /etc/group both say so. ben's primary group is ben's.
PASSWD = f"""
ann:x:{USER}:{USER}::/:/bin/sh
ben:x:{OTHER}:{OTHER}::/:/bin/sh
cid:x:{THIRD}:{VMS}::/:/bin/sh
2500:x:{FOURTH}:{FOURTH}::/:/bin/sh
"""
GROUP = f"""
vms:x:{VMS}:cid
bens:x:{OTHER}:
"""
RULES = f"""
[authorization]
lxc_usernet = "/run/usernet"
[[rules]]
users = ["ann"]
bridges = ["byname"]
[[rules]]
users = [{USER}]
bridges = ["bynumber"]
[[rules]]
groups = ["vms"]
bridges = ["bygroup"]
[[rules]]
groups = [{VMS}]
bridges = ["bygid"]
[[rules]]
groups = ["bens"]
bridges = ["byprimary"]
[[rules]]
users = ["2500"]
bridges = ["bydigits"]
[[rules]]
bridges = ["notgroup"]
[[rules]]
groups = ["vms"]
bridges = ["notgroup"]
effect = "deny"
"""
BRIDGES = ["byname", "bynumber", "bygroup", "bygid", "byprimary", "bydigits",
           "notgroup", "usernet"]  # fmt: skip
EVERYTHING = "".join(f'[[rules]]\nbridges = ["{name}"]\n' for name in BRIDGES)


def accounts(lab: Lab, passwd: str = PASSWD, group: str = GROUP) -> None:
    """What the host's /etc/passwd and /etc/group say besides what is there."""
    for name, text in (("passwd", passwd), ("group", group)):
        lab.host.run(
            "sh", "-ec", f"cat /run/{name}.before - > /run/{name}",
            input=text.lstrip(),
        )  # fmt: skip


@pytest.fixture(scope="module")
def daemon(lab: Lab) -> Iterator[Daemon]:
    lab.host.run(
        "sh", "-ec",
        "for f in passwd group; do"
        "  cp /etc/$f /run/$f.before; cp /etc/$f /run/$f; mount --bind /run/$f /etc/$f;"
        "done;"
        "printf 'passwd: files\\ngroup: files\\n' > /run/nsswitch.conf;"
        "mount --bind /run/nsswitch.conf /etc/nsswitch.conf",
    )  # fmt: skip
    accounts(lab)
    lab.bridge_conf("")
    with bridges(lab, BRIDGES), serving(lab, RULES) as running:
        yield running


@pytest.fixture
def held(lab: Lab, daemon: Daemon) -> Iterator[ExitStack]:
    """What is open for a test; afterwards everything is as at first."""
    with ExitStack() as stack:
        yield stack
    until_nothing_is_left(lab)
    lab.host.run("sh", "-ec", "rm -rf /run/config /run/usernet /run/foreign")
    accounts(lab)
    lab.config(RULES)
    assert reload(lab) == []


def may(lab: Lab, uid: int, bridge: str, *groups: int) -> bool:
    try:
        attach(lab, uid, groups, bridge=bridge).close()
    except errors.NotAuthorized:
        return False
    return True


def refusal(lab: Lab) -> str:
    """What a reload is refused for."""
    with pytest.raises(errors.ConfigInvalid) as caught:
        reload(lab)
    assert "nothing has changed" in str(caught.value.hint)
    return caught.value.message


@pytest.mark.parametrize(
    ("bridge", "uid", "groups", "allowed"),
    [
        ("byname", USER, [], True),
        ("byname", OTHER, [], False),
        ("bynumber", USER, [], True),
        ("bynumber", OTHER, [], False),
        ("bydigits", FOURTH, [], True),
        ("bydigits", 2500, [], False),
        # A group the process has, whatever /etc/group says of the user.
        ("bygroup", USER, [VMS], True),
        ("bygroup", USER, [OTHER, VMS, 1], True),
        ("bygroup", USER, [], False),
        ("bygroup", THIRD, [], False),
        ("bygroup", 65534, [VMS], True),
        ("bygid", OTHER, [VMS], True),
        ("bygid", THIRD, [], False),
        # The process's primary group, and that as another's supplementary one.
        ("byprimary", OTHER, [], True),
        ("byprimary", USER, [], False),
        ("byprimary", USER, [OTHER], True),
        # What denies is no different.
        ("notgroup", USER, [], True),
        ("notgroup", USER, [VMS], False),
        # A group that one has left denies all the same: anybody can leave one.
        ("notgroup", THIRD, [], False),
    ],
)
def test_nss_says_who_a_name_is_and_the_kernel_who_asks(
    lab: Lab, held: ExitStack, bridge: str, uid: int, groups: list[int], allowed: bool
) -> None:
    assert may(lab, uid, bridge, *groups) == allowed


class TestReload:
    def test_a_reload_with_a_name_that_has_vanished_is_refused(
        self, lab: Lab, daemon: Daemon, held: ExitStack
    ) -> None:
        lab.config(RULES.replace("byprimary", "usernet"))
        accounts(lab, PASSWD.replace("ann:", "anna:"))
        line = RULES[: RULES.index('"ann"')].count("\n") + 1
        message = refusal(lab)
        assert message.startswith(f"/run/config/tapster.toml:{line}:10: ")
        assert "there is no user 'ann'" in message
        count = daemon.log.count(message)
        daemon.process.send_signal(signal.SIGHUP)
        until("the log", lambda: daemon.log.count(message) > count)
        # Whom the name meant, it means; and nothing else has changed.
        assert may(lab, USER, "byname")
        assert may(lab, OTHER, "byprimary") and not may(lab, OTHER, "usernet")

    def test_a_reload_with_a_group_that_has_vanished_is_refused(
        self, lab: Lab, held: ExitStack
    ) -> None:
        accounts(lab, group="")
        assert "there is no group 'vms'" in refusal(lab)
        assert may(lab, USER, "bygroup", VMS)
        assert not may(lab, USER, "notgroup", VMS)

    def test_a_reload_takes_a_name_for_whose_it_is_then(
        self, lab: Lab, held: ExitStack
    ) -> None:
        accounts(lab, PASSWD.replace(f"ann:x:{USER}", f"ann:x:{THIRD}"))
        assert may(lab, USER, "byname") and not may(lab, THIRD, "byname")
        reload(lab)
        assert not may(lab, USER, "byname") and may(lab, THIRD, "byname")


class TestUsernet:
    """The same for lxc-usernet, which is read at each request."""

    def write(self, lab: Lab, text: str) -> None:
        lab.host.run("sh", "-c", "cat > /run/usernet", input=text)

    def test_lxc_usernet_has_nss_names_and_the_kernel_s_groups(
        self, lab: Lab, held: ExitStack
    ) -> None:
        assert not may(lab, USER, "usernet")
        self.write(lab, "ann tap usernet 1\n@vms tap usernet 1\n@bens tap usernet 1\n")
        assert may(lab, USER, "usernet") and may(lab, OTHER, "usernet")
        assert may(lab, 65534, "usernet", VMS)
        assert not may(lab, THIRD, "usernet") and not may(lab, FOURTH, "usernet")
        assert not may(lab, OTHER, "byname")

    def test_an_edit_of_lxc_usernet_counts_with_the_next_request(
        self, lab: Lab, held: ExitStack
    ) -> None:
        for text, allowed in (
            ("ann tap usernet 2\n", True),
            ("ann tap usernet 0\n", False),
            ("ann tap usernet 3\n", True),
            ("ann veth usernet 3\n", False),
            ("ben tap usernet 3\n", False),
            ("2500 tap usernet 3\nann tap usernet 1\n", True),
        ):
            self.write(lab, text)
            assert may(lab, USER, "usernet") == allowed

    def test_numbers_of_lxc_usernet_add_up(self, lab: Lab, held: ExitStack) -> None:
        self.write(lab, "ann tap usernet 1\n@vms tap usernet 1\n")
        held.enter_context(attach(lab, USER, [VMS], bridge="usernet"))
        with pytest.raises(errors.QuotaExceeded):
            attach(lab, USER, bridge="usernet").close()
        second = attach(lab, USER, [VMS], bridge="usernet")
        with pytest.raises(errors.QuotaExceeded):
            attach(lab, USER, [VMS], bridge="usernet").close()
        second.close()
        held.enter_context(attach(lab, USER, [VMS], bridge="usernet"))

    def test_a_group_s_number_in_lxc_usernet_is_for_all_its_members(
        self, lab: Lab, held: ExitStack
    ) -> None:
        self.write(lab, "@vms tap usernet 2\nann tap usernet 1\n")
        held.enter_context(attach(lab, 65534, [VMS], bridge="usernet"))
        last = attach(lab, USER, [VMS], bridge="usernet")
        # The group has no more; ann has one of her own.
        held.enter_context(attach(lab, USER, [VMS], bridge="usernet"))
        for uid in (USER, 65534):
            with pytest.raises(errors.QuotaExceeded):
                attach(lab, uid, [VMS], bridge="usernet").close()
        last.close()
        held.enter_context(attach(lab, 65534, [VMS], bridge="usernet"))

    @pytest.mark.parametrize(
        ("spoil", "says"),
        [
            ("chmod 0664 /run/usernet", "others than root may write to it"),
            (f"chown {USER} /run/usernet", f"belongs to uid {USER}, not to root"),
            ("rm /run/usernet; mkfifo /run/usernet", "not a regular file"),
        ],
    )
    def test_an_lxc_usernet_that_others_may_write_grants_nothing(
        self, lab: Lab, daemon: Daemon, held: ExitStack, spoil: str, says: str
    ) -> None:
        self.write(lab, "ann tap usernet 1\n")
        assert may(lab, USER, "usernet")
        lab.host.run("sh", "-ec", spoil)
        assert not may(lab, USER, "usernet")
        assert f"/run/usernet: {says}" in daemon.log


FOREIGN = f"cp $1 /run/foreign; chown {USER} /run/foreign; ln -sf /run/foreign $1"


class TestFiles:
    @pytest.mark.parametrize(
        ("spoil", "path", "says"),
        [
            ("chmod 0664 $1", "tapster.toml", "others than root may write to it"),
            ("chmod 0646 $1", "tapster.toml", "others than root may write to it"),
            (f"chown {USER} $1", "tapster.toml", f"belongs to uid {USER}"),
            (FOREIGN, "tapster.toml", f"belongs to uid {USER}"),
            ("setfacl -m u:1:rw $1", "tapster.toml", "others than root may write"),
            ("chmod 0664 $1", "conf.d/10.toml", "others than root may write to it"),
            (f"chown {USER} $1", "conf.d/10.toml", f"belongs to uid {USER}"),
            (FOREIGN, "conf.d/10.toml", f"belongs to uid {USER}"),
            ("rm $1; mkfifo $1", "conf.d/10.toml", "not a regular file"),
            ("rm $1; ln -s gone $1", "conf.d/10.toml", "No such file"),
            ("chmod 0775 $1", "conf.d", "others than root may write to it"),
            (f"chown {USER} $1", "conf.d", f"belongs to uid {USER}"),
            ("rm -r $1; ln -s gone $1", "conf.d", "No such file"),
            ("chmod 1777 $1", "", "others than root may write to it"),
            (f"chown {USER} $1", "", f"belongs to uid {USER}"),
        ],
    )
    def test_files_that_others_may_write_are_refused_and_the_old_policy_stays(
        self,
        lab: Lab,
        daemon: Daemon,
        held: ExitStack,
        spoil: str,
        path: str,
        says: str,
    ) -> None:
        lab.config(RULES + EVERYTHING)
        full = f"/run/config/{path}".rstrip("/")
        lab.host.run(
            "sh", "-ec",
            'mkdir /run/config/conf.d; cat > /run/config/conf.d/10.toml;'
            f'set -- {full}; {spoil}',
            input=EVERYTHING,
        )  # fmt: skip
        message = refusal(lab)
        assert message.startswith(f"{full}: {says}")
        assert f"{message}; the configuration stays as it was" in daemon.log
        assert may(lab, USER, "byname") and not may(lab, OTHER, "byname")
        assert not may(lab, USER, "usernet")

    def test_files_that_are_root_s_again_are_taken_by_the_next_reload(
        self, lab: Lab, held: ExitStack
    ) -> None:
        lab.config(RULES + EVERYTHING)
        lab.host.run("chmod", "0664", "/run/config/tapster.toml")
        refusal(lab)
        lab.host.run("chmod", "0644", "/run/config/tapster.toml")
        reload(lab)
        assert may(lab, OTHER, "byname") and may(lab, OTHER, "usernet")
