"""One process a run: a lock on a file of the run, which the kernel takes back when its holder dies."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import logging
import os
import socket
import time
from collections.abc import Iterator
from pathlib import Path

from nmt.config import ConfigError

logger = logging.getLogger(__name__)

LOCK_FILE = ".lock"
NO_LOCKS = (errno.ENOLCK, errno.ENOSYS, errno.ENOTSUP)
"""Errors of file systems that know no locks."""


@contextlib.contextmanager
def run_lock(folder: Path) -> Iterator[None]:
    """While inside, no other process can enter; makes the folder where there is none.

    The file stays behind: to remove it would let two processes hold locks on two files of that name.

    Raises:
        ConfigError: another process is inside (names it), or the folder cannot be written.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        handle = os.open(folder / LOCK_FILE, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o644)
    except OSError as error:
        raise ConfigError(f"run={folder}: cannot be written ({error.strerror})") from error
    try:
        _take(handle, folder)
        yield
    finally:
        os.close(handle)


def _take(handle: int, folder: Path) -> None:
    try:
        # A record lock: unlike flock's it is not shared with forked workers, who may outlive the process for seconds.
        fcntl.lockf(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        os.ftruncate(handle, 0)
        started = time.strftime("%Y-%m-%d %H:%M:%S")
        os.pwrite(handle, f"process {os.getpid()} on {socket.gethostname()} since {started}".encode(), 0)
    except OSError as error:
        if error.errno in NO_LOCKS:
            logger.warning("%s: no locks on this file system; nothing keeps a second process off the run", folder)
            return
        if error.errno not in (errno.EACCES, errno.EAGAIN):
            raise ConfigError(f"run={folder}: cannot be written ({error.strerror})") from error
        holder = os.pread(handle, 400, 0).decode(errors="replace") or "another process"
        raise ConfigError(f"run={folder} is in use by {holder}; stop that process or choose another run=") from error
