# SPDX-License-Identifier: LGPL-2.1-or-later
"""Which file systems are looked at; `kernel/test_mounts.py` has real ones."""

from __future__ import annotations

import pytest

from tapster.policy.foreign import mounts


@pytest.mark.parametrize(
    ("kind", "options", "says"),
    [
        ("ext4", "rw", None),
        ("tmpfs", "rw,user_id=1000", None),
        ("proc", "rw", "on proc, where"),
        ("sysfs", "rw", "on sysfs, where"),
        ("fuse", "rw,user_id=1000,group_id=1000", "that a user serves"),
        ("fuse.sshfs", "rw,user_id=1000,group_id=0,allow_other", "that a user serves"),
        ("fuse.x", "rw,user_id=0,user_id=1000", "that a user serves"),
        ("fuse.x", "rw", "that a user serves"),
        ("fuseblk", "rw,user_id=0,group_id=0,allow_other", None),
        ("fuse.overlay", "rw,user_id=0,group_id=0", None),
    ],
)
def test_which_file_systems_may_be_asked(
    kind: str, options: str, says: str | None
) -> None:
    found = mounts._objection(kind, options)
    assert found == says or (found is not None and says is not None and says in found)


def test_a_mount_that_is_not_listed_is_not_asked() -> None:
    assert mounts.why_not(2**40) == "on a mount that is not listed"
