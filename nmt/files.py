"""Files and folders that outlive a kill and a power cut: written beside their place, flushed, then put there.

Whenever a process ends, there is the old or the new. `nmt.leftovers` says what else may lie there, and who clears it.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import hashlib
import os
import sys
from collections.abc import Callable, Collection, Iterator, Mapping
from pathlib import Path
from typing import BinaryIO

from nmt.leftovers import BEFORE, DECIDED, claim, move_in, owned, remove, scratch_name, settle

BLOCK_BYTES = 1 << 20

NO_EXCHANGE = (errno.EINVAL, errno.ENOSYS, errno.ENOTSUP, errno.EXDEV)
"""Errors of file systems that cannot exchange two names."""

Writer = Callable[[Path], object]
"""Writes a file at the path that it is given."""


# --- one file ---------------------------------------------------------------------------------------------------------


def write_text(path: Path, text: str) -> None:
    """``write_bytes`` of UTF-8."""
    write_bytes(path, text.encode())


def write_bytes(path: Path, content: bytes) -> None:
    """Write a file whole, in place of an existing one or of a link.

    Raises:
        OSError: the disk is full, or the folder cannot be written; names the file, and an existing one is as it was.
    """
    try:
        with staged_file(path) as stream:
            stream.write(content)
    except OSError as error:
        error.filename = str(path)
        raise


@contextlib.contextmanager
def staged_file(target: Path) -> Iterator[BinaryIO]:
    """A stream; what it takes is the file ``target`` when the block ends, unless it ends with an error.

    Args:
        target: an existing file, or a link, is replaced.

    Raises:
        OSError: the folder cannot be written, or the disk is full.
    """
    settle(target)
    staged, handle = claim(target, folder=False)
    stream = os.fdopen(handle, "wb", closefd=False)
    try:
        yield stream
        with naming(target):
            stream.close()
            os.fsync(handle)
        staged.replace(target)
        sync(target.parent)
    finally:
        with contextlib.suppress(OSError):
            stream.close()  # before the handle, which another file may get
        remove(staged)
        os.close(handle)


# --- folders ----------------------------------------------------------------------------------------------------------


@contextlib.contextmanager
def staged_folder(target: Path, *, overwrite: bool = False) -> Iterator[Path]:
    """A new folder, which is ``target`` when the block ends, unless it ends with an error.

    Args:
        target: made with the folders above it; an empty folder is replaced.
        overwrite: replace whatever is there. Else what is there when the block ends stays, and that is an error.

    Raises:
        OSError: the folder cannot be written, or the disk is full.
    """
    with _staged(target) as staged:
        yield staged
        sync_tree(staged)
        if overwrite and os.path.lexists(target):
            _swap(staged, target)
        else:
            staged.rename(target)
        sync(target.parent)


def write_folder(folder: Path, files: Mapping[str, Writer], *, overwrite: bool = False) -> None:
    """``staged_folder`` of some files.

    Args:
        folder: where they go.
        files: name to a writer, called in order with the path to write.
        overwrite: see ``staged_folder``.

    Raises:
        OSError: see ``staged_folder``.
    """
    with staged_folder(folder, overwrite=overwrite) as staged:
        _write_all(staged, files)


def write_files(folder: Path, files: Mapping[str, Writer], own: Collection[str]) -> None:
    """Write files into a folder that may hold others: after a kill all are the old ones, or the next call ends it.

    Args:
        folder: where they go; made where there is none.
        files: see ``write_folder``.
        own: names of all files that may be written here; those that ``files`` lacks are removed.

    Raises:
        OSError: see ``staged_folder``.
    """
    target = folder.resolve()  # the user's own link stays one
    with _staged(target) as staged:
        _write_all(staged, files)
        sync_tree(staged)
        if target.is_dir():
            decided = scratch_name(target, DECIDED)
            staged.rename(decided)
            sync(target.parent)
            move_in(decided, target)
            for name in sorted(set(own) - files.keys()):
                (target / name).unlink(missing_ok=True)
            sync(target)
        else:
            staged.rename(target)
        sync(target.parent)


def remove_folder(folder: Path) -> None:
    """Remove a folder: at once for whoever looks, then file by file."""
    doomed = scratch_name(folder)
    folder.rename(doomed)
    remove(doomed)


@contextlib.contextmanager
def _staged(target: Path) -> Iterator[Path]:
    """A folder beside ``target`` that is gone when the block ends, if it was not renamed."""
    target.parent.mkdir(parents=True, exist_ok=True)
    settle(target)
    staged, handle = claim(target, folder=True)
    try:
        yield staged
    finally:
        remove(staged)
        os.close(handle)


def _write_all(folder: Path, files: Mapping[str, Writer]) -> None:
    for name, write in files.items():
        write(folder / name)
        (folder / name).chmod(0o644)  # safetensors makes its files private


def _swap(staged: Path, target: Path) -> None:
    """Put a folder in the place of what is there, which then has the staged one's name or is gone."""
    if _exchange(staged, target):
        return
    before = scratch_name(target, BEFORE)
    with owned(target):
        try:
            target.rename(before)
            staged.rename(target)
        except BaseException:
            if not os.path.lexists(target):
                before.rename(target)
            raise
    sync(target.parent)
    remove(before)


def _exchange(one: Path, other: Path) -> bool:
    """Let two names change places in one step (renameat2 of Linux); whether that is possible here.

    Raises:
        OSError: it is, but failed.
    """
    rename = getattr(ctypes.CDLL(None, use_errno=True), "renameat2", None)
    if rename is None:
        return False
    sys.audit("os.rename", str(one), str(other), -1, -1)
    here, exchange = -100, 2  # AT_FDCWD, RENAME_EXCHANGE
    if rename(here, os.fsencode(one), here, os.fsencode(other), exchange) == 0:
        return True
    number = ctypes.get_errno()
    if number in NO_EXCHANGE:
        return False
    raise OSError(number, os.strerror(number), str(one), None, str(other))


# --- flushing and digests ---------------------------------------------------------------------------------------------


def sync(path: Path) -> None:
    """Flush a file, or the names in a folder, to disk."""
    unable: tuple[int, ...] = ()
    if path.is_dir():  # some file systems flush files only, and a folder can be one that we may write but not read
        unable = (errno.EINVAL, errno.ENOTSUP, errno.EACCES)
    try:
        with naming(path):
            handle = os.open(path, os.O_RDONLY)
            try:
                os.fsync(handle)
            finally:
                os.close(handle)
    except OSError as error:
        if error.errno not in unable:
            raise


@contextlib.contextmanager
def naming(name: Path | str) -> Iterator[None]:
    """Errors of the operating system that name no file, as those of writing to an open one, get this name."""
    try:
        yield
    except OSError as error:
        if error.filename is None:
            error.filename = str(name)
        raise


def sync_tree(folder: Path) -> None:
    """``sync`` of a folder and of all that is in it."""
    for path in sorted(folder.iterdir()):
        if path.is_dir():
            sync_tree(path)
        else:
            sync(path)
    sync(folder)


def file_digest(path: Path, advance: Callable[[int], object] = lambda count: None) -> str:
    """The sha256 (hex) of a file's content.

    Args:
        path: the file.
        advance: is told how many bytes were read since the last call.

    Raises:
        OSError: it cannot be read; names it.
    """
    digest = hashlib.sha256()
    with naming(path), path.open("rb", buffering=0) as stream:
        while block := stream.read(BLOCK_BYTES):
            digest.update(block)
            advance(len(block))
    return digest.hexdigest()
