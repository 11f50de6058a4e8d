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
    """What is kept of every position, for attention over the history: written once, never moved.

    Hypotheses of a beam share most of their history, so it is not copied when they are reordered. All columns of a
    sentence lie side by side, position by position, and in each position beam slot by beam slot; ``Step.attn_mask``
    tells each hypothesis which of them are its own history.

    Attributes:
        tensor: (rows, heads, max_len, dim) as far as sizes go. Memory is one block a sentence, laid out as
            (heads, max_len, beam, dim).
    """

    tensor: Tensor

    @classmethod
    def empty(cls, rows: int, heads: int, max_len: int, dim: int, like: Tensor) -> Columns:
        """Room for ``max_len`` positions of ``rows`` hypotheses, of the dtype and device of ``like``."""
        return cls(like.new_empty((rows, heads, max_len, dim)))

    def blocks(self, beam: int) -> Tensor:
        """A view (bsz, heads, max_len * beam, dim) of the memory as it is laid out."""
        rows, heads, max_len, dim = self.tensor.shape
        return self.tensor.view(rows // beam, heads, max_len * beam, dim)

    def select(self, sentences: Tensor, beam: int, num_columns: int) -> Columns:
        """A copy of some sentences' columns as far as ``num_columns`` positions."""
        heads, max_len, dim = self.tensor.shape[1:]
        chosen = Columns.empty(sentences.numel() * beam, heads, max_len, dim, self.tensor)
        written = slice(0, num_columns * beam)
        chosen.blocks(beam)[:, :, written] = self.blocks(beam)[:, :, written].index_select(0, sentences)
        return chosen


def tree_map(
    function: Callable[[Tensor], Tensor], state: State, columns: Callable[[Columns], Columns] | None = None
) -> State:
    """The same tree with ``function`` applied to every tensor, and ``columns``, where given, to every ``Columns``."""
    if isinstance(state, Tensor):
        return function(state)
    if isinstance(state, Columns):
        return columns(state) if columns else Columns(function(state.tensor))
    if isinstance(state, dict):
        return {key: tree_map(function, child, columns) for key, child in state.items()}
    if isinstance(state, list):
        return [tree_map(function, child, columns) for child in state]
    raise TypeError(f"a decoding state holds tensors, Columns, dicts and lists, not {type(state).__name__}")


def reorder(state: State, rows: Tensor) -> None:
    """Row r takes the content of row rows[r], in every plain tensor of a tree, in place; ``Columns`` stay.

    Args:
        state: the tree.
        rows: int64, as many as the tree has rows.
    """
    if isinstance(state, Tensor):
        state.copy_(state.index_select(0, rows))
    elif not isinstance(state, Columns):
        for child in state.values() if isinstance(state, dict) else state:
            reorder(child, rows)


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
        span: number of positions, from the start, that are written after this step.
        beam: hypotheses per sentence; rows of one sentence are adjacent.
        attn_mask: what each query may attend to among the columns of its sentence: (bsz, 1, beam * num_tokens,
            span * beam) of the states' dtype, 0 = may, minus infinity = may not; None when every query sees all.
        memory_mask: bool (bsz, 1, 1, src_len), True = may attend; None when no source is padded.
    """

    positions: Tensor
    span: int
    beam: int
    attn_mask: Tensor | None
    memory_mask: Tensor | None

    def write(self, cache: Columns, value: Tensor) -> Tensor:
        """Write ``value`` (rows, heads, num_tokens, dim) into the columns of this step.

        Returns:
            All columns of every sentence that are written (bsz, heads, span * beam, dim), a view of ``cache``.
        """
        heads, num_tokens, dim = value.shape[1:]
        blocks = cache.blocks(self.beam)  # (bsz, heads, max_len * beam, dim)
        end = self.span * self.beam
        new = value.view(-1, self.beam, heads, num_tokens, dim).permute(0, 2, 3, 1, 4)
        blocks.narrow(2, end - num_tokens * self.beam, num_tokens * self.beam).view(new.shape).copy_(new)
        return blocks.narrow(2, 0, end)

    def queries(self, q: Tensor) -> Tensor:
        """(rows, heads, num_tokens, dim) to (bsz, heads, beam * num_tokens, dim): a sentence asks as one."""
        heads, num_tokens, dim = q.shape[1:]
        if self.beam == 1:
            return q
        return (
            q.reshape(-1, self.beam, heads, num_tokens, dim)
            .transpose(1, 2)
            .reshape(-1, heads, self.beam * num_tokens, dim)
        )

    def answers(self, attended: Tensor) -> Tensor:
        """(bsz, heads, beam * num_tokens, dim) back to (rows, heads, num_tokens, dim)."""
        bsz, heads, _, dim = attended.shape
        if self.beam == 1:
            return attended
        return attended.view(bsz, heads, self.beam, -1, dim).transpose(1, 2).flatten(0, 1)


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
        slots: int64 (bsz, beam, max_len): the beam slot in which a hypothesis' token of each position was written.
    """

    cache: State
    memory: State
    memory_mask: Tensor | None
    beam: int
    max_len: int
    slots: Tensor
    position: int = 0

    @classmethod
    def start(
        cls,
        cache: State,
        memory: State,
        memory_mask: Tensor | None,
        *,
        bsz: int,
        beam: int,
        max_len: int,
        device: torch.device,
    ) -> DecoderState:
        """Before the first token: every hypothesis would write into its own slot."""
        slots = torch.arange(beam, device=device)[:, None].repeat(bsz, 1, max_len)
        return cls(cache, memory, memory_mask, beam, max_len, slots)

    def begin(self, num_tokens: int, like: Tensor) -> Step:
        """The step that appends ``num_tokens`` tokens to every hypothesis; advances the position.

        Args:
            num_tokens: of every hypothesis.
            like: a tensor of the states' dtype and device.
        """
        start, span = self.position, self.position + num_tokens
        assert span <= self.max_len, f"{span} positions do not fit into a state of {self.max_len}"
        self.position = span
        positions = torch.arange(start, span, device=like.device)
        return Step(positions, span, self.beam, self._attn_mask(positions, like), self.memory_mask)

    def _attn_mask(self, positions: Tensor, like: Tensor) -> Tensor | None:
        """See ``Step.attn_mask``."""
        if self.beam == 1 and positions.numel() == 1:
            return None
        beam, span, device = self.beam, self.position, like.device
        own = self.slots[:, :, :span, None] == torch.arange(beam, device=device)  # (bsz, beam, span, beam)
        may = own.unsqueeze(2)
        if positions.numel() > 1:
            before = torch.arange(span, device=device) <= positions[:, None]  # (num_tokens, span)
            may = may & before[:, :, None]
        mask = like.new_zeros(may.shape).masked_fill_(~may, -torch.inf)
        return mask.view(own.size(0), 1, -1, span * beam)

    def reorder(self, rows: Tensor) -> None:
        """Hypothesis r takes over the history of hypothesis rows[r], of the same sentence; in place.

        Args:
            rows: int64 (bsz * beam,).
        """
        reorder(self.cache, rows)
        written = self.slots.view(-1, self.max_len)[:, : self.position]
        written.copy_(written.index_select(0, rows))

    def select(self, sentences: Tensor) -> DecoderState:
        """The state of some of the sentences, in the given order.

        Args:
            sentences: int64 (new_bsz,).
        """
        hypotheses = torch.arange(self.beam, device=sentences.device)
        rows = (sentences[:, None] * self.beam + hypotheses).reshape(-1)
        mask = self.memory_mask
        return DecoderState(
            cache=tree_map(
                lambda t: t.index_select(0, rows), self.cache, lambda c: c.select(sentences, self.beam, self.position)
            ),
            memory=tree_map(lambda t: t.index_select(0, sentences), self.memory),
            memory_mask=None if mask is None else mask.index_select(0, sentences),
            beam=self.beam,
            max_len=self.max_len,
            slots=self.slots.index_select(0, sentences),
            position=self.position,
        )
