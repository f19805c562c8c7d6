# SPDX-License-Identifier: LGPL-2.1-or-later
"""Builds the small guest: Debian's cloud kernel, busybox, and our init.

Why not a ready-made image: what a test boots should come from the same
archive as the machine it runs on, be readable from end to end, and need
neither root nor a download that somebody has to host.

    python3 tools/guest/build.py        prints the kernel's and initramfs' paths

The result is a function of the package versions and of this directory's
files: the same inputs give the same bytes.  The initramfs is not compressed;
under emulation unpacking costs more than reading.
"""

from __future__ import annotations

import argparse
import contextlib
import fcntl
import hashlib
import json
import lzma
import os
import re
import shutil
import stat
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

HERE = Path(__file__).resolve().parent
KERNEL_PACKAGE = "linux-image-cloud-amd64"
MODULES = ("virtio_pci", "virtio_console", "virtio_net")
DIRECTORIES = (
    *("bin", "dev", "etc", "etc/udhcpc", "lib", "lib/modules"),
    *("proc", "root", "run", "sys"),
)
UNFINISHED = "guest-build-"
STALE_SECONDS = 3600


class GuestBuildError(Exception):
    """The guest cannot be built.

    :param message: one line.
    :param hint: what the reader can do about it.
    """

    def __init__(self, message: str, hint: str | None = None) -> None:
        super().__init__(f"{message} ({hint})" if hint else message)
        self.hint = hint


@dataclass(frozen=True, slots=True)
class Image:
    """What QEMU's -kernel and -initrd take."""

    kernel: Path
    initramfs: Path


def default_cache() -> Path:
    """TAPSTER_GUEST_CACHE, or .cache/guest in the checkout."""
    return Path(
        os.environ.get("TAPSTER_GUEST_CACHE") or HERE.parents[1] / ".cache/guest"
    )


def build(cache: Path | None = None, *, force: bool = False) -> Image:
    """Make the guest, or find the one that these inputs made before.

    Two builds at once are safe: the second waits and uses the first one's.

    :param cache: the directory to keep it in; `default_cache()` if None.
    :param force: build even if it is there already.
    :raise GuestBuildError: packages or tools are missing.
    """
    cache = default_cache() if cache is None else cache
    marks = {"source": _source_hash(), "apt": _apt_state()}
    try:
        current = json.loads((cache / "current.json").read_text())
    except (OSError, ValueError):
        current = {}
    if not force and all(current.get(k) == v for k, v in marks.items()):
        found = _image(cache / str(current["key"]))
        if found is not None:
            return found

    versions = _resolve()
    text = json.dumps([versions, marks["source"]], sort_keys=True)
    key = hashlib.sha256(text.encode()).hexdigest()[:16]
    found = _image(cache / key)
    if found is not None and not force and not os.access(cache, os.W_OK):
        return found
    try:
        cache.mkdir(parents=True, exist_ok=True)
        with _locked(cache):
            found = None if force else _image(cache / key)
            if found is None:
                found = _build_into(cache, key, versions)
            new = cache / "current.json.new"
            new.write_text(json.dumps(marks | {"key": key}) + "\n")
            new.rename(cache / "current.json")
    except OSError as error:
        raise GuestBuildError(
            f"cannot write {cache}: {error.strerror or error}",
            "set TAPSTER_GUEST_CACHE to a directory of yours",
        ) from error
    return found


# --- what to build from


def _source_hash() -> str:
    parts = [(HERE / name).read_bytes() for name in ("build.py", "init.sh")]
    return hashlib.sha256(b"\0".join(parts)).hexdigest()


def _apt_state() -> int:
    """Changes when apt-get update found something new; cheaper than asking."""
    try:
        return os.stat("/var/lib/apt/lists").st_mtime_ns
    except FileNotFoundError:
        return 0


def _resolve() -> dict[str, str]:
    """The exact packages: the real kernel package and busybox, with versions."""
    wanted = [KERNEL_PACKAGE, "busybox-static"]
    command = ["apt-cache", "show", "--no-all-versions", *wanted]
    with _progress("asking apt for versions"):
        text = _call(command, "is this Debian 12 or later on amd64?", fatal=False)
    fields = {
        match["name"]: match[0]
        for match in re.finditer(r"^Package: (?P<name>\S+)\n(?:.+\n)*", text, re.M)
    }
    for name in wanted:
        if name not in fields:
            raise GuestBuildError(
                f"apt knows no package {name}",
                "has apt-get update been run? Debian 12 or later on amd64 is needed",
            )
    kernel = re.search(
        r"^Depends:.*?\b(linux-image-\d\S*) \(= ([^)\s]+)\)",
        fields[KERNEL_PACKAGE],
        re.M,
    )
    busybox = re.search(r"^Version: (\S+)$", fields["busybox-static"], re.M)
    if kernel is None or busybox is None:
        raise GuestBuildError(f"apt does not say which kernel {KERNEL_PACKAGE} is")
    return {kernel[1]: kernel[2], "busybox-static": busybox[1]}


def _image(directory: Path) -> Image | None:
    image = Image(directory / "vmlinuz", directory / "initramfs.cpio")
    return image if image.kernel.exists() and image.initramfs.exists() else None


# --- building


def _build_into(cache: Path, key: str, versions: Mapping[str, str]) -> Image:
    """Build in a directory of its own and rename; the caller holds the lock."""
    for old in cache.iterdir():
        # The lock is ours: such a directory was left by a killed build.
        unfinished = old.name.startswith(UNFINISHED)
        aged = time.time() - old.stat().st_mtime > STALE_SECONDS
        if unfinished or (aged and (old / "packages.json").exists()):
            shutil.rmtree(old, ignore_errors=True)
    with tempfile.TemporaryDirectory(prefix=UNFINISHED, dir=cache) as name:
        work = Path(name)
        _download(work, versions)
        root, result = work / "root", work / "result"
        result.mkdir()
        with _progress("unpacking the packages"):
            for package in sorted(work.glob("*.deb")):
                _call(["dpkg-deb", "-x", str(package), str(root)], "damaged download?")
        kernels = list((root / "boot").glob("vmlinuz-*"))
        if len(kernels) != 1:
            raise GuestBuildError(f"the kernel package has {len(kernels)} kernels")
        shutil.copyfile(kernels[0], result / "vmlinuz")
        entries = _contents(root, kernels[0].name.removeprefix("vmlinuz-"))
        (result / "initramfs.cpio").write_bytes(cpio(entries))
        (result / "packages.json").write_text(json.dumps(versions) + "\n")
        for path in (result, *result.iterdir()):
            # Other users' guests boot from here too.
            path.chmod(0o755 if path.is_dir() else 0o644)
        shutil.rmtree(cache / key, ignore_errors=True)
        result.rename(cache / key)
    image = _image(cache / key)
    assert image is not None
    return image


def _download(work: Path, versions: Mapping[str, str]) -> None:
    # As root apt would drop to a user that cannot write here, and warn.
    command = ["apt-get", "-q", "-o", "APT::Sandbox::User=root", "download"]
    command += [f"{name}={version}" for name, version in versions.items()]
    with _progress(f"downloading {' '.join(versions)}"):
        _call(command, "apt-get update has not been run, or no network", cwd=work)


def _call(
    command: list[str], hint: str, cwd: Path | None = None, *, fatal: bool = True
) -> str:
    """Run a program; its standard output.

    :raise GuestBuildError: it is not there, or (if fatal) it failed.
    """
    env = os.environ | {"LC_ALL": "C.UTF-8"}
    try:
        done = subprocess.run(
            command, cwd=cwd, env=env, capture_output=True, text=True, check=False
        )
    except FileNotFoundError as error:
        raise GuestBuildError(f"no program {command[0]}", hint) from error
    if done.returncode != 0 and fatal:
        last = (done.stderr.strip() or "no message").splitlines()[-1]
        raise GuestBuildError(f"{command[0]} failed: {last}", hint)
    return done.stdout


# --- what is in the initramfs

Entry = tuple[int, bytes]  # mode, and the content or the link's target


def _contents(root: Path, release: str) -> dict[str, Entry]:
    """The whole file system of the guest, by path without a leading slash."""
    busybox = next((p for p in root.glob("**/bin/busybox") if p.is_file()), None)
    if busybox is None:
        raise GuestBuildError("busybox-static has no bin/busybox")
    entries: dict[str, Entry] = dict.fromkeys(DIRECTORIES, (stat.S_IFDIR | 0o755, b""))
    entries["tmp"] = (stat.S_IFDIR | 0o1777, b"")
    entries["bin/busybox"] = (stat.S_IFREG | 0o755, busybox.read_bytes())
    applets = _call([str(busybox), "--list"], "an amd64 machine is needed").split()
    for applet in applets:
        entries.setdefault(f"bin/{applet}", (stat.S_IFLNK | 0o777, b"busybox"))
    entries["init"] = (stat.S_IFREG | 0o755, (HERE / "init.sh").read_bytes())
    for name in ("bin/on-uevent", "etc/udhcpc/default.script"):
        entries[name] = (stat.S_IFLNK | 0o777, b"/init")
    # The first process's stdin, stdout and stderr, before devtmpfs is there.
    entries["dev/console"] = (stat.S_IFCHR | 0o600, b"")
    for name, text in (
        ("hosts", "127.0.0.1 localhost\n::1 localhost\n"),
        ("nsswitch.conf", "hosts: files dns\n"),
        ("passwd", "root:x:0:0:root:/root:/bin/sh\n"),
        ("group", "root:x:0:\n"),
        ("resolv.conf", ""),
    ):
        entries[f"etc/{name}"] = (stat.S_IFREG | 0o644, text.encode())

    modules = _modules(root, release)
    for name, content in modules.items():
        entries[f"lib/modules/{name}.ko"] = (stat.S_IFREG | 0o644, content)
    order = "".join(f"{name}.ko\n" for name in modules)
    entries["lib/modules/order"] = (stat.S_IFREG | 0o644, order.encode())
    return entries


def _modules(root: Path, release: str) -> dict[str, bytes]:
    """MODULES and all they depend on, in the order to insert them."""
    tree = next(
        (
            root / prefix / "modules" / release
            for prefix in ("lib", "usr/lib")
            if (root / prefix / "modules" / release / "kernel").is_dir()
        ),
        None,
    )
    if tree is None:
        raise GuestBuildError(f"the kernel package has no modules for {release}")
    files = {
        path.name.partition(".")[0].replace("-", "_"): path
        for path in tree.glob("kernel/**/*.ko*")
    }
    listed = (tree / "modules.builtin").read_text().split()
    builtin = {Path(line).stem.replace("-", "_") for line in listed}
    result: dict[str, bytes] = {}

    def add(name: str) -> None:
        if name in result or name in builtin:
            return
        if name not in files:
            raise GuestBuildError(f"kernel {release} has no module {name}")
        content = _module_content(files[name])
        depends = re.search(rb"(?:^|\0)depends=([^\0]*)\0", content)
        for other in depends[1].decode().split(",") if depends else []:
            if other:
                add(other.replace("-", "_"))
        result[name] = content

    for name in MODULES:
        add(name)
    return result


def _module_content(path: Path) -> bytes:
    data = path.read_bytes()
    if path.suffix == ".ko":
        return data
    if path.suffix == ".xz":
        return lzma.decompress(data)
    raise GuestBuildError(f"cannot read {path.name}: compression is not known")


def cpio(entries: Mapping[str, Entry]) -> bytes:
    """A "newc" archive that depends on nothing but its arguments."""
    out = bytearray()

    def pad() -> None:
        out.extend(b"\0" * (-len(out) % 4))

    def member(inode: int, name: str, mode: int, content: bytes) -> None:
        # /dev/console is the only device there is
        major, minor = (5, 1) if stat.S_ISCHR(mode) else (0, 0)
        fields = [inode, mode, 0, 0, 1, 0, len(content), 0, 0, major, minor]
        fields += [len(name.encode()) + 1, 0]
        out.extend(b"070701" + b"".join(b"%08x" % field for field in fields))
        out.extend(name.encode() + b"\0")
        pad()
        out.extend(content)
        pad()

    # Sorted, a directory comes before what is in it.
    for inode, (name, (mode, content)) in enumerate(sorted(entries.items()), 1):
        member(inode, name, mode, content)
    member(0, "TRAILER!!!", 0, b"")
    out.extend(b"\0" * (-len(out) % 512))
    return bytes(out)


# --- waiting


@contextlib.contextmanager
def _progress(text: str) -> Iterator[None]:
    """Say what is going on, if it takes more than a second."""
    timer = threading.Timer(1.0, print, (f"guest: {text}",), {"file": sys.stderr})
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()


@contextlib.contextmanager
def _locked(cache: Path) -> Iterator[None]:
    fd = os.open(cache / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    try:
        with _progress("waiting for another build"):
            fcntl.flock(fd, fcntl.LOCK_EX)
        yield
    finally:
        os.close(fd)


def main() -> int:
    """The command line; prints the two paths."""
    parser = argparse.ArgumentParser(description="build the small guest")
    parser.add_argument("cache", nargs="?", type=Path, help="where to keep it")
    parser.add_argument("--force", action="store_true", help="build it anew")
    arguments = parser.parse_args()
    try:
        image = build(arguments.cache, force=arguments.force)
    except GuestBuildError as error:
        print(f"guest: {error}", file=sys.stderr)
        return 1
    print(image.kernel, image.initramfs, sep="\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
