# SPDX-License-Identifier: LGPL-2.1-or-later
"""Which mounts may be looked at, while mounts come and go."""

from __future__ import annotations

from lab import Lab

# What is mounted there, one after the other; at each look nothing may be remembered
# of the one before, though the kernel may use its id again.
_CODE = """
import os, subprocess, sys
from tapster.policy.foreign import mounts

def look():
    fd = os.open("/run/there", os.O_PATH)
    try:
        return mounts.why_not(mounts.mount_of(fd))
    finally:
        os.close(fd)

os.makedirs("/run/there")
for kind in ["tmpfs", "proc", "sysfs"] * 20:
    subprocess.run(["mount", "-t", kind, kind, "/run/there"], check=True)
    said = {look() for _ in range(3)}
    wrong = said != {None} if kind == "tmpfs" else f"on {kind}," not in str(said)
    if wrong:
        sys.exit(f"{kind}: {said}")
    subprocess.run(["umount", "/run/there"], check=True)
descriptors = os.listdir("/proc/self/fd")
if os.fork() == 0:
    # Of a child the table is its own.
    subprocess.run(["mount", "-t", "proc", "proc", "/run/there"], check=True)
    os._exit(not (look() or "").startswith("on proc"))
if os.wait()[1] or len(os.listdir("/proc/self/fd")) != len(descriptors):
    sys.exit("the child")
"""


def test_what_is_mounted_is_known_as_it_is_now(lab: Lab) -> None:
    lab.host.run(lab.python, "-c", _CODE)
