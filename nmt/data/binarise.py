"""From pairs of lines to shards, as a stream: chunks are segmented by worker processes and written in order."""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from dataclasses import dataclass, field
from itertools import chain, islice
from multiprocessing import get_context
from pathlib import Path

import numpy as np

from nmt.config import option
from nmt.data.manifest import ShardEntry, Sides, SplitEntry, StoredFile
from nmt.data.shards import SIDES, IntArray, file_name, id_dtype, offsets_of, write_array
from nmt.text.vocabulary import UNK, VocabularyPair

CHUNK_LINES = 2000
"""Pairs that a worker gets at once."""


@dataclass
class CleanOptions:
    """Which training pairs are dropped.

    Attributes:
        min_length: shortest side in tokens that is kept.
        max_length: longest side in tokens that is kept; None for no limit.
        max_ratio: largest ratio of the longer to the shorter side in tokens; None for no limit.
    """

    min_length: int = option(minimum=1)
    max_length: int | None = option(minimum=1)
    max_ratio: float | None = option(minimum=1)


@dataclass
class Chunk:
    """Some segmented pairs.

    Attributes:
        read: pairs before cleaning.
        dropped: pairs dropped, by reason.
        ids: per side the flat ids.
        lengths: per side the tokens of every pair.
        text: per side the flat UTF-8 bytes.
        text_lengths: per side the bytes of every pair.
    """

    read: int
    dropped: Counter[str] = field(default_factory=Counter)
    ids: dict[str, IntArray] = field(default_factory=dict)
    lengths: dict[str, IntArray] = field(default_factory=dict)
    text: dict[str, bytes] = field(default_factory=dict)
    text_lengths: dict[str, IntArray] = field(default_factory=dict)


def reason_to_drop(source: int, target: int, clean: CleanOptions) -> str | None:
    """Why a pair of lengths (in tokens) is dropped, or None."""
    shorter, longer = min(source, target), max(source, target)
    if shorter == 0:
        return "empty"
    if shorter < clean.min_length:
        return "too_short"
    if clean.max_length is not None and longer > clean.max_length:
        return "too_long"
    if clean.max_ratio is not None and longer > clean.max_ratio * shorter:
        return "ratio"
    return None


def encode_chunk(
    pairs: list[tuple[str, str]],
    vocabularies: VocabularyPair,
    clean: CleanOptions | None,
    sides: Sequence[str] = SIDES,
) -> Chunk:
    """Segment and clean some pairs.

    Args:
        pairs: source and target lines.
        vocabularies: of both sides.
        clean: None keeps everything.
        sides: that have text.
    """
    chunk = Chunk(read=len(pairs))
    texts = {side: [pair[SIDES.index(side)] for pair in pairs] for side in sides}
    encoded = {side: getattr(vocabularies, side).encode_batch(lines) for side, lines in texts.items()}
    kept: Sequence[int] = range(len(pairs))
    if clean is not None:
        lengths = [[len(ids) for ids in pair] for pair in zip(*encoded.values())]  # one side counts as both
        reasons = [reason_to_drop(each[0], each[-1], clean) for each in lengths]
        chunk.dropped.update(reason for reason in reasons if reason is not None)
        kept = [i for i, reason in enumerate(reasons) if reason is None]
    for side, rows in encoded.items():
        dtype = id_dtype(len(getattr(vocabularies, side)))
        chunk.lengths[side] = np.array([len(rows[i]) for i in kept], dtype=np.int64)
        chunk.ids[side] = np.fromiter(
            chain.from_iterable(rows[i] for i in kept), dtype, count=chunk.lengths[side].sum()
        )
        lines = [texts[side][i].encode("utf-8") for i in kept]
        chunk.text[side] = b"".join(lines)
        chunk.text_lengths[side] = np.array([len(line) for line in lines], dtype=np.int64)
    return chunk


_shared: tuple[VocabularyPair, CleanOptions | None, Sequence[str]] | None = None  # of a worker process


def _start_worker(vocabularies: VocabularyPair, clean: CleanOptions | None, sides: Sequence[str]) -> None:
    global _shared
    _shared = (vocabularies, clean, sides)


def _encode_in_worker(pairs: list[tuple[str, str]]) -> Chunk:
    assert _shared is not None, "the pool starts every worker with its vocabularies"
    return encode_chunk(pairs, *_shared)


def encode_stream(
    chunks: Iterable[list[tuple[str, str]]],
    vocabularies: VocabularyPair,
    clean: CleanOptions | None,
    workers: int,
    sides: Sequence[str] = SIDES,
) -> Iterator[Chunk]:
    """Segment chunks in order, in this process or in a pool that is never given more than it can soon work off."""
    if workers <= 1:
        for pairs in chunks:
            yield encode_chunk(pairs, vocabularies, clean, sides)
        return
    waiting: deque[Future[Chunk]] = deque()
    with ProcessPoolExecutor(workers, get_context("spawn"), _start_worker, (vocabularies, clean, sides)) as pool:
        for pairs in chunks:
            waiting.append(pool.submit(_encode_in_worker, pairs))
            if len(waiting) > 2 * workers:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()


def chunked(pairs: Iterable[tuple[str, str]], shard_lines: int) -> Iterator[list[tuple[str, str]]]:
    """Cut pairs into chunks that never reach over the border of a shard."""
    stream = iter(pairs)
    left = shard_lines
    while chunk := list(islice(stream, min(CHUNK_LINES, left))):
        left -= len(chunk)
        yield chunk
        left = left or shard_lines


class SplitWriter:
    """Writes the shards of one split as chunks come in, and counts."""

    def __init__(self, folder: Path, shard_lines: int, sides: Sequence[str] = SIDES) -> None:
        """Create the folder of the split.

        Args:
            folder: to create.
            shard_lines: pairs read (before cleaning) per shard.
            sides: that have text.
        """
        folder.mkdir()
        self.folder = folder
        self.shard_lines = shard_lines
        self.sides = sides
        self.entry = SplitEntry()
        self._chunks: list[Chunk] = []

    def add(self, chunk: Chunk) -> None:
        """Take the next chunk; write a shard where it is full."""
        entry = self.entry
        self._chunks.append(chunk)
        entry.read += chunk.read
        entry.lines += len(chunk.lengths["target"])
        for reason, count in chunk.dropped.items():
            entry.dropped[reason] = entry.dropped.get(reason, 0) + count
        for side in self.sides:
            _increase(entry.tokens, side, len(chunk.ids[side]))
            _increase(entry.unknown, side, int((chunk.ids[side] == UNK).sum()))
        if sum(c.read for c in self._chunks) >= self.shard_lines:
            self._write_shard()

    def close(self) -> SplitEntry:
        """Write the last shard and return the split's entry."""
        if self._chunks or not self.entry.shards:
            self._write_shard()
        for side in self.sides:
            tokens = getattr(self.entry.tokens, side)
            setattr(self.entry.unknown_rate, side, getattr(self.entry.unknown, side) / tokens if tokens else 0.0)
        self.entry.dropped = dict(sorted(self.entry.dropped.items()))
        return self.entry

    def _write_shard(self) -> None:
        index = len(self.entry.shards)
        files: dict[str, StoredFile] = {}
        lines = 0
        for side in self.sides:
            lengths = _join([c.lengths[side] for c in self._chunks])
            lines = len(lengths)
            arrays = {
                "ids": _join([c.ids[side] for c in self._chunks]),
                "ids_offsets": offsets_of(lengths),
                "text": np.frombuffer(b"".join(c.text[side] for c in self._chunks), dtype=np.uint8),
                "text_offsets": offsets_of(_join([c.text_lengths[side] for c in self._chunks])),
            }
            for kind, array in arrays.items():
                name = file_name(side, index, kind)
                files[name] = StoredFile(**write_array(self.folder / name, array))
        self.entry.shards.append(ShardEntry(lines, files))
        self._chunks = []


def _join(arrays: list[IntArray]) -> IntArray:
    return np.concatenate(arrays) if arrays else np.zeros(0, dtype=np.uint16)


def _increase(counts: Sides, side: str, amount: int) -> None:
    setattr(counts, side, getattr(counts, side) + amount)
