# SPDX-License-Identifier: LGPL-2.1-or-later
"""`make demo`: an unprivileged user boots two guests onto a network.

Everything is real: QEMU, the kernel's bridge and taps, dnsmasq, pasta. It
happens in namespaces that stand for a host and for the world beyond its
uplink, so it needs no network and leaves nothing. As root it is done by a
user id that nobody has; as an ordinary user, by that user.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent))

from guest.build import Image, build
from guest.vm import Guest
from lab import USER, Lab, until, why_not

_NESTED = "TAPSTER_DEMO_NESTED"
_NAME, _PAGE = "outside.example", "Greetings from beyond the uplink."
_SERVER = f"""
import http.server
class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        body = b"{_PAGE}\\n"
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)
    def log_message(self, *_): pass
http.server.HTTPServer(("192.0.2.1", 80), Handler).serve_forever()
"""

_failures: list[str] = []
_began = time.monotonic()


def say(text: str = "") -> None:
    print(text, flush=True)


def step(text: str) -> None:
    say(f"\n[{time.monotonic() - _began:4.1f} s] {text}")


def show(text: str) -> None:
    for line in text.rstrip().splitlines():
        say(f"    {line}")


def check(what: str, works: bool) -> None:
    say(f"    {'ok  ' if works else 'FAIL'} {what}")
    if not works:
        _failures.append(what)


def ask(guest: Guest, command: str) -> tuple[bool, str]:
    """Run a command in a guest, and show both."""
    result = guest.run(command, timeout=20, check=False)
    show(f"{guest.name}# {command}")
    show(result.output)
    return result.status == 0, result.output


def inside(image: Image) -> Image:
    """The image's files where the lab's users find them."""

    def moved(path: Path) -> Path:
        return Path("/run/guest") / path.name

    return Image(moved(image.kernel), moved(image.initramfs))


def demo(lab: Lab, image: Image, user: int | None) -> None:
    lab.world.popen(
        "dnsmasq",
        "--keep-in-foreground",
        "--conf-file=/dev/null",
        "--no-resolv",
        "--no-hosts",
        "--bind-interfaces",
        "--listen-address=192.0.2.1",
        f"--address=/{_NAME}/192.0.2.1",
        *("--user=", "--group=", "--pid-file=", "--log-facility=/dev/null"),
    )
    lab.world.popen(sys.executable, "-c", _SERVER)

    def tapster(*arguments: str) -> str:
        return lab.host.run(*lab.tapster(*arguments), user=user).stdout

    def boot(name: str) -> Guest:
        command = lab.tapster("run", "--name", name, "--")
        show(f"$ tapster run --name {name} -- qemu-system-x86_64 -m 128 …")
        return Guest(name, prefix=lab.host.prefix(user) + command, image=inside(image))

    step("Two guests, by a user without any privilege; nothing is configured")
    if user is None:
        show(
            f"{os.environ[_NESTED]}; root is what it is called inside its own namespace"
        )
    else:
        who = lab.host.run("sh", "-c", "id; grep CapEff /proc/self/status", user=user)
        show(who.stdout)
    with boot("a") as a, boot("b") as b:
        for guest in (a, b):
            guest.wait_ready(40)
        step("They have booted; each asks for an address by DHCP")
        for guest in (a, b):
            guest.wait_for_address(4, timeout=20)
            guest.wait_for_address(6, timeout=20)
            show(f"{guest.name}: " + ", ".join(map(str, guest.addresses()["eth0"])))
        check("both have IPv4 and IPv6 addresses", True)

        step("They reach each other, by name")
        check("a pings b", ask(a, "ping -c1 -W3 b")[0])
        check("b pings a", ask(b, "ping -c1 -W3 a.default.internal")[0])

        step("They reach the outside, by name: a server on the far side of the uplink")
        worked, page = ask(a, f"wget -q -O- http://{_NAME}/")
        check("a reads a page there", worked and _PAGE in page)

        step("tapster ls")
        show(tapster("ls"))
        nics = json.loads(tapster("ls", "--json"))
        check("it lists both", sorted(nic["name"] for nic in nics) == ["a", "b"])
        gone = next((nic["ifname"] for nic in nics if nic["name"] == "a"), "")

        step("Guest a is killed (SIGKILL), and nothing of it is left")
        a.kill()
        a.wait()
        check("its NIC is gone", _holds(lambda: gone not in tapster("ls", "--json")))
        check("its name is gone", _holds(lambda: _unknown(b, "a.default.internal")))
        check("guest b is still there", ask(b, f"wget -q -O- http://{_NAME}/")[0])

    step("Guest b has ended, too. An idle broker ends by itself; this one is told to")
    check("no NIC is left", _holds(lambda: json.loads(tapster("ls", "--json")) == []))
    lab.end_rootless()
    check("no process is left", _holds(lambda: not lab.host.processes()))


def _unknown(guest: Guest, name: str) -> bool:
    """Whether DNS tells a guest that there is no such name."""
    return "NXDOMAIN" in guest.run(f"nslookup {name} 2>&1", check=False).output


def _holds(condition: Callable[[], Any]) -> bool:
    try:
        until("", condition, 10)
    except TimeoutError:
        return False
    return True


def _nest() -> int:
    """As an ordinary user: do it all in a user namespace of our own."""
    command = ["unshare", "--user", "--map-root-user", "--net", "--mount"]
    with open("/proc/self/status", encoding="ascii", errors="replace") as status:
        effective = next(line for line in status if line.startswith("CapEff"))
    who = f"uid={os.getuid()} gid={os.getgid()} {' '.join(effective.split())}"
    return subprocess.call(
        [*command, sys.executable, *sys.argv], env={**os.environ, _NESTED: who}
    )


def main() -> int:
    nested = _NESTED in os.environ
    image = build()  # before there is no way to Debian's packages any more
    if os.geteuid() != 0:
        return _nest()
    reason = why_not()
    if reason is not None:
        say(f"demo: {reason}")
        return 1
    say("tapster demo: unprivileged guests on a real network")
    with tempfile.TemporaryDirectory(prefix="tapster-demo-") as directory:
        os.chmod(directory, 0o755)
        with Lab(Path(directory), nested=nested) as lab:
            lab.host.run("mkdir", "-p", "/run/guest")
            lab.host.run("mount", "--bind", str(image.kernel.parent), "/run/guest")
            try:
                demo(lab, image, None if nested else USER)
            except Exception as err:  # noqa: BLE001 - said, and made the exit status
                _failures.append(str(err))
                say(f"    FAIL {err}")
                show(lab.rootless_log(0 if nested else USER))
    if _failures:
        say(
            f"\nFAILED: {len(_failures)}: "
            + "; ".join(f.splitlines()[0] for f in _failures)
        )
        return 1
    seconds = time.monotonic() - _began
    say(f"\nAll of it worked, in {seconds:.0f} s. Nothing is left of it.")
    return 0


if __name__ == "__main__":
    sys.exit(main())
