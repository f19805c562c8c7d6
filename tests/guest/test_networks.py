# SPDX-License-Identifier: LGPL-2.1-or-later
"""What booted guests see of the network that they are on."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import IO

from guest.build import Image
from guest.vm import Guest
from lab import OTHER, USER, Lab, Space, until
from support.booted import PAGE, nics, page, run_guest, serve

# Says from which address and port it was called.
_ECHO = """
import socket, sys
sock = socket.create_server(
    (sys.argv[1], int(sys.argv[2])),
    family=socket.AF_INET6 if ":" in sys.argv[1] else socket.AF_INET,
)
print("ready", flush=True)
sock.settimeout(15)
try:
    print(*sock.accept()[1][:2], flush=True)
except TimeoutError:
    print("nobody called", flush=True)
"""


@contextmanager
def callers(lab: Lab, address: str, port: int) -> Iterator[IO[bytes]]:
    """A server in the world, and the line in which it says who called."""
    server = lab.world.popen(
        sys.executable, "-c", _ECHO, address, str(port), stdout=subprocess.PIPE
    )
    assert server.stdout is not None
    with server.stdout as output:
        assert output.readline() == b"ready\n"
        yield output
    server.wait(20)


def tapster(lab: Lab, *words: str, user: int | None = USER) -> str:
    return lab.host.run(*lab.tapster(*words), user=user).stdout


def ready(*guests: Guest) -> None:
    for guest in guests:
        guest.wait_ready(60)
        guest.wait_for_address(4, timeout=30)
        guest.wait_for_address(6, timeout=30)


def test_guests_have_addresses_names_both_ways_and_a_router(
    lab: Lab, lab_image: Image
) -> None:
    lab.daemon()
    with run_guest(lab, lab_image, "a") as a, run_guest(lab, lab_image, "web") as web:
        ready(a, web)
        told = {nic["name"]: nic for nic in nics(lab)}
        for guest, name in ((a, "a"), (web, "web")):
            own = {str(i.ip) for i in guest.addresses()["eth0"]}
            assert {told[name]["ipv4"], told[name]["ipv6"]} <= own
            routes = guest.run("ip route; ip -6 route").output
            gateway = told[name]["ipv4"].rpartition(".")[0] + ".1"
            assert f"default via {gateway}" in routes
            assert "default via fe80::1" in routes
        assert "search default.internal" in a.run("cat /etc/resolv.conf").output
        for name in ("web", "web.default.internal"):
            answer = a.run(f"nslookup {name}").output
            assert told["web"]["ipv4"] in answer and told["web"]["ipv6"] in answer
        for address in (told["web"]["ipv4"], told["web"]["ipv6"]):
            assert "web.default.internal" in a.run(f"nslookup {address}").output
        for address in (told["web"]["ipv6"], "web", gateway, "2001:db8::1"):
            a.run(f"ping -c1 -W5 {address}", timeout=20)
        # An address of its own choice is nobody's: nothing comes back.
        six = told["a"]["ipv6"].rpartition(":")[0]
        a.run(f"ip addr add {six}:4711/64 dev eth0 nodad")
        there = told["web"]["ipv6"]
        stray = a.run(f"ping -c1 -W2 -I {six}:4711 {there}", timeout=20, check=False)
        assert stray.status != 0


def test_low_source_ports_do_not_leave_the_host(lab: Lab, lab_image: Image) -> None:
    lab.daemon()
    with run_guest(lab, lab_image, "a") as a:
        ready(a)
        for address, host in (
            ("192.0.2.1", "192.0.2.2"),
            ("2001:db8::1", "2001:db8::2"),
        ):
            with callers(lab, address, 2049) as called:
                a.run(f"echo | nc -w 3 -p 700 {address} 2049", timeout=20, check=False)
                source, port = called.readline().split()
                assert source.decode() == host
                assert 1024 <= int(port) <= 65535


def test_forwarded_port_leads_to_the_guest_of_that_name(
    lab: Lab, lab_image: Image
) -> None:
    lab.daemon()
    where = ("192.0.2.2", "[2001:db8::2]")

    def fetch(space: Space, address: str, port: int = 8080) -> str:
        code = (
            "import sys, urllib.request as r; "
            "print(r.urlopen(sys.argv[1], timeout=5).read().decode(), end='')"
        )
        python = lab.python if space is lab.host else sys.executable
        done = space.run(python, "-c", code, f"http://{address}:{port}/", check=False)
        return str(done.stdout)

    said = tapster(lab, "forward", "add", "tcp/8080", "web:80")
    assert "8080" in said
    for _ in range(2):  # it stays for the guest's next life
        with run_guest(lab, lab_image, "web") as web:
            ready(web)
            web.run("mkdir -p /www; echo hello from web > /www/index.html")
            web.run("httpd -v -h /www -p 80 2> /tmp/httpd.log")
            for address in where:
                assert fetch(lab.world, address) == "hello from web\n", address
                assert fetch(lab.host, address) == "hello from web\n", address
            assert fetch(lab.host, "127.0.0.1") == "hello from web\n"
            log = web.run("cat /tmp/httpd.log", check=False).output
            if log:  # the client's own address, not the host's
                assert "192.0.2.1" in log and "2001:db8::1" in log, log
            assert "active" in tapster(lab, "forward", "ls")
        until("the guest to go", lambda: nics(lab) == [])
        assert "waiting" in tapster(lab, "forward", "ls")
        assert fetch(lab.world, where[0]) == ""
    tapster(lab, "forward", "rm", "tcp/8080")


def test_two_users_who_try_each_other(lab: Lab, lab_image: Image) -> None:
    """By address, by name, through the host and through a forwarded port."""
    lab.config('[networks.default]\nhost_access = ["tcp/7777"]\n')
    lab.daemon("--config", "/run/config")
    tapster(lab, "forward", "add", "tcp/8080", "b:80", user=OTHER)
    with (
        run_guest(lab, lab_image, "a") as a,
        run_guest(lab, lab_image, "b", user=OTHER) as b,
    ):
        ready(a, b)
        b.run("mkdir -p /www; echo secret > /www/index.html; httpd -h /www -p 80")
        (theirs,) = (nic for nic in nics(lab, None) if nic["uid"] == OTHER)
        (mine,) = nics(lab)
        gateway = theirs["ipv4"].rpartition(".")[0] + ".1"
        for target in (theirs["ipv4"], theirs["ipv6"], gateway):
            ping = a.run(f"ping -c1 -W2 {target}", timeout=20, check=False)
            assert ping.status != 0, target
        assert (
            "NXDOMAIN" in a.run("nslookup b.default.internal 2>&1", check=False).output
        )
        for url in (f"{theirs['ipv4']}", "192.0.2.2:8080", f"{gateway}:8080"):
            got = a.run(f"timeout 3 wget -q -O- http://{url}/", timeout=20, check=False)
            assert "secret" not in got.output, url
        # What the network opens of the host is open, and only there.
        serve(lab, "0.0.0.0")
        own = mine["ipv4"].rpartition(".")[0] + ".1"
        assert a.run(f"nc -w 3 {own} 7777 </dev/null", timeout=20).status == 0
        for address in ("192.0.2.2", gateway):
            refused = a.run(
                f"nc -w 2 {address} 7777 </dev/null", timeout=20, check=False
            )
            assert refused.status != 0, address
        assert PAGE in page(a)


def test_a_guest_of_an_isolated_network_has_its_neighbours_and_nothing_else(
    lab: Lab, lab_image: Image
) -> None:
    lab.config('[networks.lab]\nmode = "isolated"\n[[rules]]\nnetworks = ["lab"]\n')
    lab.daemon("--config", "/run/config")
    with (
        run_guest(lab, lab_image, "a", "--network", "lab") as a,
        run_guest(lab, lab_image, "b", "--network", "lab") as b,
    ):
        ready(a, b)
        a.run("ping -c1 -W5 b", timeout=20)
        a.run("ping -c1 -W5 b.lab.internal", timeout=20)
        routes = a.run("ip route; ip -6 route").output
        assert "default" not in routes
        a.run("ip route add default via $(ip -4 route | sed 's/.0.24.*/.1/;q')")
        assert a.run("ping -c1 -W2 192.0.2.1", timeout=20, check=False).status != 0
        assert PAGE not in page(a)
