# SPDX-License-Identifier: LGPL-2.1-or-later
"""Several users at once, and a broker that is killed at random under them.

After each kill, and now and then one more while the next broker starts, all
users hold still; then what there is on the host has to be what they hold, no more
and no less, and each guest that is held has to be reachable.
"""

from __future__ import annotations

import json
import random
import signal
import subprocess
import time
from collections import Counter
from collections.abc import Callable
from ipaddress import ip_interface
from types import SimpleNamespace
from typing import Any

from lab import OTHER, SOCKET, USER, Lab
from support.crash import Host
from support.host import tool, until_nothing_is_left
from support.managing import by, reload
from support.state import Live, Net
from tapster.client import manage

THIRD = 23003
USERS = (USER, OTHER, THIRD)
CONFIG = """
[broker]
network_grace_seconds = 0.1
[networks.default]
[networks.closed]
mode = "isolated"
[networks.office]
scope = "shared"
rate = {{ egress = "{0}mbit", ingress = "{1}mbit" }}
isolation = {2}
[networks.lan]
mode = "bridge"
bridge = "br7"
[[rules]]
networks = ["*"]
[[rules]]
bridges = ["br7"]
[[rules]]
bridges = ["br8"]
trusted = true
[limits]
requests_per_second = 10000
requests_at_once = 10000
"""
CONFIGS = ((80, 160, "true"), (8, 0, "false"), (0, 16, "false"))
LONGEST = 0.25  # seconds from one kill to the next, while users act


class User:
    """The parent's end of an actor."""

    def __init__(self, lab: Lab, uid: int, seed: str) -> None:
        self._process = lab.host.popen(
            lab.python, "/run/checkout/tests/support/actor.py", seed,
            user=uid, env={"TAPSTER_SOCKET": SOCKET},
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
        )  # fmt: skip
        self.pid = self._process.pid

    def tell(self, word: str) -> None:
        assert self._process.stdin is not None
        self._process.stdin.write(f"{word}\n")
        self._process.stdin.flush()

    def hear(self) -> Any:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        assert line, f"user {self.pid} has died"
        return json.loads(line)

    def close(self) -> None:
        assert self._process.stdin and self._process.stdout
        self._process.stdin.close()
        self._process.stdout.close()
        self._process.wait(10)


class Storm:
    """All of it, in one lab."""

    def __init__(
        self, lab: Lab, seed: int, say: Callable[[str], None] = lambda _: None
    ) -> None:
        self._random = random.Random(seed)
        self._lab, self._say = lab, say
        lab.host.run("sh", "-ec", """
            for name in br7 br8; do
                ip link add $name type bridge; ip link set $name up
            done""")  # fmt: skip
        self._config = CONFIGS[0]
        lab.config(CONFIG.format(*self._config))
        self._host = Host(lab, {}, script="")
        self._host.start()
        self._users = [User(lab, uid, f"{seed} {uid}") for uid in USERS]
        self.counts: Counter[str] = Counter()
        self.found: list[str] = []

    def _tell_all(self, word: str) -> list[Any]:
        for user in self._users:
            user.tell(word)
        return [user.hear() for user in self._users]

    def run(self, kills: int) -> None:
        """Kill that often."""
        for number in range(kills):
            self._tell_all("go")
            if self._random.random() < 0.3:
                self._change()
            time.sleep(self._random.uniform(0.005, LONGEST))
            self._host.kill()
            self.counts["kills"] += 1
            if self._random.random() < 0.25:
                self._kill_at_start()
            self._tell_all("freeze")
            self._host.start()
            self._compare(number)
            if number % 20 == 19:
                self._say(f"{number + 1} kills: {dict(self.counts)}")

    def _change(self) -> None:
        """Another configuration; a kill may come before it is taken in."""
        self._config = self._random.choice(CONFIGS)
        self._lab.config(CONFIG.format(*self._config))
        self._host.daemon.process.send_signal(signal.SIGHUP)
        self.counts["reloads"] += 1

    def _kill_at_start(self) -> None:
        process = self._lab.host.popen(
            self._lab.python, "-m", "tapster.daemon.main",
            "--state-dir", "/run/state", "--config", "/run/config",
            stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        )  # fmt: skip
        time.sleep(self._random.uniform(0.1, 0.4))
        process.kill()
        process.wait()
        self.counts["kills"] += 1
        self.counts["kills at the start"] += 1

    def _compare(self, number: int) -> None:
        reload(self._lab)
        reports = self._tell_all("report")
        deaf = [text for user in self._tell_all("check") for text in user]
        deaf += [text for report in reports for text in report["lost"]]
        egress, ingress, isolated = self._config
        office: dict[str, Any] = {"egress": egress * 10**6, "ingress": ingress * 10**6,
                  "isolated": isolated == "true"}  # fmt: skip
        subnets = self._subnets()
        live = []
        for report in reports:
            for told in report["held"]:
                nic = SimpleNamespace(**told, subnet6=subnets.get(told["bridge"]))
                live.append(
                    Live(
                        nic, report["uid"],
                        trusted=told["kind"] == "br8",
                        learns=told["kind"] in ("br7", "lan"),
                        **(office if told["kind"] == "office" else {}),
                    )
                )  # fmt: skip
        self.counts["guests checked"] += len(live)
        nets = {"closed": Net(nat=False), "lan": Net(),
                "office": Net(isolating=isolated == "true")}  # fmt: skip
        found = self._host.wrong(
            live, nets=nets, forwards=self._open(live),
            helpers=[user.pid for user in self._users],
        )  # fmt: skip
        log = self._host.daemon.log
        if "Traceback" in log or "ERROR" in log:
            found.append(log)
        self.found += [f"kill {number}: {text}" for text in [*found, *deaf]]

    def _subnets(self) -> dict[str, Any]:
        """Of each bridge of ours, for guests whose MAC came later."""
        found = {}
        for entry in tool(self._lab.host, "ip", "-j", "-6", "addr"):
            for each in entry["addr_info"]:
                if each["local"].startswith("fd"):
                    text = f"{each['local']}/{each['prefixlen']}"
                    found[entry["ifname"]] = ip_interface(text).network
        return found

    def _open(self, live: list[Live]) -> dict[tuple[str, int], tuple[Live, int]]:
        """What there is of forwards by the broker, to those who are there."""
        found = {}
        for row in by(self._lab, 0, manage.list_forwards):
            protocol, _, port = row["port"].partition("/")
            for each in live:
                who = each.nic.network, each.uid, each.nic.name
                if who == (row["network"], row["uid"], row["guest"]):
                    found[protocol, int(port)] = each, row["guest_port"]
                    self.counts["open forwards checked"] += 1
        return found

    def close(self) -> None:
        """Everything is given back; of it nothing may be left."""
        try:
            self.counts["acts"] = sum(r["did"] for r in self._tell_all("report"))
            self._tell_all("drop")
            for user in self._users:
                user.close()
            until_nothing_is_left(self._lab, networks=True)
            self._host.end()
        finally:
            self._host.kill()
