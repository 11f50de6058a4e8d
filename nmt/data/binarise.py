"""From pairs of lines to chunks of ids, as a stream: worker processes segment them, and they come out in order."""

from __future__ import annotations

import math
from collections import Counter, deque
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from dataclasses import dataclass, field
from itertools import chain, compress, islice
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


REASONS = ("empty", "too_short", "too_long", "ratio")
"""Why a pair is dropped; the first that applies counts."""


def reasons_to_drop(source: IntArray, target: IntArray, clean: CleanOptions) -> IntArray:
    """Number in `REASONS` of why each pair is dropped; one beyond them for pairs that are kept.

    Args:
        source: tokens of each source (n,).
        target: tokens of each target (n,).
        clean: the limits.
    """
    shorter, longer = np.minimum(source, target), np.maximum(source, target)
    reasons = [
        shorter == 0,
        shorter < clean.min_length,
        longer > (math.inf if clean.max_length is None else clean.max_length),
        longer > (math.inf if clean.max_ratio is None else clean.max_ratio * shorter),
    ]
    return np.select(reasons, range(len(REASONS)), default=len(REASONS))


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
    lengths = {side: np.fromiter(map(len, rows), np.int64, count=len(rows)) for side, rows in encoded.items()}
    kept = np.ones(len(pairs), bool)
    if clean is not None:
        reasons = reasons_to_drop(lengths[sides[0]], lengths[sides[-1]], clean)  # one side counts as both
        counts = np.bincount(reasons, minlength=len(REASONS)).tolist()
        chunk.dropped.update({reason: count for reason, count in zip(REASONS, counts) if count})
        kept = reasons == len(REASONS)
    for side, rows in encoded.items():
        dtype = dtype_of("ids", len(getattr(vocabularies, side)))
        ids = np.fromiter(chain.from_iterable(rows), dtype, count=int(lengths[side].sum()))
        chunk.ids[side] = ids[np.repeat(kept, lengths[side])]
        chunk.lengths[side] = lengths[side][kept]
        chunk.text[side] = "".join(f"{line}\n" for line in compress(texts[side], kept)).encode()
        ends = np.flatnonzero(np.frombuffer(chunk.text[side], np.uint8) == ord("\n")) + 1
        chunk.text_lengths[side] = np.diff(ends, prepend=0)
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
