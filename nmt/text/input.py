"""Reading lines: from a file, or from standard input as they come."""

from __future__ import annotations

import hashlib
import io
import sys
from pathlib import Path
from types import TracebackType
from typing import cast

from nmt.config import ConfigError
from nmt.text.reader import TextFile
from nmt.text.writer import STANDARD


class StandardInput(TextFile):
    """The lines of standard input; each is there as soon as it was written."""

    def __init__(self) -> None:
        self.path = Path("standard input")
        self.size = self.lines = 0
        self.digest = hashlib.sha256()
        self._raw = self._stream = cast(io.BufferedReader, sys.stdin.buffer)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """It stays open: it is not ours."""


def open_text(path: str, key: str) -> TextFile:
    """A text file (plain, .gz or .xz), or standard input for ``-``; a context manager.

    Args:
        path: the file.
        key: the option that named it, for messages.

    Raises:
        ConfigError: it cannot be opened, or standard input is closed.
    """
    if path == STANDARD:
        if sys.stdin is None:
            raise ConfigError(f"{key}=-: standard input is closed")
        return StandardInput()
    try:
        return TextFile(Path(path))
    except OSError as error:
        raise ConfigError(f"{key}={path}: cannot be read ({error.strerror or error})") from error


def read_lines(path: str, key: str = "text") -> list[str]:
    """All lines of a text file, or of standard input; see `open_text`.

    Raises:
        ConfigError: it cannot be opened.
        DataError: not UTF-8 (names the line), or damaged.
    """
    with open_text(path, key) as lines:
        return list(lines)
