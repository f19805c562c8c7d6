# SPDX-License-Identifier: LGPL-2.1-or-later
"""Which executables in hooks.d are hooks, and which of them can be trusted.

A hook may do all that the broker may. So only the administrator may have written it, as
with the configuration beside it: the directories and the file belong to root, and
nobody else may write to them. The opened file is checked, and that descriptor is what
runs (`execution.py`).
"""

from __future__ import annotations

import errno
import logging
import os
import re
import stat
from collections.abc import Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from typing import NamedTuple

from ....errors import ConfigError
from ....policy.config.files import opened_directory, opened_file

_log = logging.getLogger(__name__)

DIRECTORY = "hooks.d"  # beside tapster.toml
# The names of run-parts(8): the copies that editors and package managers leave have
# other ones.
_NAME = re.compile(r"[A-Za-z0-9_-]{1,64}")
_EXECUTABLE = stat.S_IXUSR | stat.S_IXGRP | stat.S_IXOTH


class Found(NamedTuple):
    """What is in hooks.d."""

    names: tuple[str, ...] = ()  # hooks, in the order in which they run
    refused: tuple[str, ...] = ()  # paths of hooks that can't be trusted, and why
    passed: tuple[str, ...] = ()  # executables that no hook can be named like


_NOTHING = Found()


def is_name(name: object) -> bool:
    """Whether a hook can have that name."""
    return isinstance(name, str) and _NAME.fullmatch(name) is not None


def find(configuration: str) -> Found:
    """Look at every file in hooks.d. What was found before can't be used again: the
    directory's time does not show that a file has become executable.

    :param configuration: the directory of `tapster.toml`.
    """
    try:
        os.lstat(os.path.join(configuration, DIRECTORY))
    except FileNotFoundError:
        return _NOTHING  # so that a host without hooks pays for one lstat(2)
    except OSError as err:
        return Found(refused=(f"{configuration}/{DIRECTORY}: {err.strerror}",))
    try:
        with _opened(configuration) as (path, fd):
            return _sort(path, fd, sorted(os.listdir(fd)))
    except (ConfigError, OSError) as err:
        return Found(refused=(_describe(f"{configuration}/{DIRECTORY}", err),))


def _sort(path: str, fd: int, present: list[str]) -> Found:
    names, refused, passed = [], [], []
    for name in present:
        try:
            mode = os.stat(name, dir_fd=fd, follow_symlinks=False).st_mode
        except FileNotFoundError:
            continue
        # A README, a hook that was switched off, a directory that hooks use.
        if name.startswith(".") or stat.S_ISDIR(mode) or not mode & _EXECUTABLE:
            continue
        if not is_name(name):
            passed.append(name)
            continue
        try:
            with opened_file(os.path.join(path, name), fd, True, follow=False):
                names.append(name)
        except (ConfigError, OSError) as err:
            refused.append(_describe(os.path.join(path, name), err))
    return Found(tuple(names), tuple(refused), tuple(passed))


class HookDirectory:
    """Finds hooks. Whatever is wrong is logged once, and again if it comes back."""

    def __init__(self, configuration: str) -> None:
        """:param configuration: the directory of `tapster.toml`."""
        self._configuration = configuration
        self._logged: set[str] = set()

    def find(self) -> Found:
        """What is in hooks.d now."""
        found = find(self._configuration)
        if found.refused or found.passed or self._logged:
            self._log_problems(found)
        return found

    def opened(self, name: str) -> AbstractContextManager[int]:
        """Open a hook: see the function `opened`."""
        return opened(self._configuration, name)

    def _log_problems(self, found: Found) -> None:
        passed = [f"{name} is not run: its name is no hook's" for name in found.passed]
        for text in found.refused:
            if text not in self._logged:
                _log.error("no hook is run: %s", text)
        for text in passed:
            if text not in self._logged:
                _log.warning("%s: %s", DIRECTORY, text)
        self._logged = {*found.refused, *passed}


@contextmanager
def opened(configuration: str, name: str) -> Iterator[int]:
    """Open a hook for as long as the block runs, and check it.

    :param configuration: the directory of `tapster.toml`.
    :param name: of the hook's file.
    :returns: the descriptor.
    :raises ConfigError: the hook is refused; the message has its path.
    """
    path = os.path.join(configuration, DIRECTORY, name)
    with _opened(configuration) as (_, directory), ExitStack() as stack:
        try:
            file = opened_file(path, directory, True, follow=False)
            fd, status = stack.enter_context(file)
        except OSError as err:
            raise ConfigError(_describe(path, err)) from err
        if not status.st_mode & _EXECUTABLE:
            raise ConfigError(f"{path}: not executable any more")
        yield fd


@contextmanager
def _opened(configuration: str) -> Iterator[tuple[str, int]]:
    """
    :returns: the path of hooks.d, and its descriptor.
    :raises ConfigError: hooks.d, or the directory above it, is refused.
    """
    path = os.path.join(configuration, DIRECTORY)
    with opened_directory(configuration, None, os.O_PATH, True) as parent:
        if parent is None:
            raise ConfigError(f"{configuration}: {os.strerror(errno.ENOENT)}")
        with opened_directory(path, parent, os.O_RDONLY, True) as fd:
            if fd is None:
                raise ConfigError(f"{path}: {os.strerror(errno.ENOENT)}")
            yield path, fd


def _describe(path: str, err: ConfigError | OSError) -> str:
    if isinstance(err, ConfigError):
        return err.oneline()
    if err.errno == errno.ELOOP:
        return f"{path}: a symbolic link (copy the file there)"
    return f"{path}: {err.strerror}"
