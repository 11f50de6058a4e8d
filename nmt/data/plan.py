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
    return cut(order, np.maximum(source, target) + 1, max_tokens=max_tokens, max_sentences=max_sentences)


def order_by_length(source: IntArray, target: IntArray, rng: np.random.Generator | None = None) -> IntArray:
    """Indices sorted so that neighbours are alike on both sides.

    Sorted by the longer side, which the budget counts; among equals by how much longer the target is, up and down in
    turn, so that no side jumps where the longer side grows by one. (On Multi30k this pads about half as much as sorting
    by target and then source length.) Pairs of equal lengths stay in their own order, or in a random one.

    Args:
        source: tokens of each source (n,).
        target: tokens of each target (n,).
        rng: for the order of pairs of equal lengths.
    """
    longest, difference = np.maximum(source, target), target - source
    snake = np.where(longest % 2 == 0, difference, -difference)
    ties = np.arange(len(source)) if rng is None else rng.permutation(len(source))
    order: IntArray = np.lexsort((ties, snake, longest))
    return order


def cut(order: IntArray, longest: IntArray, *, max_tokens: int, max_sentences: int | None) -> list[IntArray]:
    """Cut an order of sentences into batches under the budget; a sentence beyond it gets its own batch.

    Args:
        order: indices, in the order in which they are to be grouped.
        longest: longest side of each sentence with eos, by index.
        max_tokens: see `plan_batches`.
        max_sentences: see `plan_batches`.
    """
    limit = len(order) if max_sentences is None else max_sentences
    ends: list[int] = []
    start, widest = 0, 0
    for position, length in enumerate(longest[order].tolist()):
        widest = max(widest, length)
        size = position - start + 1
        if size > 1 and (size * widest > max_tokens or size > limit):
            ends.append(position)
            start, widest = position, length
    return np.split(order, ends) if len(order) else []


def padding_share(batches: Sequence[IntArray], *sides: IntArray) -> float:
    """Share of padding among the cells of all batches, all sides together (eos counts as a token).

    Args:
        batches: indices of each batch.
        sides: of each side the tokens without eos, by index.
    """
    cells = used = 0
    for batch in batches:
        for lengths in (side[batch] + 1 for side in sides):
            cells += len(batch) * int(lengths.max())
            used += int(lengths.sum())
    return 1 - used / cells if cells else 0.0
