# SPDX-License-Identifier: LGPL-2.1-or-later
"""What there is on the lab's host, and whether that is what there should be.

`take` looks at all of it, with other people's tools: devices, addresses, routes,
forwarding entries, ports, queues, nftables, sysctls, processes and files. `wrong`
holds it against the host as it was before any broker and against the NICs that
are held: whatever is of tapster has to be accounted for by one of them, and be
right; whatever is not has to be as it was. `changed` is for two looks between
which nothing may have happened to anybody.
"""

from __future__ import annotations

import json
import os
import re
import stat
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from ipaddress import ip_interface, ip_network
from typing import Any

from lab import Lab
from support.host import RUNTIME, inside
from tapster.client import attach as client

STATE_DIRECTORY = "/run/state"
_OURS = ("tapster", "tapbr")
_LOOKS = (
    "ip -j -d link", "ip -j addr", "ip -j route show table all",
    "ip -j -6 route show table all", "bridge -j -d fdb", "bridge -j -d mdb",
    "bridge -j -d link", "tc -j qdisc", "nft -j list ruleset",
)  # fmt: skip
_SYSCTLS = (
    "ipv4/ip_forward ipv4/conf/*/route_localnet ipv4/conf/*/rp_filter"
    " ipv6/conf/*/forwarding ipv6/conf/*/accept_ra ipv6/conf/*/disable_ipv6"
)
_FDB_OF_GROUPS = ("33:33:", "01:00:5e:")
# What a network's directory may have besides its guests' files.
_OF_NETWORK = {"network.json", "dnsmasq.pid", "dnsmasq.log", "leases"}
_MAY_BE = {"dnsmasq.conf"}

Part = dict[str, Any]


@dataclass
class State:
    """One look. Each part is a dictionary, so that differences have a name."""

    links: Part = field(default_factory=dict)  # by name
    addresses: Part = field(default_factory=dict)  # by device: a list
    routes: Part = field(default_factory=dict)  # by device: a list
    fdb: Part = field(default_factory=dict)  # by device: a list
    mdb: Part = field(default_factory=dict)
    ports: Part = field(default_factory=dict)  # by device
    qdiscs: Part = field(default_factory=dict)  # by device
    sets: Part = field(default_factory=dict)  # ours, by family and name: a list
    limits: Part = field(default_factory=dict)  # ours
    rules: Part = field(default_factory=dict)  # ours, by chain: a list
    foreign: Part = field(default_factory=dict)  # of nftables
    sysctls: Part = field(default_factory=dict)
    processes: Part = field(default_factory=dict)  # pid: (parent, words)
    files: Part = field(default_factory=dict)  # path: what it is


@dataclass
class Live:
    """A NIC that somebody holds, and what it was granted."""

    nic: client.Nic | Any
    uid: int
    trusted: bool = False
    waiting: bool = False
    isolated: bool = False
    learns: bool = False  # on a Linux bridge, by leases
    egress: int = 0  # bit/s
    ingress: int = 0
    mac: str | None = None  # where another than was told at first

    def __post_init__(self) -> None:
        self.mac = self.mac or self.nic.mac


@dataclass(frozen=True)
class Net:
    """What a network of ours is, so far as it shows."""

    nat: bool = True
    egress: bool = True  # "none" is False
    isolating: bool = False
    host_access: tuple[tuple[str, int], ...] = ()


# Looking


def take(lab: Lab) -> State:
    """All that there is on the lab's host."""
    script = "".join(f"{look} || exit 1; echo; echo ,,,;" for look in _LOOKS)
    script += f"cd /proc/sys/net && grep -s . {_SYSCTLS}"
    *outputs, sysctls = lab.host.run("sh", "-c", script).stdout.split(",,,\n")
    parsed = [json.loads(text) if text.strip() else [] for text in outputs]
    links, addresses, routes4, routes6, fdb, mdb, ports, qdiscs, nft = parsed
    found = State()
    for entry in links:
        found.links[entry["ifname"]] = _link(entry)
    for entry in addresses:
        found.addresses[entry["ifname"]] = sorted(
            f"{a['local']}/{a['prefixlen']}" for a in entry["addr_info"]
        )
    _read_routes(found, [*routes4, *routes6])
    _read_bridges(found, fdb, mdb, ports)
    for entry in qdiscs:
        _add(found.qdiscs, entry["dev"], [entry["kind"], entry["options"]])
    _read_nft(found, nft["nftables"])
    for line in sysctls.splitlines():
        key, _, value = line.partition(":")
        found.sysctls[key] = value
    found.processes = _processes(lab)
    for top in (RUNTIME, STATE_DIRECTORY):
        found.files |= _files(inside(lab, top), top)
    return found


def _read_routes(found: State, routes: Iterable[Mapping[str, Any]]) -> None:
    for entry in {json.dumps(e): e for e in routes}.values():
        kind, to = entry.get("type", "unicast"), entry["dst"]
        # Link-local ones come by themselves, some time after their device; a host
        # that forwards has anycast ones.
        if kind not in ("anycast", "multicast") and not to.startswith("fe80"):
            row = [kind, to, entry.get("gateway"), entry.get("table", "main")]
            _add(found.routes, entry.get("dev", ""), row)


def _read_bridges(found: State, fdb: Any, mdb: Any, ports: Any) -> None:
    for entry in fdb:
        if not entry["mac"].startswith(_FDB_OF_GROUPS):
            row = [entry["mac"], entry["state"], entry["flags"], entry.get("master")]
            _add(found.fdb, entry["ifname"], row)
    for group in (entry for part in mdb for entry in part.get("mdb", [])):
        if group["port"] != group["dev"]:
            _add(found.mdb, group["port"], [group["grp"], group["state"]])
    for entry in ports:
        found.ports[entry["ifname"]] = {
            k: v for k, v in entry.items() if k not in ("ifindex", "flags", "state")
        }


def _link(entry: Mapping[str, Any]) -> Part:
    kept = {k: entry.get(k) for k in ("ifindex", "mtu", "address", "master",
                                      "ifalias", "altnames", "inet6_addr_gen_mode",
                                      "promiscuity")}  # fmt: skip
    info = entry.get("linkinfo", {})
    kept["kind"], kept["up"] = info.get("info_kind"), "UP" in entry["flags"]
    if kept["kind"] == "tun":
        kept["tun"] = info.get("info_data")
    return kept


def _add(part: Part, key: str, row: Any) -> None:
    part.setdefault(key, []).append(row)
    part[key].sort(key=json.dumps)


def _read_nft(found: State, entries: Iterable[Mapping[str, Any]]) -> None:
    for entry in entries:
        (kind, body), *_ = entry.items()
        if kind == "metainfo":
            continue
        family = body.get("family")
        if "tapster" not in (body.get("table"), kind == "table" and body["name"]):
            _add(found.foreign, f"{kind} {family}", _without(body, "handle"))
        elif kind in ("set", "map") and "timeout" not in body:
            # One that forgets by itself is about frames, not about ports.
            rows = [json.dumps(row) for row in body.get("elem", [])]
            found.sets[f"{family} {body['name']}"] = sorted(rows)
        elif kind == "limit":
            found.limits[body["name"]] = _without(body, "handle")
        elif kind == "rule":
            _add(found.rules, f"{family} {body['chain']}", body["expr"])


def _without(body: Any, *names: str) -> Any:
    """Without what only counts, at any depth."""
    if isinstance(body, dict):
        return {k: _without(v, *names) for k, v in body.items() if k not in names}
    return [_without(v, *names) for v in body] if isinstance(body, list) else body


def _processes(lab: Lab) -> Part:
    found: Part = {}
    for pid in lab.host.processes():
        try:
            with open(f"/proc/{pid}/cmdline", "rb") as file:
                words = file.read().rstrip(b"\0").split(b"\0")
            with open(f"/proc/{pid}/stat", "rb") as file:
                parent = int(file.read().rpartition(b")")[2].split()[1])
        except (FileNotFoundError, ProcessLookupError):
            continue
        text = b" ".join(words).decode(errors="replace")
        if text:  # a zombie has none
            found[str(pid)] = (parent, text)
    return found


def _files(top: str, name: str) -> Part:
    found: Part = {}
    for path, folders, names in os.walk(top):
        for each in [*folders, *names]:
            full = os.path.join(path, each)
            try:
                found[name + full.removeprefix(top)] = _file(full)
            except FileNotFoundError:
                continue  # dnsmasq's leases, just being replaced
    return found


def _file(path: str) -> Part:
    what = os.lstat(path)
    kept: Part = {"mode": stat.filemode(what.st_mode), "uid": what.st_uid}
    if stat.S_ISREG(what.st_mode) and what.st_size < 1 << 20:
        with open(path, encoding="utf-8", errors="replace") as file:
            kept["text"] = file.read()
    return kept


# Comparing two looks

_PARTS = tuple(State.__dataclass_fields__)


def changed(before: State, after: State, *parts: str) -> list[str]:
    """What is different, for two looks between which nothing may be: the broker
    is another process, and has written its log."""
    found: list[str] = []
    for part in parts or _PARTS:
        one, two = _steady(part, before), _steady(part, after)
        for key in sorted(one.keys() | two.keys()):
            if one.get(key) != two.get(key):
                was, now = one.get(key), two.get(key)
                found.append(f"{part} {key}: {was!r} is now {now!r}")
    return found


def _steady(part: str, look: State) -> Part:
    whole: Part = getattr(look, part)
    if part == "processes":
        return {k: v[1] for k, v in whole.items() if not _is_of_broker(v[1])}
    if part == "addresses":
        return _foreign(part, whole) | {
            k: v for k, v in whole.items() if k.startswith(_OURS)
        }
    if part == "files":
        return {
            path: what
            for path, what in whole.items()
            if not path.endswith(("/leases", "/dnsmasq.log", "/io.tapster.Broker"))
            and not path.startswith(STATE_DIRECTORY)
        }
    if part == "sets":
        return {k: v for k, v in whole.items() if k != "bridge first"}
    return whole


def _is_of_broker(words: str) -> bool:
    return "tapster.daemon.main" in words or "daemon/process/spawner.py" in words


# Holding it against what should be


def wrong(
    now: State,
    bare: State,
    live: Sequence[Live],
    nets: Mapping[str, Net] | None = None,
    *,
    forwards: Mapping[tuple[str, int], tuple[Live, int]] | None = None,
    broker: int | None = None,
    helpers: Iterable[int] = (),
    also: str = "",
) -> list[str]:
    """Every way in which a host is not as it should be; [] is what is wanted.

    :param bare: the host before there was any broker.
    :param live: the NICs that are held; all others must have left nothing.
    :param nets: of what kind the networks are; "default"'s is known.
    :param forwards: open ones, by protocol and port: to whom, and to which port.
    :param broker: its pid; None: none runs.
    :param helpers: pids of a test's own processes on the host.
    :param also: a pattern of paths that may be there besides.
    """
    judge = _Judge(now, bare, live, {"default": Net(), **(nets or {})})
    judge.foreign()
    judge.devices()
    judge.nftables(forwards or {})
    judge.sysctls()
    judge.processes(broker, set(helpers))
    judge.files(also)
    return judge.found


class _Judge:
    """Collects what is wrong, part by part."""

    def __init__(
        self, now: State, bare: State, live: Sequence[Live], nets: Mapping[str, Net]
    ) -> None:
        self.now, self.bare, self.live = now, bare, live
        self.found: list[str] = []
        self.bridges: dict[str, Net] = {}
        for each in live:
            if each.nic.bridge.startswith("tapbr"):
                self.bridges[each.nic.bridge] = nets[each.nic.network or ""]
        self.routes_nat = any(net.nat for net in self.bridges.values())

    def same(self, what: str, is_: Any, wanted: Any) -> None:
        if is_ != wanted:
            self.found.append(f"{what} is {is_!r}, not {wanted!r}")

    def foreign(self) -> None:
        """What is not tapster's is as it was, or as its forwarding has it."""
        for part in ("links", "addresses", "routes", "ports", "qdiscs", "fdb", "mdb"):
            one, two = (_foreign(part, getattr(s, part)) for s in (self.bare, self.now))
            for key in sorted(one.keys() | two.keys()):
                self.same(f"{part} of {key}", two.get(key), one.get(key))
        self.same("others' nftables", self.now.foreign, self.bare.foreign)

    def devices(self) -> None:
        wanted = {each.nic.ifname for each in self.live} | set(self.bridges)
        ours = {n for n in self.now.links if n.startswith(_OURS)}
        self.same("devices", sorted(ours), sorted(wanted))
        for each in self.live:
            if each.nic.ifname in ours:
                self._tap(each)
        for name in sorted(set(self.bridges) & ours):
            self._bridge(name)

    def _tap(self, each: Live) -> None:
        nic, name = each.nic, each.nic.ifname
        is_ = self.now.links[name]
        self.same(f"{name}'s kind", is_["kind"], "tun")
        self.same(f"{name}'s up", is_["up"], True)
        self.same(f"{name}'s MTU", is_["mtu"], nic.mtu)
        self.same(f"{name}'s master", is_["master"], nic.bridge)
        self.same(f"{name}'s IPv6 mode", is_["inet6_addr_gen_mode"], "none")
        self.same(f"{name}'s addresses", self.now.addresses.get(name), [])
        self.same(f"{name}'s persist", (is_.get("tun") or {}).get("persist"), False)
        where = nic.network or nic.bridge
        alias = is_["ifalias"] or ""
        if not re.fullmatch(
            rf"tapster nic network={re.escape(where)} user=\S+ guest={nic.name}", alias
        ):
            self.found.append(f"{name}'s alias is {alias!r}")
        port = self.now.ports.get(name, {})
        locked = not each.trusted
        settings = {"locked": locked, "guard": locked, "root_block": locked,
                    "flood": not locked, "isolated": each.isolated,
                    "learning": each.waiting or each.trusted}  # fmt: skip
        self.same(f"{name}'s port", {k: port.get(k) for k in settings}, settings)
        static = [[each.mac, "static", ["sticky"], nic.bridge]]
        if each.waiting or each.trusted:
            static = []
        rows = self.now.fdb.get(name, [])
        self.same(f"{name}'s entries", [r for r in rows if r[1] == "static"], static)
        if not each.trusted:
            own = [[is_["address"], "permanent", [], nic.bridge]]
            left = [r for r in rows if r[1] != "static" and "locked" not in r[2]]
            self.same(f"{name}'s own entry", left, own)
        kinds = [kind for kind, _ in self.now.qdiscs.get(name, [])]
        self.same(f"{name}'s queue", "tbf" in kinds, bool(each.ingress))
        for kind, options in self.now.qdiscs.get(name, []):
            if kind == "tbf":
                self.same(f"{name}'s ingress", options["rate"], each.ingress // 8)

    def _bridge(self, name: str) -> None:
        is_ = self.now.links[name]
        self.same(f"{name}'s kind", (is_["kind"], is_["up"]), ("bridge", True))
        (alias, network), *_ = {
            (is_["ifalias"] or "", e.nic.network) for e in self._on(name)
        }
        if not alias.startswith(f"tapster network {network}"):
            self.found.append(f"{name}'s alias is {alias!r}")
        v4, v6 = self._subnets(name)
        wanted = [f"{v4[1]}/{v4.prefixlen}", "fe80::1/64"]
        wanted += [f"{v6[1]}/64"] if v6 else []
        self.same(f"{name}'s addresses", self.now.addresses[name], sorted(wanted))
        key = f"ipv4/conf/{name}/route_localnet"
        self.same(f"{name}'s localnet", self.now.sysctls.get(key), "1")

    def _on(self, bridge: str) -> list[Live]:
        return [each for each in self.live if each.nic.bridge == bridge]

    def _subnets(self, bridge: str) -> tuple[Any, Any]:
        """Around its guests' addresses, as far as these are known."""
        v6 = None
        for each in self._on(bridge):
            for text in self.now.addresses.get(bridge, []):
                if ":" in text and not text.startswith("fe80"):
                    v6 = ip_interface(text).network
            if each.nic.ipv4:
                return ip_network(f"{each.nic.ipv4}/24", strict=False), v6
        raise AssertionError(f"no guest of {bridge} has an address")

    def nftables(self, forwards: Mapping[tuple[str, int], tuple[Live, int]]) -> None:
        wanted: dict[str, list[Any]] = {}
        for each in self.live:
            for name, row in _elements(each):
                if row not in wanted.setdefault(f"bridge {name}", []):
                    wanted[f"bridge {name}"].append(row)
        for name, net in self.bridges.items():
            for set_, row in self._network_elements(name, net):
                wanted.setdefault(f"inet {set_}", []).append(row)
        for (protocol, port), (to, number) in forwards.items():
            for family, address in ((4, to.nic.ipv4), (6, to.nic.ipv6)):
                row = [{"concat": [protocol, port]}, {"concat": [address, number]}]
                wanted.setdefault(f"inet forwards{family}", []).append(row)
        said = {k: sorted(json.dumps(row) for row in v) for k, v in wanted.items()}
        for key in sorted(said.keys() | self.now.sets.keys()):
            if not key.endswith((" first", " hosts4", " hosts6")) and "__" not in key:
                is_ = self.now.sets.get(key, [])
                self.same(f"set {key}", is_, said.get(key, []))
        limits = {k: (8 * _bytes(v), v["burst"]) for k, v in self.now.limits.items()}
        rates = {e.nic.ifname: (e.egress, 64) for e in self.live if e.egress}
        self.same("limits", limits, rates)
        has_inet = any(key.startswith("inet ") for key in self.now.rules)
        self.same("the inet table's being there", has_inet, bool(self.bridges))

    def _network_elements(self, name: str, net: Net) -> list[tuple[str, Any]]:
        v4, v6 = self._subnets(name)
        rows: list[tuple[str, Any]] = [
            ("bridges", name),
            ("gateways4", {"concat": [name, str(v4[1])]}),
        ]
        if not net.isolating:
            rows.append(("within", {"concat": [name, name]}))
        if net.nat and net.egress:
            rows.append(("nat4", _prefix(v4)))
        if v6 is not None:
            rows += [
                ("gateways6", {"concat": [name, a]}) for a in (str(v6[1]), "fe80::1")
            ]
            if net.nat and net.egress:
                rows.append(("nat6", _prefix(v6)))
        rows += [("host_access", {"concat": [name, *p]}) for p in net.host_access]
        return rows

    def sysctls(self) -> None:
        """Forwarding is on with a NATed network, and as it was without one."""
        for key, was in self.bare.sysctls.items():
            wanted = was
            if self.routes_nat:
                device = key.split("/")[-2]
                if key.endswith(("/ip_forward", "/forwarding")):
                    wanted = "1"
                elif key.endswith("/accept_ra") and was == "1":
                    wanted = "1" if device in ("all", "default", "lo") else "2"
            if key in self.now.sysctls:
                self.same(f"sysctl {key}", self.now.sysctls[key], wanted)

    def processes(self, broker: int | None, helpers: set[int]) -> None:
        ours = {int(k): v for k, v in self.now.processes.items()}
        for pid in [int(pid) for pid in self.bare.processes] + sorted(helpers):
            ours.pop(pid, None)
        if broker is not None:
            self.same("the broker's running", broker in ours, True)
            ours.pop(broker, None)
        for pid, (parent, words) in list(ours.items()):
            if "daemon/process/spawner.py" in words and parent == broker:
                del ours[pid]
        for name in self.bridges:
            pid_file = self.now.files.get(f"{RUNTIME}/networks/{name}/dnsmasq.pid", {})
            serving = [p for p, (_, words) in ours.items() if f"/{name}/" in words]
            self.same(f"who serves {name}", [str(p) for p in serving],
                      [pid_file.get("text", "").strip()])  # fmt: skip
            for pid in serving:
                del ours[pid]
        for pid, (parent, words) in ours.items():
            self.found.append(f"process {pid} of {parent} is left: {words}")

    def files(self, also: str) -> None:
        wanted = {"lock", "nics", "networks", "io.tapster.Broker"}
        wanted |= {f"nics/{each.nic.ifname}" for each in self.live}
        for name in self.bridges:
            base = f"networks/{name}"
            wanted |= {base, f"{base}/dhcp", f"{base}/hosts"}
            wanted |= {f"{base}/{each}" for each in _OF_NETWORK}
            for each in self._on(name):
                if each.nic.ipv4 and each.mac:
                    self._guest_files(base, each)
                    wanted |= {
                        f"{base}/{d}/{each.nic.ifname}" for d in ("dhcp", "hosts")
                    }
        if self.routes_nat and self.bare.sysctls.get("ipv4/ip_forward") == "0":
            wanted.add("sysctl.json")
        there = {path.removeprefix(f"{RUNTIME}/"): what
                 for path, what in self.now.files.items()
                 if path.startswith(f"{RUNTIME}/")}  # fmt: skip
        for path in sorted(there.keys() - wanted):
            if path.rpartition("/")[2] not in _MAY_BE and not (
                also and re.search(also, path)
            ):
                self.found.append(f"file {path} is left: {there[path]}")
        for path in sorted(wanted - there.keys()):
            self.found.append(f"file {path} is not there")
        for each in self.live:
            self._record(each, there.get(f"nics/{each.nic.ifname}", {}))
        for path, what in self.now.files.items():
            if what["mode"][0] != "s" and what["mode"][8] == "w":
                self.found.append(f"anybody may write to {path}: {what['mode']}")
            if path.endswith((".new", ".damaged")):
                self.found.append(f"file {path} is left")

    def _guest_files(self, base: str, each: Live) -> None:
        text = self.now.files.get(f"{RUNTIME}/{base}/dhcp/{each.nic.ifname}", {})
        words = text.get("text", "").strip().split(",")
        wanted = [each.mac, each.nic.ipv4, each.nic.name]
        self.same(f"{each.nic.ifname}'s reservation", [*words[:2], words[-1]], wanted)

    def _record(self, each: Live, what: Part) -> None:
        try:
            data = json.loads(what.get("text", ""))
        except ValueError:
            self.found.append(f"{each.nic.ifname}'s record is {what!r}")
            return
        link = self.now.links.get(each.nic.ifname, {})
        wanted = {
            "ifname": each.nic.ifname, "ifindex": link.get("ifindex"),
            "bridge": each.nic.bridge, "network": each.nic.network, "uid": each.uid,
            "name": each.nic.name, "mac": each.mac, "trusted": each.trusted,
            "isolated": each.isolated, "rate_egress": each.egress,
            "rate_ingress": each.ingress,
            "state": "waiting" if each.waiting else "active",
        }  # fmt: skip
        is_ = {name: data.get(name) for name in wanted}
        self.same(f"{each.nic.ifname}'s record", is_, wanted)


def _foreign(part: str, whole: Part) -> Part:
    found: Part = {}
    for name, value in whole.items():
        if name.startswith(_OURS):
            continue
        if part == "links":  # a bridge's carrier is its ports'
            value = _without(value, "promiscuity")
        elif part == "addresses":  # a bridge has its own when it has carrier
            value = [text for text in value if not text.startswith("fe80")]
        elif part == "fdb":
            value = [row for row in value if row[1] != "" or "extern_learn" in row[2]]
        if value:
            found[name] = value
    return found


def _elements(each: Live) -> list[tuple[str, Any]]:
    """What nftables has of a port, in the words of its JSON."""
    nic, name = each.nic, each.nic.ifname
    kind = {"n": "nat", "l": "lan", "t": "trusted"}[name[len("tapster")]]
    chain = f"{kind}_limited" if each.egress else kind
    verdict: Any = {"goto": {"target": "waiting" if each.waiting else chain}}
    if each.trusted and not each.egress:
        verdict = {"accept": None}
    rows: list[tuple[str, Any]] = [("ports", [name, verdict])]
    if each.egress:
        rows.append(("egress_limits", [name, name]))
    if each.waiting or each.trusted or each.mac is None:
        return rows
    number = int(each.mac.replace(":", ""), 16)
    of4, of6 = ("limited4", "limited6") if each.egress else ("guests", "guests6")
    rows.append(("macs", {"concat": [name, number]}))
    if nic.ipv4:
        rows.append((of4, {"concat": [name, nic.ipv4]}))
    local = _link_local(each.mac)
    rows += [(of6, {"concat": [name, local]}), ("claimed6", local)]
    if kind == "nat":
        rows.append((of6, {"concat": [name, _eui64(nic, each.mac)]}))
    elif each.learns:
        rows.append(("learners", number))
    return rows


def _interface_id(mac: str) -> str:
    raw = bytes.fromhex(mac.replace(":", ""))
    return (bytes([raw[0] ^ 2]) + raw[1:3] + b"\xff\xfe" + raw[3:]).hex()


def _link_local(mac: str) -> str:
    return "0xfe80" + "0" * 12 + _interface_id(mac)


def _eui64(nic: Any, mac: str) -> str:
    """Of a guest whose MAC came later the client was told none."""
    prefix = ip_interface(f"{nic.ipv6}/64").network if nic.ipv6 else nic.subnet6
    return "0x" + prefix.network_address.packed[:8].hex() + _interface_id(mac)


def _prefix(net: Any) -> Any:
    return {"prefix": {"addr": str(net.network_address), "len": net.prefixlen}}


def _bytes(limit: Mapping[str, Any]) -> int:
    units = {"bytes": 1, "kbytes": 1024, "mbytes": 1 << 20}
    return int(limit["rate"]) * units[limit.get("rate_unit", "bytes")]
