"""Decoding state: trees of tensors, batch first, allocated once and written in place."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeAlias

import torch
from torch import Tensor

State: TypeAlias = Any
"""A tensor, ``Columns``, or a dict or list of states. The first dimension is the row: a hypothesis or a sentence."""


@dataclass
class Columns:
    """A tensor (rows, heads, max_len, dim) that is filled position by position (see ``Step.write``).

    Unlike a plain tensor, only the columns that are written so far move when hypotheses are reordered.
    """

    tensor: Tensor


def tree_map(function: Callable[[Tensor], Tensor], state: State) -> State:
    """The same tree with ``function`` applied to every tensor."""
    if isinstance(state, Tensor):
        return function(state)
    if isinstance(state, Columns):
        return Columns(function(state.tensor))
    if isinstance(state, dict):
        return {key: tree_map(function, child) for key, child in state.items()}
    if isinstance(state, list):
        return [tree_map(function, child) for child in state]
    raise TypeError(f"a decoding state holds tensors, Columns, dicts and lists, not {type(state).__name__}")


def reorder(state: State, rows: Tensor, num_columns: int) -> None:
    """Row r takes the content of row rows[r], in every tensor of a tree, in place.

    Args:
        state: the tree.
        rows: int64, as many as the tree has rows.
        num_columns: columns of ``Columns`` that are written.
    """
    if isinstance(state, Columns):
        written = state.tensor[:, :, :num_columns]
        written.copy_(written.index_select(0, rows))
    elif isinstance(state, Tensor):
        state.copy_(state.index_select(0, rows))
    else:
        for child in state.values() if isinstance(state, dict) else state:
            reorder(child, rows, num_columns)


def num_bytes(state: State) -> int:
    """Bytes that a state's tensors occupy."""
    total = 0

    def count(tensor: Tensor) -> Tensor:
        nonlocal total
        total += tensor.numel() * tensor.element_size()
        return tensor

    tree_map(count, state)
    return total


@dataclass
class Step:
    """What a decoding step tells every layer.

    Attributes:
        positions: int64 (num_tokens,), the positions of the tokens of this step; the same for all rows.
        span: number of cache columns, from the start, that may be read: all later ones are still empty.
        attn_mask: bool (num_tokens, span), True = may attend; None when every token sees the whole span.
        memory_mask: bool (bsz, 1, 1, src_len), True = may attend; None when no source is padded.
    """

    positions: Tensor
    span: int
    attn_mask: Tensor | None
    memory_mask: Tensor | None

    def write(self, cache: Columns, value: Tensor) -> Tensor:
        """Write ``value`` (rows, heads, num_tokens, dim) into the columns of this step.

        Returns:
            The columns that may be read (rows, heads, span, dim), a view of ``cache``.
        """
        cache.tensor[:, :, self.span - value.size(2) : self.span] = value
        return cache.tensor[:, :, : self.span]


@dataclass
class DecoderState:
    """The whole state of a decoder while it generates.

    Attributes:
        cache: one row per hypothesis (bsz * beam); hypothesis r belongs to sentence r // beam.
        memory: one row per sentence: what is computed once from the encoder's output, shared by all hypotheses.
        memory_mask: bool (bsz, 1, 1, src_len), True = may attend; None when no source is padded.
        beam: hypotheses per sentence.
        max_len: number of positions allocated.
        position: number of positions written.
    """

    cache: State
    memory: State
    memory_mask: Tensor | None
    beam: int
    max_len: int
    position: int = 0

    def reorder(self, rows: Tensor) -> None:
        """Hypothesis r takes over the history of hypothesis rows[r], of the same sentence; in place.

        Args:
            rows: int64 (bsz * beam,).
        """
        reorder(self.cache, rows, self.position)

    def select(self, sentences: Tensor) -> DecoderState:
        """The state of some of the sentences, in the given order.

        Args:
            sentences: int64 (new_bsz,).
        """
        hypotheses = torch.arange(self.beam, device=sentences.device)
        rows = (sentences[:, None] * self.beam + hypotheses).reshape(-1)
        mask = self.memory_mask
        return DecoderState(
            cache=tree_map(lambda t: t.index_select(0, rows), self.cache),
            memory=tree_map(lambda t: t.index_select(0, sentences), self.memory),
            memory_mask=None if mask is None else mask.index_select(0, sentences),
            beam=self.beam,
            max_len=self.max_len,
            position=self.position,
        )
