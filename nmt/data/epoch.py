"""Which training pairs share a batch in which epoch: a function of seed and epoch, in memory that is bounded.

An epoch is planned in chunks. The lines of every corpus are dealt over the chunks in blocks of neighbours, anew in each
epoch. A chunk is sorted by length and cut under the budget, and its batches are shuffled; they are made when the first
of them is asked for. What fits into one chunk is planned as a whole.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from nmt.data.arrays import BLOCK_ITEMS, IntArray
from nmt.data.corpus import ParallelSplit
from nmt.data.options import BatchOptions
from nmt.data.plan import batch_ends, order_by_length, padding_share

CHUNK_PAIRS = 1 << 20
"""Pairs of a chunk, about: planning one takes less than a second, and padding is low long before."""

BLOCK_LINES = 1 << 10
"""Neighbouring lines that stay in one chunk."""


@dataclass(frozen=True)
class _Pairs:
    """Some pairs: their numbers over all splits and the tokens of both sides (n,)."""

    numbers: IntArray
    source: IntArray
    target: IntArray

    def __getitem__(self, rows: IntArray) -> _Pairs:
        return _Pairs(self.numbers[rows], self.source[rows], self.target[rows])

    @property
    def longest(self) -> IntArray:
        return np.maximum(self.source, self.target)


NOTHING = _Pairs(np.zeros(0, np.int64), np.zeros(0, np.int32), np.zeros(0, np.int32))


def _joined(parts: Sequence[_Pairs]) -> _Pairs:
    columns = ([part.numbers for part in parts], [part.source for part in parts], [part.target for part in parts])
    return _Pairs(*(np.concatenate(column) for column in columns))


@dataclass(frozen=True)
class _Hand:
    """What a chunk gets of one copy of a split.

    Attributes:
        split: number of the split.
        blocks: of its lines, ascending.
        usable: pairs in them that are not too long.
        drawn: how many of these are drawn at random; None takes all.
    """

    split: int
    blocks: IntArray
    usable: int
    drawn: int | None


class EpochPlanner:
    """Plans epochs of the usable pairs of some splits.

    Attributes:
        starts: number of the first pair of each split, and of all pairs (splits + 1,).
        num_pairs: usable pairs.
        num_drawn: pairs of an epoch, those that it takes several times counted as often.
        num_left_out: pairs that are not: their longer side has more than ``limit`` tokens.

    Args:
        splits: training splits with their weights: how often an epoch takes every pair; of a fraction, as many pairs
            are drawn.
        options: the budget.
        seed: of everything random.
        limit: largest number of tokens of a side.
        growth: how many times longer a pair's longer side may get.
    """

    def __init__(
        self,
        splits: Sequence[tuple[ParallelSplit, float]],
        options: BatchOptions,
        seed: int,
        *,
        limit: int,
        growth: float = 1.0,
    ) -> None:
        self.options = options
        self.seed = seed
        self.limit = limit
        self.growth = growth
        self._splits = [split for split, _ in splits]
        self._weights = [weight for _, weight in splits]
        self.starts = np.cumsum([0, *map(len, self._splits)])
        self._usable = [self._count_usable(split) for split in self._splits]
        per_split = [int(counts.sum()) for counts in self._usable]
        self.num_pairs = sum(per_split)
        self.num_left_out = int(self.starts[-1]) - self.num_pairs
        copies = [math.modf(weight) for weight in self._weights]
        self.num_drawn = sum(int(whole) * n + round(share * n) for (share, whole), n in zip(copies, per_split))
        self.num_chunks = max(1, math.ceil(self.num_drawn / CHUNK_PAIRS))

    def _count_usable(self, split: ParallelSplit) -> IntArray:
        """Usable pairs of each block."""
        counts = []
        for start in range(0, len(split), BLOCK_ITEMS):
            stop = min(start + BLOCK_ITEMS, len(split))
            longest = np.maximum(split.lengths("source", start, stop), split.lengths("target", start, stop))
            counts.append(np.add.reduceat(longest <= self.limit, np.arange(0, stop - start, BLOCK_LINES), dtype=int))
        return np.concatenate([np.zeros(0, int), *counts])

    def plan(self, epoch: int) -> EpochPlan:
        """The batches of an epoch."""
        return EpochPlan(self, epoch)

    def deal(self, epoch: int) -> list[list[_Hand]]:
        """What each chunk of an epoch gets: of every copy of a split the same share."""
        rng = np.random.default_rng(np.random.SeedSequence([self.seed, epoch], spawn_key=(0,)))
        chunks: list[list[_Hand]] = [[] for _ in range(self.num_chunks)]
        for number, (usable, weight) in enumerate(zip(self._usable, self._weights)):
            fraction, whole = math.modf(weight)
            for share in [*[None] * int(whole), fraction]:
                blocks = rng.permutation(len(usable))
                edges = (np.arange(self.num_chunks + 1) * (len(blocks) / self.num_chunks) + rng.random()).astype(int)
                before = np.concatenate([[0], np.cumsum(usable[blocks])])[edges].tolist()  # usable pairs
                for chunk, start, stop, first, last in zip(chunks, edges, edges[1:], before, before[1:]):
                    drawn = None if share is None else round(share * last) - round(share * first)
                    chunk.append(_Hand(number, np.sort(blocks[start:stop]), last - first, drawn))
        return chunks

    def choose(self, hands: Sequence[_Hand], rng: np.random.Generator) -> _Pairs:
        """The pairs of a chunk."""
        parts = [NOTHING]
        for hand in hands:
            rows = None if hand.drawn is None else rng.permutation(hand.usable)[: hand.drawn]
            if rows is None or len(rows):
                pairs = self._read(hand)
                parts.append(pairs if rows is None else pairs[rows])
        return _joined(parts)

    def _read(self, hand: _Hand) -> _Pairs:
        """The usable pairs of some blocks, in their order."""
        split, parts = self._splits[hand.split], [NOTHING]
        for start, stop in _runs(hand.blocks, len(split)):
            sides = (split.lengths(side, start, stop) for side in ("source", "target"))
            pairs = _Pairs(np.arange(start, stop) + self.starts[hand.split], *sides)
            parts.append(pairs[np.flatnonzero(pairs.longest <= self.limit)])
        return _joined(parts)

    def ends(self, pairs: _Pairs) -> IntArray:
        """Where the batches of some pairs end, sorted by length."""
        # A pair fits even if it would not once it has grown: it keeps its usual length then.
        widths = np.minimum(np.ceil(self.growth * pairs.longest).astype(np.int64) + 1, self.options.max_tokens)
        return batch_ends(widths, max_tokens=self.options.max_tokens, max_sentences=self.options.max_sentences)


def _runs(blocks: IntArray, lines: int) -> Iterator[tuple[int, int]]:
    """First line of each run of neighbouring blocks, and the line after it."""
    if len(blocks):
        firsts = np.concatenate([[0], np.flatnonzero(np.diff(blocks) != 1) + 1])
        lasts = np.concatenate([firsts[1:], [len(blocks)]]) - 1
        for first, last in zip(blocks[firsts].tolist(), blocks[lasts].tolist()):
            yield first * BLOCK_LINES, min((last + 1) * BLOCK_LINES, lines)


class _Chunk:
    """The batches of a chunk, in a random order."""

    def __init__(self, planner: EpochPlanner, hands: Sequence[_Hand], rng: np.random.Generator) -> None:
        pairs = planner.choose(hands, rng)
        pairs = pairs[order_by_length(pairs.source, pairs.target, rng)]
        self.ends = planner.ends(pairs)
        self.numbers = pairs.numbers
        self.shuffled = rng.permutation(len(self.ends) + 1)
        self.padding_share = padding_share(self.ends, *(s for s in (pairs.source, pairs.target) if s.any()))

    def __getitem__(self, index: int) -> IntArray:
        batch = int(self.shuffled[index])
        start = int(self.ends[batch - 1]) if batch else 0
        stop = int(self.ends[batch]) if batch < len(self.ends) else len(self.numbers)
        return np.sort(self.numbers[start:stop])  # so that reading goes through the files from front to back


class EpochPlan(Sequence[IntArray]):
    """The batches of an epoch, for all ranks together: of each the numbers of its pairs, ascending.

    The number of batches is known at once; the batches of one chunk are held at a time.
    """

    def __init__(self, planner: EpochPlanner, epoch: int) -> None:
        self.epoch = epoch
        self._planner = planner
        self._chunks = planner.deal(epoch)
        self._planned: tuple[int, _Chunk] | None = None
        self._starts = np.cumsum([0, *map(self._count, range(len(self._chunks)))])

    def _rng(self, chunk: int) -> np.random.Generator:
        return np.random.default_rng([self._planner.seed, self.epoch, *([chunk] if chunk else [])])

    def _count(self, chunk: int) -> int:
        """Batches of a chunk, without sorting it."""
        pairs = self._planner.choose(self._chunks[chunk], self._rng(chunk))
        return len(self._planner.ends(pairs)) + 1 if len(pairs.numbers) else 0

    def _chunk(self, number: int) -> _Chunk:
        if self._planned is None or self._planned[0] != number:
            self._planned = (number, _Chunk(self._planner, self._chunks[number], self._rng(number)))
        return self._planned[1]

    @property
    def padding_share(self) -> float:
        """Share of padding among the cells of the first chunk, both sides together (before random segmentation)."""
        return self._chunk(0).padding_share

    def __len__(self) -> int:
        return int(self._starts[-1])

    def __getitem__(self, number: int) -> IntArray:  # type: ignore[override]  # one batch; nothing asks for slices
        if not 0 <= number < len(self):
            raise IndexError(f"batch {number} of an epoch of {len(self)}")
        chunk = int(np.searchsorted(self._starts, number, side="right")) - 1
        return self._chunk(chunk)[number - int(self._starts[chunk])]
