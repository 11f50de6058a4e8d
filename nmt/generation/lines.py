"""The input of a translation: lines with what goes with them, in blocks."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import islice

from nmt.config import DataError
from nmt.text.reader import TextFile


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
