"""Writing lines: to standard output at once, or to a file that appears whole."""

from __future__ import annotations

import contextlib
import gzip
import io
import lzma
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import IO, TextIO, cast

from nmt.config import ConfigError
from nmt.files import temporary_name

STANDARD = "-"
"""Stands for standard input or output where a file's name is asked for."""


@contextlib.contextmanager
def open_output(path: str) -> Iterator[TextIO]:
    """A UTF-8 text stream; lines end in a line feed on every system.

    Args:
        path: ``-`` for standard output; else a file (compressed where it ends in .gz or .xz), which is written under a
            temporary name and takes its own when the block ends. After an error nothing is left.

    Raises:
        ConfigError: its folder does not exist or cannot be written to; standard output is closed.
    """
    if path == STANDARD:
        if sys.stdout is None:
            raise ConfigError("standard output is closed; give output=FILE")
        stream = io.TextIOWrapper(sys.stdout.buffer, encoding="utf-8", newline="\n", write_through=True)
        try:
            yield stream
            stream.flush()
        finally:
            stream.detach()
        return
    target = Path(path).resolve()  # a link stays one
    if target.exists() and not target.is_file():
        with _open(target, path) as raw:  # a pipe or a device takes no other name
            yield from _text(raw, "")
        return
    temporary = temporary_name(target)
    try:
        with _open(temporary, path) as raw:
            yield from _text(raw, target.suffix)
        temporary.replace(target)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def _open(target: Path, path: str) -> IO[bytes]:
    try:
        return target.open("wb")
    except OSError as error:
        raise ConfigError(f"{path}: cannot be written ({error.strerror})") from error


def _text(raw: IO[bytes], suffix: str) -> Iterator[TextIO]:
    with _compressed(suffix, raw) as packed:
        text = io.TextIOWrapper(packed, encoding="utf-8", newline="\n")
        yield text
        text.flush()
        text.detach()


def _compressed(suffix: str, raw: IO[bytes]) -> IO[bytes]:
    if suffix == ".gz":
        return cast(IO[bytes], gzip.GzipFile(filename="", fileobj=raw, mode="wb", mtime=0))
    if suffix == ".xz":
        return cast(IO[bytes], lzma.LZMAFile(raw, mode="wb"))
    return raw
