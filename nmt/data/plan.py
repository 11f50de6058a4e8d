"""Which sentences share a batch: close lengths together, under a budget of tokens."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from nmt.data.arrays import IntArray


def plan_batches(
    source_lengths: IntArray | Sequence[int],
    target_lengths: IntArray | Sequence[int] | None = None,
    *,
    max_tokens: int,
    max_sentences: int | None = None,
) -> list[IntArray]:
    """Group sentences for evaluation or generation, shortest first; deterministic.

    Args:
        source_lengths: tokens of each source without eos.
        target_lengths: tokens of each target without eos; None where there are none.
        max_tokens: largest sentences × longest side (eos and padding counted). A longer sentence gets its own batch.
        max_sentences: largest number of sentences; None for no limit.

    Returns:
        Per batch the indices of its sentences; every sentence once.
    """
    source = np.asarray(source_lengths, dtype=np.int64)
    target = source if target_lengths is None else np.asarray(target_lengths, dtype=np.int64)
    order = order_by_length(source, target)
    widths = np.maximum(source, target) + 1
    return np.split(order, batch_ends(widths, max_tokens=max_tokens, max_sentences=max_sentences)) if len(order) else []


def order_by_length(source: IntArray, target: IntArray, rng: np.random.Generator | None = None) -> IntArray:
    """Indices of sentences so that neighbours are of close lengths (n,).

    They are sorted by the longer side, then by how much the target is longer than the source, upwards and downwards in
    turn, so that no side jumps where the longer side grows by one. (On Multi30k this pads about half as much as sorting
    by target and then source length.) Pairs of equal lengths stay in their own order, or in a random one.

    Args:
        source: tokens of each source (n,).
        target: tokens of each target (n,).
        rng: for the order of pairs of equal lengths.
    """
    longest, difference = np.maximum(source, target), target - source
    snake = np.where(longest % 2 == 0, difference, -difference)
    if longest.max(initial=0) <= np.iinfo(np.int16).max:  # sorted in linear time
        longest, snake = longest.astype(np.int16), snake.astype(np.int16)
    if rng is None:
        order: IntArray = np.lexsort((snake, longest))
        return order
    shuffled = np.empty(len(source), np.int64)
    shuffled[rng.permutation(len(source))] = np.arange(len(source))
    order = shuffled[np.lexsort((snake[shuffled], longest[shuffled]))]  # which leaves ties as they are
    return order


def batch_ends(widths: IntArray, *, max_tokens: int, max_sentences: int | None) -> IntArray:
    """Where batches end under the budget if sentences are taken from the narrowest to the widest.

    A sentence beyond the budget gets its own batch. The order of the widths does not matter: it is that of
    `order_by_length`.

    Args:
        widths: longest side of each sentence with eos (n,).
        max_tokens: see `plan_batches`.
        max_sentences: see `plan_batches`.

    Returns:
        Position after the last sentence of each batch but the last one, ascending.
    """
    limit = len(widths) if max_sentences is None else max_sentences
    ends = [np.zeros(0, np.int64)]
    start = position = 0  # of the open batch; of the first sentence of a width
    counts = np.bincount(np.minimum(widths, max_tokens + 1))  # all beyond the budget are alike
    for width in np.flatnonzero(counts).tolist():
        most = max(1, min(limit, max_tokens // width))
        after = position + int(counts[width])
        full = np.arange(max(start + most, position), after, most)
        if len(full):
            ends.append(full)
            start = int(full[-1])
        position = after
    return np.concatenate(ends)


def padding_share(ends: IntArray, *sides: IntArray) -> float:
    """Share of padding among the cells of all batches, all sides together (eos counts as a token).

    Args:
        ends: position after the last sentence of each batch but the last one.
        sides: of each side the tokens without eos, in the order of the batches.
    """
    cells = used = 0
    for lengths in sides:
        starts = np.concatenate([[0], ends])
        sizes = np.diff(starts, append=len(lengths))
        cells += int(((np.maximum.reduceat(lengths, starts).astype(np.int64) + 1) * sizes).sum())
        used += int(lengths.sum(dtype=np.int64)) + len(lengths)
    return 1 - used / cells if cells else 0.0
