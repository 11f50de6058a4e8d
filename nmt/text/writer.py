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
from nmt.files import naming, staged_file

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
        OSError: the disk is full; names the file.
    """
    if path == STANDARD:
        if sys.stdout is None:
            raise ConfigError("standard output is closed; give output=FILE")
        stream = _Text(sys.stdout.buffer, "standard output", write_through=True)
        try:
            yield stream
            stream.flush()
        finally:
            stream.detach()
        return
    target = Path(path).resolve()  # a link stays one
    with contextlib.ExitStack() as stack:
        try:
            if target.exists() and not target.is_file():
                raw, suffix = stack.enter_context(_in_place(target)), ""  # a pipe or a device takes no other name
            else:
                raw, suffix = stack.enter_context(staged_file(target)), target.suffix
        except OSError as error:
            raise ConfigError(f"{path}: cannot be written ({error.strerror})") from error
        packed = _compressed(suffix, raw)
        text = _Text(packed, path)
        yield text
        text.detach()
        if packed is not raw:
            with naming(path):
                packed.close()


@contextlib.contextmanager
def _in_place(target: Path) -> Iterator[IO[bytes]]:
    raw = target.open("wb")
    try:
        yield raw
    finally:
        with naming(target):
            raw.close()


class _Text(io.TextIOWrapper):
    """UTF-8 whose errors of writing name the file."""

    def __init__(self, raw: IO[bytes], label: str, *, write_through: bool = False) -> None:
        super().__init__(raw, encoding="utf-8", newline="\n", write_through=write_through)
        self._label = label

    def write(self, text: str) -> int:
        with naming(self._label):
            return super().write(text)

    def flush(self) -> None:
        with naming(self._label):
            super().flush()


def _compressed(suffix: str, raw: IO[bytes]) -> IO[bytes]:
    if suffix == ".gz":
        return cast(IO[bytes], gzip.GzipFile(filename="", fileobj=raw, mode="wb", mtime=0))
    if suffix == ".xz":
        return cast(IO[bytes], lzma.LZMAFile(raw, mode="wb"))
    return raw
