# SPDX-License-Identifier: LGPL-2.1-or-later
"""A module's test is found by its path, or else by the table here.

`src/tapster/daemon/nics/ledger.py` is tested by
`tests/unit/daemon/nics/test_ledger.py`. Where no unit test has the module's name,
`SHOWN_BY` says which test shows what the module does. Such a test imports the
module or something else of its folder, or says so: "Shows daemon/watch." in its
first docstring.
"""

from __future__ import annotations

import ast
import re
from functools import cache
from pathlib import Path

import pytest

TESTS = Path(__file__).resolve().parents[1]
SOURCE = TESTS.parent / "src" / "tapster"

# Made by other modules of the source, and held against them by their tests.
GENERATED = {"client/fields", "wire/errors"}

# Module, or a whole folder with a slash at its end: the test that shows it.
SHOWN_BY = {
    "cli/agent": "kernel/test_polkit_verbs.py",
    "cli/common": "unit/test_help_is_true.py",
    "cli/table": "unit/cli/test_ls.py",
    "cli/text": "unit/cli/test_ls.py",
    "daemon/allocate/": "kernel/test_attach.py",
    "daemon/api/doctor/finding": "unit/daemon/api/doctor/test_findings.py",
    "daemon/api/doctor/host_facts": "kernel/test_coexistence.py",
    "daemon/api/explain": "kernel/test_explain.py",
    "daemon/api/service": "kernel/test_policy.py",
    "daemon/detach": "kernel/test_going.py",
    "daemon/main": "kernel/test_sandbox.py",
    "daemon/nics/nic": "unit/daemon/nics/test_record.py",
    "daemon/nics/port_filter": "kernel/test_attach.py",
    "daemon/parts": "kernel/test_listener.py",
    "daemon/process/": "kernel/test_sandbox.py",
    "daemon/process/rootless_namespaces": "kernel/test_rootless.py",
    "daemon/process/single_instance": "kernel/test_listener.py",
    "daemon/provision/": "kernel/test_crash.py",
    "daemon/publish/forwards": "kernel/test_forwards.py",
    "daemon/publish/host_port": "kernel/test_forwards.py",
    "daemon/reconcile": "kernel/test_crash_files.py",
    "daemon/reconfigure": "kernel/test_reload.py",
    "daemon/rootless": "kernel/test_rootless.py",
    "daemon/serve": "kernel/test_listener.py",
    "daemon/server/": "kernel/test_listener.py",
    "daemon/watch/": "kernel/test_guard.py",
    "daemon/watch/dhcp_snooping": "kernel/test_leases_on_lan.py",
    "daemon/watch/first_mac": "kernel/test_first_mac.py",
    "errors": "unit/client/test_connection.py",
    "kernel/capabilities": "kernel/test_sandbox.py",
    "kernel/conntrack": "kernel/test_conntrack.py",
    "kernel/memory": "kernel/test_listener.py",
    "kernel/namespaces": "kernel/test_nft.py",
    "kernel/netdevice": "kernel/test_netdevice.py",
    "kernel/netlink_monitor": "kernel/test_rtnetlink.py",
    "kernel/nflog": "kernel/test_nflog.py",
    "kernel/nft": "kernel/test_nft.py",
    "kernel/nftelem": "kernel/test_nftelem.py",
    "kernel/qdisc": "kernel/test_rates.py",
    "kernel/rtnetlink/": "kernel/test_rtnetlink.py",
    "kernel/sysctl": "kernel/test_sysctl.py",
    "kernel/tun": "kernel/test_tun.py",
    "kernel/unixdiag": "kernel/test_polkit.py",
    "model": "unit/policy/core/test_decide.py",
    "networks/host_context": "kernel/test_network.py",
    "networks/ip_forwarding": "kernel/test_sysctl.py",
    "networks/managed_network": "kernel/test_network.py",
    "policy/lint/": "unit/cli/test_policy.py",
    "version": "unit/cli/test_main.py",
}


def modules() -> list[str]:
    """Every module as its path without `.py`, folders' own files aside."""
    paths = (path.relative_to(SOURCE) for path in sorted(SOURCE.rglob("*.py")))
    names = [str(path)[: -len(".py")] for path in paths if path.stem != "__init__"]
    return [name for name in names if name not in GENERATED]


def mirrored(module: str) -> Path:
    """The unit test that has the module's name."""
    folder, _, name = module.rpartition("/")
    return TESTS / "unit" / folder / f"test_{name}.py"


def entry(module: str) -> str | None:
    """The key of SHOWN_BY that is about this module: its own, or its folder's."""
    folder = f"{module.rpartition('/')[0]}/"
    return next((key for key in (module, folder) if key in SHOWN_BY), None)


MODULES = modules()
UNMIRRORED = [module for module in MODULES if not mirrored(module).exists()]


@cache
def imported_and_said(test: Path) -> tuple[set[str], set[str]]:
    """What a test imports, as dotted names, and what its docstring says it shows."""
    tree = ast.parse(test.read_text())
    said = re.findall(r"\bShows ([\w/,\s]+)\.", ast.get_docstring(tree) or "")
    return imported(tree), {w for text in said for w in re.split(r"[,\s]+", text)}


def imported(tree: ast.Module) -> set[str]:
    """Dotted names of all that a test imports, `from` imports with each name."""
    found: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            found.update(f"{node.module}.{alias.name}" for alias in node.names)
    return found


def shows(test: Path, module: str) -> bool:
    """Does the test import the module or its folder, or say that it shows it?"""
    names, said = imported_and_said(test)
    folder = module.rpartition("/")[0]
    dotted = f"tapster.{folder or module}".replace("/", ".")
    if any(f"{name}.".startswith(f"{dotted}.") for name in names):
        return True
    return bool(said & {module, folder})


@pytest.mark.parametrize("module", UNMIRRORED)
def test_a_module_without_a_test_of_its_name_is_shown_by_another(module: str) -> None:
    key = entry(module)
    assert key is not None, (
        f"write {mirrored(module).relative_to(TESTS.parent)}, "
        f"or say in SHOWN_BY of {Path(__file__).name} which test shows {module}"
    )
    test = TESTS / SHOWN_BY[key]
    assert test.exists(), f"SHOWN_BY[{key!r}]"
    assert shows(test, module), f"{SHOWN_BY[key]} neither imports nor names {module}"


def test_the_table_has_no_entry_that_nothing_needs() -> None:
    assert not set(SHOWN_BY) - {entry(module) for module in UNMIRRORED}


def test_generated_modules_are_there() -> None:
    assert all((SOURCE / f"{name}.py").exists() for name in GENERATED)
