"""Files that outlive a kill and a power cut: written under a temporary name, flushed to disk, then renamed."""

from __future__ import annotations

import errno
import hashlib
import os
import shutil
from pathlib import Path

BLOCK_BYTES = 1 << 20


def temporary_name(path: Path) -> Path:
    """Where a process writes what will become ``path``."""
    return path.with_name(f".{path.name}.{os.getpid()}.tmp")


def is_leftover(path: Path) -> bool:
    """Whether a name is one that `temporary_name` gives."""
    return path.name.startswith(".") and path.name.endswith(".tmp")


def remove_leftovers(folder: Path) -> None:
    """Remove what killed processes left half-written; only for the one process that writes to the folder."""
    for path in filter(is_leftover, list(folder.glob(".*"))):
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        else:
            path.unlink()


def sync(path: Path) -> None:
    """Flush a file, or the names in a folder, to disk."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.ENOTSUP) or not path.is_dir():  # some file systems flush files only
            raise
    finally:
        os.close(handle)


def write_text(path: Path, text: str) -> None:
    """``write_bytes`` of UTF-8."""
    write_bytes(path, text.encode())


def write_bytes(path: Path, content: bytes) -> None:
    """Write a file whole, in place of an existing one or of a link.

    Raises:
        OSError: the disk is full, or the folder cannot be written; names the file, and an existing one is as it was.
    """
    temporary = temporary_name(path)
    try:
        temporary.write_bytes(content)
        sync(temporary)
        temporary.replace(path)
    except OSError as error:
        raise OSError(error.errno, error.strerror, str(path)) from error
    finally:
        temporary.unlink(missing_ok=True)
    sync(path.parent)


def file_digest(path: Path) -> str:
    """The sha256 (hex) of a file's content."""
    digest = hashlib.sha256()
    with path.open("rb") as stream:
        while block := stream.read(BLOCK_BYTES):
            digest.update(block)
    return digest.hexdigest()
