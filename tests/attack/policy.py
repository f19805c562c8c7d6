# SPDX-License-Identifier: LGPL-2.1-or-later
"""What a user may have by the files that say so, and what by tricks with names."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from attack import acts
from attack.clients import error, others_are_served, survives
from attack.ours import QUOTA
from attack.peer import PROGRAM
from attack.registry import attack, control
from attack.site import LAN, OFFICE, OFFICE_TOO, Site, eventually
from lab import OTHER, USER

NO_NAMES = "it knows no guests' names"
NO_MACS = "it knows no MACs"
HOME = f"/run/user/{USER}"


@attack(
    "a bridge that nobody allowed",
    "any network of the host's, by naming its bridge",
)
def not_allowed(site: Site) -> str | None:
    with site.allowing(f"allow {OFFICE}\n"):
        control(site.refusal(site.user, OFFICE) is None, "if allowed, it is granted")
    with site.allowing(f"allow {LAN}\n# allow {OFFICE}\nallow {OFFICE} x\n"):
        if site.refusal(site.user, OFFICE) is None:
            return f"{OFFICE} is granted"
    return None


@attack(
    "another name of a bridge that is denied",
    "a deny that goes by the name is passed by the alternative one",
)
def other_name(site: Site) -> str | None:
    with site.allowing("allow all\n"):
        control(site.refusal(site.user, OFFICE) is None, "if allowed, it is granted")
    for text in (f"allow all\ndeny {OFFICE}\n", f"allow {OFFICE_TOO}\ndeny {OFFICE}\n"):
        with site.allowing(text):
            if site.refusal(site.user, OFFICE_TOO) is None:
                return f"{OFFICE_TOO}, which is {OFFICE}, is granted"
    return None


@contextmanager
def included(site: Site, text: str, owner: str, mode: str) -> Iterator[str]:
    """A file beside bridge.conf."""
    path = "/etc/qemu/more.conf"
    script = f"umask 077; cat > {path}; chown {owner} {path}; chmod {mode} {path}"
    site.lab.host.run("sh", "-ec", script, input=text)
    try:
        yield path
    finally:
        site.lab.host.run("rm", path)


@attack(
    "an include that is for others",
    "the grant of another user or group",
)
def for_others(site: Site) -> str | None:
    with (
        included(site, f"allow {OFFICE}\n", f"root:{OTHER}", "0640") as path,
        site.allowing(f"include {path}\n"),
    ):
        control(site.refusal(site.other, OFFICE) is None, "whose it is has it")
        if site.refusal(site.user, OFFICE) is None:
            return f"{OFFICE} is granted"
    return None


@attack(
    "a deny in an include that the user cannot read",
    "it is passed over, as if there were none (here with strict_includes = true)",
)
def unreadable(site: Site) -> str | None:
    with included(site, f"deny {OFFICE}\n", "root:root", "0600") as path:
        with site.allowing("allow all\n"):
            control(site.refusal(site.user, OFFICE) is None, "without it, granted")
        with site.allowing(f"allow all\ninclude {path}\n"):
            if site.refusal(site.user, OFFICE) is None:
                return f"{OFFICE} is granted"
    return None


@attack(
    "a relative include, asked from a directory of one's own",
    "the attacker's file says what the attacker may",
)
def relative_include(site: Site) -> str | None:
    site.user(acts.write, f"{HOME}/extra.conf", f"allow {OFFICE}\n")
    with site.allowing(f"include {HOME}/extra.conf\n"):
        control(site.refusal(site.user, OFFICE) is None, "the file itself would do")
    with site.allowing("include extra.conf\n"):
        site.user(acts.change_directory, HOME)
        try:
            if site.name == "peer":
                fd, _ = site.user(acts.helper, PROGRAM, OFFICE, cwd=HOME)
                granted = fd >= 0
            else:
                granted = site.refusal(site.user, OFFICE) is None
        finally:
            site.user(acts.change_directory, "/")
    return f"{OFFICE} is granted by {HOME}/extra.conf" if granted else None


@attack(
    "an include that is swapped for root's, by a link",
    "what only root may read is read for the attacker, in a race",
)
def swapped(site: Site) -> str | None:
    link, own = f"{HOME}/site.conf", f"{HOME}/own.conf"
    site.user(acts.write, own, "# nothing\n")
    program = PROGRAM if site.name == "peer" else ""
    with (
        included(site, f"allow {OFFICE}\n", "root:root", "0600") as secret,
        site.allowing(f"include {link}\n"),
    ):
        run = site.lab.host.run
        run("chmod", "0644", secret)
        targets = own, secret
        _, granted = site.user(acts.swap_and_ask, link, targets, 0.5, OFFICE, program)
        control(granted, "what the user may read grants it, at times")
        run("chmod", "0600", secret)
        site.user.forget()
        asked, granted = site.user(
            acts.swap_and_ask, link, targets, 1.5, OFFICE, program
        )
        control(asked > 20, "it was asked often")
    return f"granted {granted} times of {asked}" if granted else None


@attack(
    "an include that never ends: FIFO, loop, 16 GiB, devices",
    "the broker reads it for ever, and nobody else is served",
    not_for_peer="it is a process of the attacker's own",
)
def endless(site: Site) -> str | None:
    path, harms = f"{HOME}/evil.conf", []

    def act() -> None:
        for kind in ("fifo", "loop", "huge", "lines", "/dev/zero", "/dev/stdin",
                     "/proc/kmsg", "/proc/self/mem", path):  # fmt: skip
            site.user(acts.replace, path, kind)
            site.user(acts.start_asking, {"bridge": OFFICE})
            if harm := others_are_served(site):
                harms.append(f"{kind.rpartition('/')[2]}: {harm}")

    with site.allowing(f"allow all\ninclude {path}\n"):
        harm = survives(site, act)
        site.user(acts.remove, path)
        site.user(acts.write, path, "\n")
        served = eventually(lambda: site.refusal(site.user, OFFICE) is None, 10)
        control(served, "with an honest include, the bridge is granted")
    return harms[0] if harms else harm


@attack(
    "a quota, asked for by 20 at a time",
    "the check and the count are two steps, and many pass between them",
)
def race(site: Site) -> str | None:
    if site.name == "peer":
        for number in range(40):
            site.card(site.user, LAN, number)
        return "40 of 40 taps are granted; a bridge takes 1,023 ports"
    answers = site.user(acts.attach_many, 60, 20, network="default")
    control(answers.get("granted"), "some are granted")
    if answers["granted"] > QUOTA:
        return f"{answers['granted']} of {QUOTA} were granted"
    control(answers["granted"] == QUOTA, f"as many as may be: {answers}")
    return None


@attack(
    "explain, about another user",
    "what others may, by their names",
    not_for_peer="it explains nothing",
)
def explain_others(site: Site) -> str | None:
    for user in (OTHER, "root", "0", "+0", "nobody", "no-such-user"):
        what = {"user": str(user), "network": "lan"}
        reply = site.user(acts.ask, "Explain", what)
        if not error(reply):
            return f"it tells about {user}"
    own = site.user(acts.ask, "Explain", {"network": "lan"})
    control(own["explanation"]["allowed"], "about oneself one is told")
    return None


@attack(
    "explain, about what may not be known",
    "a map of the host's bridges and networks, without asking for one",
    not_for_peer="it explains nothing",
)
def explain_oracle(site: Site) -> str | None:
    _, nic = site.other(acts.attach, network="default")
    told = [
        site.user(acts.ask, "Explain", what)
        for what in ({"bridge": OFFICE}, {"bridge": "br8"}, {"bridge": OFFICE_TOO},
                     {"bridge": nic["bridge"]}, {"network": "nowhere"})
    ]  # fmt: skip
    if any(answer != told[0] for answer in told):
        return "the answers differ"
    return "it is allowed" if told[0]["explanation"]["allowed"] else None


@attack(
    "another user's network, by its bridge's name",
    "a bridge.conf that allows all opens what it was never meant for",
    not_for_peer="it makes no networks; all may use all bridges that are named",
)
def bridge_of_another(site: Site) -> str | None:
    _, nic = site.other(acts.attach, network="default")
    with site.allowing("allow all\n"):
        control(site.refusal(site.user, OFFICE) is None, "allow all does allow")
        for name in (nic["bridge"], nic["ifname"]):
            if site.refusal(site.user, name) is None:
                return f"{name} is granted"
    return None


@attack(
    "a MAC and a name that are reserved for another",
    "the address, and so the rights, of the machine that they are for",
    not_for_peer=NO_MACS,
)
def reserved(site: Site) -> str | None:
    mac = "52:54:00:77:00:01"
    for what in ({"mac": mac}, {"mac": mac, "name": "printer"}, {"mac": mac.upper()}):
        reply = site.user(acts.ask, "Attach", {"network": "open", **what})
        if not error(reply):
            return f"{what} is granted"
    _, mine = site.user(acts.attach, network="open", name="printer")
    if mine["mac"] == mac:
        return "the name brings the MAC"
    site.user.forget()

    def has_it() -> bool:
        asked = {"network": "open", "name": "printer"}
        reply = site.other(acts.ask, "Attach", asked)
        return not error(reply) and reply["nic"]["mac"] == mac

    control(eventually(has_it), "for whom it is reserved gets it")
    return None


@attack(
    "a guest's name that is denied, in other letters",
    "DNS answers with the attacker's guest for a name of the site's",
    not_for_peer=NO_NAMES,
)
def denied_name(site: Site) -> str | None:
    for network in ("default", "open", "office"):
        for name in ("gateway", "GATEWAY", "Gateway", "gateway.", "gateway\n",
                     "\uff47ateway", "gateway "):  # fmt: skip
            asked = {"network": network, "name": name}
            if not error(site.user(acts.ask, "Attach", asked)):
                return f"{name!r} is granted on {network}"
    good = {"network": "default", "name": "gateway2"}
    control(not error(site.user(acts.ask, "Attach", good)), "another one is granted")
    return None


@attack(
    "a denied name, by asking for none",
    "the broker makes up a name that the user may not have",
    not_for_peer=NO_NAMES,
)
def automatic_name(site: Site) -> str | None:
    for what in ({}, {"name": "vm1"}, {"name": "vm3"}, {"for_parent": True}):
        reply = site.user(acts.ask, "Attach", {"network": "office", **what})
        if not error(reply) and reply["nic"]["name"] not in ("vm2",):
            return f"{reply['nic']['name']} is given, on a network for vm2 and web-*"
    good = {"network": "office", "name": "web-1"}
    control(not error(site.user(acts.ask, "Attach", good)), "web-1 is granted")
    return None


@attack(
    "a MAC outside of those that a rule allows",
    "the MAC of a machine that the site trusts",
    not_for_peer=NO_MACS,
)
def foreign_mac(site: Site) -> str | None:
    def asked(mac: str) -> str:
        what = {"network": "office", "name": "web-1", "mac": mac}
        return error(site.user(acts.ask, "Attach", what))

    for mac in ("52:54:00:02:00:01", "52:54:00:00:01:00", "00:16:3e:00:00:01"):
        if not asked(mac):
            return f"{mac} is granted, where 52:54:00:01:* may be asked for"
    control(eventually(lambda: not asked("52:54:00:01:00:02")), "one inside is granted")
    return None


@attack(
    "rights, by asking for them",
    "a port that is not checked, or more of it than a rule gives",
    not_for_peer="its message has no such words, and its port no checks",
)
def ask_for_rights(site: Site) -> str | None:
    for more in ({"trusted": True}, {"ttl": None}, {"max_nics": 99}, {"manage": True},
                 {"effect": "allow"}, {"state": "up"}):  # fmt: skip
        reply = site.user(acts.ask, "Attach", {"network": "default", **more})
        if not error(reply) and reply["nic"]["ifname"].startswith("tapstert"):
            return f"{more}: the port is one that is not checked"
    _, nic = site.user(acts.attach, network="routers")
    control(nic["ifname"].startswith("tapstert"), "a rule can say so")
    return None


@attack(
    "a rule that asks polkit, where none answers",
    "what should be asked about is granted because nobody says no",
    not_for_peer="it asks nobody",
)
def no_polkit(site: Site) -> str | None:
    for more in ({}, {"interactive": True}):
        reply = site.user(acts.ask, "Attach", {"network": "asked", **more})
        if not error(reply):
            return "it is granted"
    asked = {"network": "default"}
    control(not error(site.user(acts.ask, "Attach", asked)), "others are granted")
    return None


@attack(
    "a NIC for a time, kept beyond it",
    "persistent, and held, it stays for ever",
    not_for_peer="it has no NICs for a time",
)
def beyond_its_time(site: Site) -> str | None:
    card = site.card(site.user, "brief", 60)
    control(site.exists(card.ifname), "it is there for its time")
    card.agent(acts.persist, card.number)
    if not site.is_gone(card.ifname, 5):
        return "it is there, four seconds after its time"
    sent = card.agent(acts.send, card.number, card.hello())
    return None if sent else "its descriptor takes frames"
