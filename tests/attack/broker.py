# SPDX-License-Identifier: LGPL-2.1-or-later
"""What may be asked of the broker, and about whom.

QEMU's helper is asked by its arguments and has no service that others wait for:
where an attack needs one, it does not apply there.
"""

from __future__ import annotations

import json
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

from attack import acts
from attack.agent import Agent
from attack.clients import NO_SERVICE, SLOW, error
from attack.registry import attack, control
from attack.routed import listening
from attack.site import LAN, OFFICE, OFFICE_TOO, Site, eventually
from lab import OTHER, USER
from support import host
from tapster.client.connection import Connection
from tapster.errors import TapsterError

NO_LIST = "it keeps no list of what it made"
NO_FORWARDS = "it forwards no ports"


@attack(
    "another's identity, by the message",
    "a NIC in another's name and quota, or root's rights",
    not_for_peer="it takes its caller's ids from the kernel, and no message",
)
def identity(site: Site) -> str | None:
    for more in ({"uid": 0}, {"user": "root"}, {"uid": OTHER, "gid": OTHER},
                 {"pid": 1}, {"peer": {"uid": 0}}, {"groups": [0]}):  # fmt: skip
        reply = site.user(acts.ask, "Attach", {"network": "default", **more})
        if not error(reply) and reply["nic"]["uid"] != USER:
            return f"{more}: the NIC is uid {reply['nic']['uid']}'s"
    fd, nic = site.user(acts.attach, network="default")
    control(fd >= 0 and nic["uid"] == USER, "without it, it is the caller's")
    return None


@attack(
    "one's own connection, written to by root",
    "a privileged program whose output goes there asks in root's name",
    not_for_peer=NO_SERVICE,
)
def confused_deputy(site: Site) -> str | None:
    def asked(sock_owner: Any, method: str) -> str:
        (fd,) = sock_owner(acts.connections, 1)
        with Connection(socket.socket(fileno=sock_owner.lend(fd)), 15) as broker:
            try:
                broker.call(method, {})  # root writes
            except TapsterError as failed:
                return type(failed).__name__
        return "granted"

    with host.broker(site.lab, 0) as root:
        root.call("Reload", {})  # by root's own connection it may
    answer = asked(site.user, "Reload")
    return None if answer == "NotAuthorized" else f"Reload: {answer}"


@attack(
    "names of 15 and 16 bytes",
    "the list is asked about one name, the kernel about another (CVE-2019-13164)",
)
def long_names(site: Site) -> str | None:
    long, longer = "brdenied1234567", "brdenied12345678"
    with device(site, long), site.allowing(f"allow all\ndeny {long}\n"):
        control(site.refusal(site.user, LAN) is None, "what is allowed is granted")
        for name in (long, longer, longer + "9" * 40, long + "\n", long + " "):
            if site.refusal(site.user, name) is None:
                return f"{name!r} is granted"
    return None


@contextmanager
def device(site: Site, name: str) -> Iterator[None]:
    """A bridge of the host's, for a while."""
    site.lab.host.run("ip", "link", "add", name, "type", "bridge")
    try:
        yield
    finally:
        site.lab.host.run("ip", "link", "del", name)


@attack(
    "paths, slashes and line ends for names",
    "a file is read or written elsewhere, or a line is added to another's",
)
def path_tricks(site: Site) -> str | None:
    names = ("../../etc/passwd", "/etc/passwd", "br0/", "./br0", "..", ".", "br0\n",
             "br0\nallow all", "*", "%s%n", "br0:0", "-h", "a,b", "a b")  # fmt: skip
    before = all_files(site)
    with site.allowing(f"allow {LAN}\n"):
        control(site.refusal(site.user, LAN) is None, "br0 is granted")
        for name in names:
            if site.refusal(site.user, name) is None:
                return f"bridge {name!r} is granted"
    for name in names if site.name == "tapster" else ():
        for key in ("network", "name", "mac"):
            what = {"network": "default"} | {key: name}
            if not error(site.user(acts.ask, "Attach", what)):
                return f"{key} {name!r} is granted"
    site.user.forget()
    changed = eventually(lambda: all_files(site) <= before)
    return None if changed else f"written: {sorted(all_files(site) - before)}"


def all_files(site: Site) -> set[str]:
    """Below /run and /etc/qemu, what is the users' own and the networks' left out."""
    done = site.lab.host.run("find", "/run", "/etc/qemu", "-xdev", "-type", "f",
                             "-not", "-path", "*/networks/*")  # fmt: skip
    return set(done.stdout.split("\n"))


@attack(
    "another's NIC taken away, by its device's or its guest's name",
    "any user cuts any guest off (CVE-2026-39402)",
    not_for_peer=NO_LIST,
)
def detach_others(site: Site) -> str | None:
    fd, nic = site.other(acts.attach, network="default", name="web")
    control(fd >= 0, "the victim has it")
    answers = set()
    for guess in (nic["ifname"], "web", "tapstern0000000", str(OTHER), "*"):
        reply = site.user(acts.ask, "Detach", {"ifname": guess})
        answers.add(str(reply.get("message")))
        if not error(reply):
            return f"Detach of {guess!r} is done"
    if not site.exists(nic["ifname"]):
        return "the victim's tap is gone"
    if len(answers) > 1:
        return f"the answers tell what there is: {sorted(answers)}"
    reply = site.other(acts.ask, "Detach", {"ifname": nic["ifname"]})
    control(not error(reply), "its owner may")
    return None


@attack(
    "another's forwarded port, removed or taken",
    "what was the victim's service is the attacker's",
    not_for_peer=NO_FORWARDS,
)
def others_forward(site: Site) -> str | None:
    asked = {"port": "tcp/8080", "guest": "web", "guest_port": 80}
    control(not error(site.other(acts.ask, "AddForward", asked)), "the victim has it")
    try:
        if site.user(acts.ask, "ListForwards")["forwards"]:
            return "it is listed to the attacker"
        if not error(site.user(acts.ask, "RemoveForward", {"port": "tcp/8080"})):
            return "it was removed"
        if not error(site.user(acts.ask, "AddForward", asked)):
            return "it was taken over"
    finally:
        reply = site.other(acts.ask, "RemoveForward", {"port": "tcp/8080"})
    control(not error(reply), "its owner may remove it")
    return None


@attack(
    "privileged ports, and ports that a program of the host has",
    "the host's SSH or web server is replaced by a guest's",
    not_for_peer=NO_FORWARDS,
)
def privileged_forward(site: Site) -> str | None:
    def ask(port: str) -> str:
        asked = {"port": port, "guest": "web", "guest_port": 80}
        reply = site.user(acts.ask, "AddForward", asked)
        if not error(reply):
            site.user(acts.ask, "RemoveForward", {"port": port})
        return error(reply)

    for port in ("tcp/22", "tcp/80", "udp/53", "tcp/1023", "tcp/0", "tcp/65536"):
        if not ask(port):
            return f"{port} is granted"
    with listening(site, 2222):
        if not ask("tcp/2222"):
            return "tcp/2222 is granted, though a program of the host has it"
    control(not ask("tcp/2223"), "a free port is granted")
    return None


@attack(
    "watching other users",
    "who runs what, when, with which addresses",
    not_for_peer=NO_SERVICE,
)
def watch_others(site: Site) -> str | None:
    watches: list[int] = []

    def watching(agent: Agent) -> bool:
        """Places of watchers that were cut off may be taken for a while."""
        watches.append(agent(acts.start_watch))
        return watches[-1] >= 0

    control(eventually(partial(watching, site.other), 10), "the victim may watch")
    control(eventually(partial(watching, site.user), 10), "the attacker may watch")
    hers, his = (fd for fd in watches if fd >= 0)
    for agent, name in ((site.other, "secret"), (site.user, "mine")):
        reply = agent(acts.ask, "Attach", {"network": "default", "name": name})
        control(not error(reply), f"{name} is granted: {reply}")
    told = site.other(acts.events, hers, SLOW)
    control(any(event["name"] == "secret" for event in told), "the victim is told")
    heard = site.user(acts.events, his, 0.2)
    control(any(event["name"] == "mine" for event in heard), "of one's own one is told")
    other = [event for event in heard if event["uid"] not in (USER,)]
    return f"it hears of {other[0]['event']} by another" if other else None


@attack(
    "listing other users' NICs, networks and forwards",
    "who runs what, with which addresses",
    not_for_peer=NO_LIST,
)
def list_others(site: Site) -> str | None:
    fd, nic = site.other(acts.attach, network="default", name="secret")
    control(fd >= 0, "the victim has it")
    control(nic["ifname"] in str(site.other(acts.ask, "List")), "it sees it")
    for method in ("List", "ListNetworks", "ListForwards", "GetInfo", "Diagnose"):
        said = json.dumps(site.user(acts.ask, method))
        for word in (nic["ifname"], "secret", nic["mac"], nic["ipv4"], nic["bridge"]):
            if word in said:
                return f"{method} tells {word}"
    return None


@attack(
    "what is denied told from what is not there, by words and by time",
    "a map of the host's bridges and networks (CVE-2022-47952)",
)
def oracle(site: Site) -> str | None:
    """The helper answers what is not allowed before it looks whether it is there."""
    there, not_there = OFFICE, "br8"
    if site.name == "peer":
        said = {site.refusal(site.user, name) for name in (there, not_there)}
        return None if len(said) == 1 else f"it says {said}"
    words, times = set(), []
    for what in ({"bridge": there}, {"bridge": not_there}, {"bridge": OFFICE_TOO},
                 {"bridge": "eth0"}, {"network": "nowhere"}):  # fmt: skip
        name = next(iter(what.values()))
        reply = site.user(acts.ask, "Attach", what)
        words.add(reply.get("message", "granted").replace(name, "NAME"))
        times.append(site.user(acts.took, "Attach", what))
    control(not error(site.user(acts.ask, "Attach", {"network": "default"})), "grants")
    if len(words) > 1:
        return f"the words differ: {sorted(words)}"
    if min(times) < 0.045:
        return f"an answer came after {min(times) * 1000:.0f} ms already"
    return None


@attack(
    "the broker's socket and files replaced or read",
    "others talk to the attacker, and the seed of all MACs is known",
    not_for_peer=NO_SERVICE,
)
def files(site: Site) -> str | None:
    site.other(acts.attach, network="default", name="secret")
    for path in (acts.BROKER, "/run/tapster/lock", "/run/config/tapster.toml",
                 "/etc/qemu/bridge.conf"):  # fmt: skip
        if site.user(acts.remove, path) == 0:
            return f"{path} was removed"
    for path in ("/run/tapster/evil", "/run/tapster/nics/evil", "/run/evil"):
        if site.user(acts.bind_unix, path) == 0:
            return f"{path} was made"
    control(site.lab.host.run("ls", "/run/tapster/nics", "/run/state").stdout,
            "there are records and a state")  # fmt: skip
    for top in ("/run/tapster", "/run/state"):
        if found := site.user(acts.readable, top):
            return f"{found[0]} can be read"
    return None


@attack(
    "signals to the broker and to what it started",
    "networks without their servers, or a broker that restarts for ever",
    not_for_peer=NO_SERVICE,
)
def signals(site: Site) -> str | None:
    site.user(acts.attach, network="default")
    commands = host.commands(site.lab.host)
    ours = [
        pid for pid, line in commands.items() if "dnsmasq" in line or "tapster." in line
    ]
    control(len(ours) >= 2, "a broker and a dnsmasq run")
    for pid in ours:
        if site.user(acts.kill, pid) == 0:
            return f"{commands[pid]} took a signal"
        if site.user(acts.write, f"/proc/{pid}/oom_score_adj", "1000") == 0:
            return f"{commands[pid]} is first to be killed for memory"
    return None


@attack(
    "Reload, by who may not",
    "the policy is read at a moment that the attacker chooses",
    not_for_peer="it reads its file at each call",
)
def reload(site: Site) -> str | None:
    reply = site.user(acts.ask, "Reload")
    with host.broker(site.lab, 0) as root:
        root.call("Reload", {})
    return None if error(reply) == "NotAuthorized" else f"answered: {reply}"


@attack(
    "a MAC that is another guest's, the gateway's or a group's",
    "the broker itself lets the attacker be the victim",
    not_for_peer="it knows no MACs; see the source MACs above",
)
def wanted_mac(site: Site) -> str | None:
    for name in site.grounds:
        ground = site.ground(name)
        for mac in (ground.victim.mac, ground.station.mac, "01:00:5e:00:00:01",
                    "ff:ff:ff:ff:ff:ff", "00:00:00:00:00:00",
                    site.bridge_mac(ground.attacker.bridge),
                    host.link(site.lab.host, ground.victim.ifname)["address"],
                    ground.victim.mac.upper().replace(":", "-")):  # fmt: skip
            reply = site.user(acts.ask, "Attach", {"network": name, "mac": mac})
            if not error(reply):
                return f"{name}: {mac} is granted"
        free = {"network": name, "mac": "52:54:00:0a:0b:0c"}
        control(not error(site.user(acts.ask, "Attach", free)), "a free one is granted")
    return None


@attack(
    "another guest's name, in other letters",
    "who looks the victim up gets to the attacker",
    not_for_peer="it serves no names",
)
def wanted_name(site: Site) -> str | None:
    site.other(acts.attach, network="open", name="db")
    for name in ("db", "DB", "dB", "db.", "db.open.internal", "d\u0062\u200b", " db"):
        reply = site.user(acts.ask, "Attach", {"network": "open", "name": name})
        if not error(reply):
            return f"{name!r} is granted"
    reply = site.user(acts.ask, "Attach", {"network": "open", "name": "db2"})
    control(not error(reply), "a free one is granted")
    return None
