"""The input of a translation: lines with what goes with them, in blocks."""

from __future__ import annotations

import hashlib
import sys
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from types import TracebackType

from nmt.config import ConfigError, DataError
from nmt.data.reader import TextFile
from nmt.text.writer import STANDARD


class StandardInput(TextFile):
    """The lines of standard input; each is there as soon as it was written."""

    def __init__(self) -> None:
        self.path = Path("standard input")
        self.size = self.lines = 0
        self.digest = hashlib.sha256()
        self._raw = self._stream = sys.stdin.buffer

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
        ConfigError: it cannot be opened.
    """
    if path == STANDARD:
        return StandardInput()
    try:
        return TextFile(Path(path))
    except OSError as error:
        raise ConfigError(f"{key}={path}: cannot be read ({error.strerror or error})") from error


@dataclass(frozen=True)
class Block:
    """Consecutive lines of the input.

    Attributes:
        first: number of the first line, from 0.
        lines: the sources.
        beside: line by line what a second file holds (target prefixes or targets); None where there is none.
    """

    first: int
    lines: list[str]
    beside: list[str] | None

    def share(self, rank: int, world: int) -> Block:
        """What one of several processes takes: every ``world``-th line from ``rank`` on."""
        beside = None if self.beside is None else self.beside[rank::world]
        return Block(self.first, self.lines[rank::world], beside)


def blocks(lines: Iterable[str], beside: TextFile | None, size: int, name: str) -> Iterator[Block]:
    """Cut the input into blocks, reading no further than the block asked for.

    Args:
        lines: the sources.
        beside: a file with a line for each of them.
        size: lines a block.
        name: of the sources, for messages.

    Raises:
        DataError: the second file has more or fewer lines; both counts are given.
    """
    first, sources = 0, iter(lines)
    others = iter(beside) if beside is not None else iter(())
    while block := list(islice(sources, size)):
        pairs = list(islice(others, len(block)))
        if beside is not None and len(pairs) < len(block):
            total = first + len(block) + sum(1 for _ in sources)
            raise DataError(f"{name} has {total} lines but {beside.path} has {beside.lines}")
        yield Block(first, block, None if beside is None else pairs)
        first += len(block)
    if beside is not None and any(True for _ in others):
        total = beside.lines + sum(1 for _ in others)
        raise DataError(f"{name} has {first} lines but {beside.path} has {total}")
