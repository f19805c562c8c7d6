# SPDX-License-Identifier: LGPL-2.1-or-later
"""A user who asks the broker for this and that, at random, and goes on whatever
happens to the broker; a process of its own, started by `storm.py`.

Told by lines on stdin, it says one line of JSON for each: "go" (from now on it
acts), "freeze" (it no longer does), "report" (what it holds), "check" (whether
frames of what it holds get through), "drop" (gives all back), "end".
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import itertools
import json
import os
import random
import select
import sys
import time
from collections.abc import Callable
from typing import Any

import tapster
from tapster import errors
from tapster.client import manage
from tapster.client.attach import connect

MOST = 6  # NICs at a time
PATIENCE = 5.0  # seconds for a frame to get through
_TUNGETIFF = 0x800454D2
_BROADCAST = "ff:ff:ff:ff:ff:ff"


class Guest:
    """A NIC that is held."""

    def __init__(self, fd: int, told: dict[str, Any], kind: str) -> None:
        self.fd, self.told, self.kind = fd, told, kind
        self.mac = told["mac"]
        self.is_given_back = False  # or its owner tried to
        os.set_blocking(fd, False)

    @property
    def is_there(self) -> bool:
        """Whether the tap still is; a detached one's descriptor is dead."""
        try:
            fcntl.ioctl(self.fd, _TUNGETIFF, bytearray(40))
        except OSError as err:
            if err.errno != errno.EBADFD:
                raise
            return False
        return True

    def close(self) -> None:
        os.close(self.fd)

    def send(self, frame: bytes) -> None:
        with contextlib.suppress(BlockingIOError):
            os.write(self.fd, frame)

    def hears(self, wanted: Callable[[bytes], bool], ask: Callable[[], None]) -> bool:
        """Whether a frame comes, if it is asked for again and again."""
        end = time.monotonic() + PATIENCE
        while time.monotonic() < end:
            ask()
            again = time.monotonic() + 0.2
            while select.select([self.fd], [], [], max(again - time.monotonic(), 0))[0]:
                if wanted(os.read(self.fd, 4096)):
                    return True
        return False


def arp(mac: str, sender: str, target: str) -> bytes:
    """A request, from that MAC and address."""
    source = bytes.fromhex(mac.replace(":", ""))
    addresses = [bytes(map(int, text.split("."))) for text in (sender, target)]
    head = bytes.fromhex(_BROADCAST.replace(":", "")) + source + b"\x08\x06"
    return (
        head + bytes.fromhex("0001080006040001") + source + addresses[0]
        + bytes(6) + addresses[1] + bytes(18)
    )  # fmt: skip


class Actor:
    """What one user does."""

    def __init__(self, seed: str) -> None:
        self._random = random.Random(seed)
        self.guests: list[Guest] = []
        self._did = 0

    def act(self) -> None:
        """One thing, of those that can be done just now."""
        choices = [self._attach] * 4 + [self._forward, self._give_up_forward]
        if self.guests:
            choices += [self._close, self._detach]
        if len(self.guests) >= MOST:
            choices = [self._close, self._detach]
        try:
            self._random.choice(choices)()
            self._did += 1
        except errors.BrokerUnavailable:
            time.sleep(0.005)
        except errors.TapsterError:
            self._did += 1  # refused: a name or a port is taken

    def _attach(self) -> None:
        where: dict[str, Any] | None = self._random.choice(
            [{}, {}, {"network": "closed"}, {"network": "office"},
             {"network": "lan"}, {"bridge": "br7"}, {"bridge": "br8"}, None]
        )  # fmt: skip
        if where is None:
            self._attach_as_helper()
            return
        name = self._random.choice([None, "web", "db"])
        nic = tapster.attach(**where, name=name, vnet_hdr=False, timeout=10)
        told = {name: getattr(nic, name) for name in nic.__slots__ if name != "_fd"}
        kind = where.get("network") or where.get("bridge") or "default"
        self.guests.append(Guest(nic.take(), told, kind))

    def _attach_as_helper(self) -> None:
        """Without a MAC; its guest then shows one."""
        with connect(timeout=10) as wire:
            reply, fds = wire.call(
                "Attach", {"for_parent": True, "vnet_hdr": False}, fds=True
            )
        guest = Guest(fds[0], reply["nic"], "default")
        guest.mac = "52:54:" + self._random.randbytes(4).hex(":")
        self.guests.append(guest)
        guest.send(arp(guest.mac, "0.0.0.0", guest.told["ipv4"]))

    def _pick(self) -> Guest:
        return self.guests.pop(self._random.randrange(len(self.guests)))

    def _close(self) -> None:
        self._pick().close()

    def _detach(self) -> None:
        guest = self._random.choice(self.guests)
        guest.is_given_back = True
        with connect(timeout=10) as wire:
            wire.call("Detach", {"ifname": guest.told["ifname"]})
        self.guests.remove(guest)
        guest.close()

    def _port(self) -> str:
        return f"tcp/{8000 + (os.getuid() % 10) * 10 + self._random.randrange(4)}"

    def _forward(self) -> None:
        manage.add_forward(self._port(), self._random.choice(["web", "db"]), 80, None)

    def _give_up_forward(self) -> None:
        manage.remove_forward(self._port(), None)

    # For the one who started it

    def report(self) -> dict[str, Any]:
        lost = []
        for guest in [g for g in self.guests if not g.is_there]:
            if not guest.is_given_back:
                lost.append(f"{guest.told['ifname']} was taken away")
            self.guests.remove(guest)
            guest.close()
        held = [{**g.told, "mac": g.mac, "kind": g.kind} for g in self.guests]
        return {"uid": os.getuid(), "held": held, "lost": lost, "did": self._did}

    def check(self) -> list[str]:
        """The guests of networks that have a gateway and do not hear it answer;
        on bridges, those that do not hear each other."""
        found = []
        for guest in self.guests:
            if guest.told["ipv4"] is None:
                continue
            mac, own = guest.mac, guest.told["ipv4"]
            gateway = own.rpartition(".")[0] + ".1"
            target = bytes(map(int, gateway.split(".")))

            def answers(frame: bytes, target: bytes = target) -> bool:
                return frame[12:14] == b"\x08\x06" and frame[28:32] == target and (
                    frame[20:22] == b"\x00\x02"
                )  # fmt: skip

            question = arp(mac, own, gateway)
            if not guest.hears(answers, lambda g=guest, q=question: g.send(q)):  # type: ignore[misc]
                found.append(f"{guest.told['ifname']} hears nothing of its gateway")
        for bridge in ("br7", "br8"):
            on_it = [g for g in self.guests if g.told["bridge"] == bridge]
            for one, other in itertools.pairwise(on_it):
                frame = arp(one.mac, "0.0.0.0", "10.64.0.9")
                if not other.hears(frame.__eq__, lambda o=one, f=frame: o.send(f)):  # type: ignore[misc]
                    found.append(
                        f"{other.told['ifname']} does not hear {one.told['ifname']}"
                    )
        return found

    def drop(self) -> None:
        for guest in self.guests:
            guest.close()
        self.guests.clear()
        for row in manage.list_forwards():
            manage.remove_forward(row["port"], row["network"])


def main() -> None:
    actor = Actor(sys.argv[1])
    is_acting = False
    while True:
        if is_acting:
            actor.act()
        if is_acting and not select.select([0], [], [], 0)[0]:
            continue
        word = sys.stdin.readline().strip()
        answer: Any = word
        if word in ("go", "freeze"):
            is_acting = word == "go"
        elif word == "report":
            answer = actor.report()
        elif word == "check":
            answer = actor.check()
        elif word == "drop":
            actor.drop()
        else:
            return
        print(json.dumps(answer), flush=True)


if __name__ == "__main__":
    main()
