# SPDX-License-Identifier: LGPL-2.1-or-later
"""A system bus and a polkitd of the lab's host, the real ones, and what talks to
them: an authentication agent, and clients of the broker with users' own ids.

The bus is where the system's is, but of the lab's own /run. polkitd finds the
action file and the rules that a test put there, by mounts of the lab's own.
"""

from __future__ import annotations

import json
import os
import socket
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from queue import Queue
from typing import Any, NamedTuple

from jeepney import (
    DBusAddress,
    HeaderFields,
    Message,
    MessageType,
    new_error,
    new_method_call,
    new_method_return,
)
from jeepney.io.blocking import DBusConnection, open_dbus_connection

from lab import CHECKOUT, OTHER, USER, Daemon, Lab, until
from support.host import RUNTIME, SOCKET_NAME, broker_as, inside
from support.serving import stop_well
from tapster.kernel import process

POLKITD = ("/usr/lib/polkit-1/polkitd", "/usr/libexec/polkitd")
NAME = "org.freedesktop.PolicyKit1"
AUTHORITY = DBusAddress(
    f"/{NAME.replace('.', '/')}/Authority", NAME, f"{NAME}.Authority"
)
BUS = "/run/dbus/system_bus_socket"
BROKER, THIRD = 23100, 23003  # the user that tapsterd is here, and one more

# In the groups that the example of rules is about; bob is in none.
USERS = {"alice": USER, "bob": OTHER, "carol": THIRD, "tapster": BROKER}
GROUPS = {
    "netdev": (23200, "alice"),
    "kvm": (23201, "alice"),
    "dmz-admins": (23202, "carol"),
}

# As a system bus is configured where nothing else says more; what polkit adds to
# that is its own.
_CONFIG = f"""<!DOCTYPE busconfig PUBLIC
 "-//freedesktop//DTD D-Bus Bus Configuration 1.0//EN"
 "http://www.freedesktop.org/standards/dbus/1.0/busconfig.dtd">
<busconfig><type>system</type><listen>unix:path={BUS}</listen><auth>EXTERNAL</auth>
<policy context="default"><allow user="*"/><deny own="*"/>
<deny send_type="method_call"/><allow send_type="signal"/>
<allow send_requested_reply="true" send_type="method_return"/>
<allow send_requested_reply="true" send_type="error"/>
<allow receive_type="method_call"/><allow receive_type="method_return"/>
<allow receive_type="error"/><allow receive_type="signal"/>
<allow send_destination="org.freedesktop.DBus"/></policy>
<include ignore_missing="yes">/usr/share/dbus-1/system.d/{NAME}.conf</include>
<include ignore_missing="yes">/etc/dbus-1/system.d/{NAME}.conf</include>
</busconfig>
"""
_SETUP = """
mkdir -p /run/dbus /run/polkit/actions /run/polkit/rules /run/polkit/none
mount --bind /run/polkit/actions /usr/share/polkit-1/actions
mount --bind /run/polkit/none /usr/share/polkit-1/rules.d
mount --bind /run/polkit/rules /etc/polkit-1/rules.d
for file in passwd group; do
    mount --bind /run/polkit/$file /etc/$file
done
"""


def why_not() -> str | None:
    """What is missing here; None if nothing is."""
    if polkitd() is None:
        return "no polkitd (Debian: polkitd)"
    for directory in os.get_exec_path():
        if os.access(f"{directory}/dbus-daemon", os.X_OK):
            return None
    return "no dbus-daemon (Debian: dbus-daemon)"


def polkitd() -> str | None:
    return next((path for path in POLKITD if os.access(path, os.X_OK)), None)


@contextmanager
def broker_as_tapster(lab: Lab) -> Iterator[Daemon]:
    """A broker that is user tapster, and ends with nothing left."""
    running = broker_as(lab, BROKER)
    yield running
    stop_well(lab, running)


class Polkitd:
    """The two daemons, until `close()`."""

    def __init__(self, lab: Lab) -> None:
        self.lab = lab
        self._log = (lab.directory / "polkit.log").open("w")
        self.bus: subprocess.Popen[Any] | None = None
        self.polkitd: subprocess.Popen[Any] | None = None
        self._prepare()

    def _prepare(self) -> None:
        """Users, groups and mounts; the action file, and no rules."""
        passwd = [f"{name}:x:{uid}:{uid}::/:/bin/sh" for name, uid in USERS.items()]
        group = [f"{name}:x:{uid}:" for name, uid in USERS.items()]
        group += [f"{name}:x:{gid}:{who}" for name, (gid, who) in GROUPS.items()]
        self.lab.host.run("mkdir", "-p", "/run/polkit")
        for file, added in (("passwd", passwd), ("group", group)):
            known = {line.split(":")[0] for line in added}
            kept = [
                line
                for line in Path(f"/etc/{file}").read_text().splitlines()
                if line.split(":")[0] not in known
            ]
            text = "\n".join(added + kept) + "\n"
            self.write(f"/run/polkit/{file}", text)
        self.lab.host.run("sh", "-ec", _SETUP)
        self.write("/run/polkit/bus.conf", _CONFIG)
        policy = (CHECKOUT / "data/io.tapster.policy").read_text()
        self.write("/run/polkit/actions/io.tapster.policy", policy)

    def write(self, path: str, text: str) -> None:
        Path(inside(self.lab, path)).write_text(text)

    def rules(self, **files: str) -> None:
        """Have these files of rules and no others; for the next polkitd."""
        directory = inside(self.lab, "/run/polkit/rules")
        for name in os.listdir(directory):
            os.unlink(f"{directory}/{name}")
        for name, text in files.items():
            self.write(f"/run/polkit/rules/{name.replace('_', '-')}.rules", text)

    def start(self) -> None:
        """Start what does not run, and wait until polkit can be asked."""
        if self.bus is None:
            self.bus = self._popen(
                "dbus-daemon", "--nofork", "--nopidfile", "--nosyslog",
                "--config-file=/run/polkit/bus.conf",
            )  # fmt: skip
            until("a bus", lambda: os.path.exists(inside(self.lab, BUS)))
        if self.polkitd is None:
            self.polkitd = self._popen(str(polkitd()))
        with self.connect() as connection:
            bus = DBusAddress(
                "/org/freedesktop/DBus", "org.freedesktop.DBus", "org.freedesktop.DBus"
            )
            asking = new_method_call(bus, "NameHasOwner", "s", (NAME,))
            until("polkit", lambda: connection.send_and_get_reply(asking).body[0])

    def _popen(self, *command: str) -> subprocess.Popen[Any]:
        return self.lab.host.popen(*command, stdout=self._log, stderr=self._log)

    def kill_polkitd(self) -> None:
        if self.polkitd is not None:
            self.polkitd.kill()
            self.polkitd.wait()
            self.polkitd = None

    def kill_bus(self) -> None:
        """polkitd ends with its bus."""
        if self.bus is not None:
            self.bus.kill()
            self.bus.wait()
            self.bus = None
            os.unlink(inside(self.lab, BUS))
        self.kill_polkitd()

    def close(self) -> None:
        self.kill_bus()
        self._log.close()

    @property
    def log(self) -> str:
        return (self.lab.directory / "polkit.log").read_text(errors="replace")

    @contextmanager
    def connect(self) -> Iterator[DBusConnection]:
        """A connection of root's."""
        connection = open_dbus_connection(f"unix:path={inside(self.lab, BUS)}")
        try:
            yield connection
        finally:
            connection.close()


class Asker:
    """A client of the broker: `asker.py`, run by a user."""

    def __init__(self, lab: Lab, uid: int, *options: str) -> None:
        groups = [gid for gid, who in GROUPS.values() if USERS.get(who) == uid]
        command = lab.host.prefix(uid, groups=groups)
        script = "/run/checkout/tests/support/asker.py"
        self._process = subprocess.Popen(
            [*command, lab.python, script, f"{RUNTIME}/{SOCKET_NAME}", *options],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        assert self._process.stdout is not None
        assert self._process.stdout.readline() == "ready\n"

    @property
    def pid(self) -> int:
        return self._process.pid

    def begin(self, method: str, **parameters: object) -> None:
        """Send a call."""
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps([method, parameters]) + "\n")
        self._process.stdin.flush()

    def end(self) -> dict[str, Any]:
        """Its reply, when that is there."""
        assert self._process.stdout is not None
        return dict(json.loads(self._process.stdout.readline()))

    def attach(self, network: str, name: str, *, interactive: bool = False) -> str:
        """The name of the device, or of the error."""
        self.begin("Attach", network=network, name=name, interactive=interactive)
        return self.attached()

    def attached(self) -> str:
        reply = self.end()
        return str(reply["error"] if "error" in reply else reply["nic"]["ifname"])

    def kill(self) -> None:
        self._process.kill()
        self._process.wait()

    def __enter__(self) -> Asker:
        return self

    def __exit__(self, *_: object) -> None:
        self.kill()
        for stream in (self._process.stdin, self._process.stdout):
            assert stream is not None
            stream.close()


class Begun(NamedTuple):
    """One BeginAuthentication."""

    action: str
    message: str
    cookie: str
    identities: list[int]  # uids, any of which will do


class Agent:
    """An authentication agent for one process. It believes whom it is told to.

    `asked` has what was begun, `cancelled` the cookies of what was withdrawn.
    """

    def __init__(self, polkit: Polkitd, pid: int, uid: int) -> None:
        self._connection = open_dbus_connection(f"unix:path={inside(polkit.lab, BUS)}")
        self.asked: Queue[Begun] = Queue()
        self.cancelled: Queue[str] = Queue()
        self._open: dict[str, Message] = {}
        self._uid = uid
        subject = (
            "unix-process",
            {
                "pid": ("u", pid),
                "start-time": ("t", process.start_time(pid)),
                "uid": ("i", uid),
            },
        )
        self.call(
            "RegisterAuthenticationAgent", "(sa{sv})ss",
            (subject, "en_US.UTF-8", "/agent"),
        )  # fmt: skip
        self._thread = threading.Thread(target=self._listen)
        self._thread.start()

    def call(self, method: str, signature: str, body: tuple[Any, ...]) -> None:
        """:raises RuntimeError: polkit does not like it."""
        message = new_method_call(AUTHORITY, method, signature, body)
        reply = self._connection.send_and_get_reply(message, timeout=10)
        if reply.header.message_type is MessageType.error:
            raise RuntimeError(reply.body[0])

    def _listen(self) -> None:
        while True:
            try:
                message = self._connection.receive()
            except (OSError, EOFError):
                return
            member = message.header.fields.get(HeaderFields.member)
            if member == "BeginAuthentication":
                action, text, _, _, cookie, identities = message.body
                self._open[cookie] = message
                uids = [details["uid"][1] for _, details in identities]
                self.asked.put(Begun(action, text, cookie, uids))
            elif member == "CancelAuthentication":
                self._connection.send(new_method_return(message))
                self.cancelled.put(message.body[0])

    def vouch(self, polkit: Polkitd, cookie: str) -> None:
        """Say that root has typed in the right password, as the helper of a real
        agent does, which is setuid root for that.

        :raises RuntimeError: polkit does not wait for that any more.
        """
        identity = ("unix-user", {"uid": ("u", 0)})
        with polkit.connect() as connection:
            # The user of an agent is, to polkit 122, the one whose process it is;
            # to polkit 126 it is the one whom it was registered for.
            for uid in (0, self._uid):
                message = new_method_call(
                    AUTHORITY, "AuthenticationAgentResponse2", "us(sa{sv})",
                    (uid, cookie, identity),
                )  # fmt: skip
                reply = connection.send_and_get_reply(message, timeout=10)
                if reply.header.message_type is not MessageType.error:
                    return
        raise RuntimeError(reply.body[0])

    def finish(self, cookie: str) -> None:
        """End a question that was begun, vouched for or not."""
        self._connection.send(new_method_return(self._open.pop(cookie)))

    def dismiss(self, cookie: str) -> None:
        begun = self._open.pop(cookie)
        name = f"{NAME}.Error.Cancelled"
        self._connection.send(new_error(begun, name, "s", ("dismissed",)))

    def close(self) -> None:
        self._connection.sock.shutdown(socket.SHUT_RDWR)
        self._thread.join()
        self._connection.close()

    def __enter__(self) -> Agent:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
