"""From pairs of lines to chunks of ids, as a stream: worker processes segment them, and they come out in order."""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from dataclasses import dataclass, field
from itertools import chain, islice
from multiprocessing import get_context

import numpy as np

from nmt.config import option
from nmt.data.arrays import SIDES, IntArray, dtype_of
from nmt.limits import MAX_LENGTH
from nmt.text.vocabulary import VocabularyPair

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

    min_length: int = option(minimum=1, maximum=MAX_LENGTH)
    max_length: int | None = option(minimum=1, maximum=MAX_LENGTH)
    max_ratio: float | None = option(minimum=1, maximum=MAX_LENGTH)


@dataclass
class Chunk:
    """Some segmented pairs.

    Attributes:
        read: pairs before cleaning.
        dropped: pairs dropped, by reason.
        ids: per side the flat ids.
        lengths: per side the tokens of every pair.
        text: per side the lines as UTF-8, each with its line feed.
        text_lengths: per side the bytes of every line.
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
        dtype = dtype_of("ids", len(getattr(vocabularies, side)))
        chunk.lengths[side] = np.array([len(rows[i]) for i in kept], dtype=np.int64)
        chunk.ids[side] = np.fromiter(
            chain.from_iterable(rows[i] for i in kept), dtype, count=chunk.lengths[side].sum()
        )
        lines = [f"{texts[side][i]}\n".encode() for i in kept]
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


def chunked(pairs: Iterable[tuple[str, str]]) -> Iterator[list[tuple[str, str]]]:
    """Cut a stream of pairs into chunks."""
    stream = iter(pairs)
    while chunk := list(islice(stream, CHUNK_LINES)):
        yield chunk
