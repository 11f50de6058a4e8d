"""Half-written files and folders: their names, whose they are, and what becomes of those that killed processes left.

What will become ``out`` is written beside it, as ``.out.nmt-1a2b3c4d.tmp``, by a process that holds a lock on it. The
kernel takes the lock back when its holder ends, however that is: a leftover without one belongs to nobody, and the
next process that writes ``out`` removes it. Two other endings say what a kill can leave where a step takes two renames:
``.old`` is what ``out`` was and may have to become again; ``.new`` are files that are on their way into ``out``.
"""

from __future__ import annotations

import contextlib
import enum
import errno
import fcntl
import logging
import os
import re
import secrets
import shlex
import shutil
from collections.abc import Iterator
from pathlib import Path

logger = logging.getLogger(__name__)

UNFINISHED, BEFORE, DECIDED = "tmp", "old", "new"
NAME = re.compile(rf"\.(.+)\.nmt-[0-9a-f]{{8}}\.({UNFINISHED}|{BEFORE}|{DECIDED})", re.DOTALL)


class Owner(enum.Enum):
    """Whether a process is still writing: some file systems have no locks that could tell."""

    alive = enum.auto()
    dead = enum.auto()
    unknown = enum.auto()


def scratch_name(target: Path, ending: str = UNFINISHED) -> Path:
    """A name beside ``target`` that nothing has."""
    return target.with_name(f".{target.name}.nmt-{secrets.token_hex(4)}.{ending}")


def is_leftover(path: Path) -> bool:
    """Whether a name is one that `scratch_name` gives."""
    return NAME.fullmatch(path.name) is not None


def claim(target: Path, *, folder: bool) -> tuple[Path, int]:
    """Make a file or a folder with a scratch name.

    Returns:
        It, and a handle that keeps its lock until it is closed; a file can be written through it.
    """
    while True:
        path = scratch_name(target)
        try:
            if folder:
                path.mkdir()
            handle = os.open(path, os.O_RDONLY if folder else os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o666)
            _lock(handle)
            with contextlib.suppress(FileNotFoundError):
                if os.path.samestat(os.fstat(handle), os.lstat(path)):
                    return path, handle
        except BaseException:  # a signal, too
            remove(path)
            raise
        os.close(handle)  # whoever looked before it was locked took it for a leftover


@contextlib.contextmanager
def owned(path: Path) -> Iterator[None]:
    """While the block runs, nobody takes a file or a folder for a leftover, whatever it is called by then."""
    try:
        handle = os.open(path, os.O_RDONLY | os.O_NOFOLLOW)
    except OSError:  # a link, or one that we may not read
        yield
        return
    try:
        _lock(handle)
        yield
    finally:
        os.close(handle)


def _lock(handle: int) -> None:
    # Not a record lock: those need a handle that can be written through, and folders have none. Where the file system
    # has no locks, `_owner` cannot tell either, and says so.
    with contextlib.suppress(OSError):
        fcntl.flock(handle, fcntl.LOCK_EX)


def settle(target: Path) -> None:
    """Remove what killed processes left beside a file or a folder, or finish or undo it if it was being replaced."""
    for path, name, ending in _leftovers(target.parent):
        if name == target.name:
            _settle(path, target, ending, alone=False)


def settle_all(folder: Path) -> None:
    """``settle`` of all that is in a folder; for the one process that writes there (runs have a lock)."""
    for path, name, ending in _leftovers(folder):
        _settle(path, path.with_name(name), ending, alone=True)


def remove(path: Path) -> None:
    """Remove a file, a link or a folder with all that is in it, as far as that is possible."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)


def move_in(decided: Path, folder: Path) -> None:
    """Move all files of a folder into another one, in place of those that have their names."""
    for path in sorted(decided.iterdir()):
        path.replace(folder / path.name)
    decided.rmdir()


def _leftovers(folder: Path) -> list[tuple[Path, str, str]]:
    """Path, name of the target and ending of each."""
    try:
        found = [(path, NAME.fullmatch(path.name)) for path in sorted(folder.iterdir())]
    except (FileNotFoundError, NotADirectoryError, PermissionError):
        return []
    return [(path, match[1], match[2]) for path, match in found if match]


def _settle(path: Path, target: Path, ending: str, *, alone: bool) -> None:
    with _owner(path) as owner:
        if owner is Owner.alive:
            return
        if owner is Owner.unknown and not alone:
            logger.warning(
                "%s was left behind by a command that was killed, unless one is still writing it; if none is: rm -r %s",
                path,
                shlex.quote(str(path)),
            )
        elif ending == BEFORE and not os.path.lexists(target):
            path.rename(target)
        elif ending == DECIDED and target.is_dir():
            move_in(path, target)
        else:
            remove(path)


@contextlib.contextmanager
def _owner(path: Path) -> Iterator[Owner]:
    """Who owns a leftover; if nobody does, this process while the block runs."""
    try:
        handle = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
    except OSError as error:
        # A link comes into being whole and has no lock; what is gone was settled by another process.
        yield Owner.dead if error.errno in (errno.ELOOP, errno.ENOENT) else Owner.unknown
        return
    try:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            owner = Owner.dead
        except OSError as error:
            owner = Owner.alive if error.errno in (errno.EAGAIN, errno.EACCES) else Owner.unknown
        yield owner
    finally:
        os.close(handle)
