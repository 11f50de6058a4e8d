"""Batches of token ids, padded on the right."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from nmt.data.arrays import IntArray
from nmt.data.corpus import ParallelSplit
from nmt.text.vocabulary import BOS, EOS, PAD


@dataclass
class Batch:
    """Sentence pairs as tensors, batch first, int64, padded with pad on the right.

    Attributes:
        src_tokens: ids + eos (bsz, src_len).
        prev_output_tokens: bos + ids (bsz, tgt_len).
        target: ids + eos (bsz, tgt_len).
        num_tokens: target tokens without padding, eos counted.
        ids: line numbers in the split, for messages.
    """

    src_tokens: Tensor
    prev_output_tokens: Tensor
    target: Tensor
    num_tokens: int
    ids: list[int]

    def __len__(self) -> int:
        return len(self.ids)

    def to(self, device: torch.device | str) -> Batch:
        """The same batch on another device."""
        return replace(
            self,
            src_tokens=self.src_tokens.to(device, non_blocking=True),
            prev_output_tokens=self.prev_output_tokens.to(device, non_blocking=True),
            target=self.target.to(device, non_blocking=True),
        )


def pad_flat(flat: IntArray, lengths: IntArray, *, first: int | None = None, last: int | None = None) -> Tensor:
    """Rows of ids, given one after the other, as a tensor padded on the right.

    Args:
        flat: ids of all rows.
        lengths: ids of each row.
        first: id put before every row, if any.
        last: id put after every row, if any.

    Returns:
        (rows, longest row with first and last) int64.
    """
    head, tail = int(first is not None), int(last is not None)
    width = int(lengths.max(initial=0))
    out = np.full((len(lengths), head + width + tail), PAD, dtype=np.int64)
    out[:, head : head + width][np.arange(width) < lengths[:, None]] = flat  # the mask is walked row by row
    if first is not None:
        out[:, 0] = first
    if last is not None:
        out[np.arange(len(lengths)), lengths + head] = last
    return torch.from_numpy(out)


def flatten(rows: Sequence[IntArray | Sequence[int]]) -> tuple[IntArray, IntArray]:
    """Rows one after the other, and the length of each (int64)."""
    lengths = np.fromiter(map(len, rows), dtype=np.int64, count=len(rows))
    return np.concatenate([np.zeros(0, np.int64), *rows]), lengths


def pad_rows(rows: Sequence[IntArray | Sequence[int]], *, first: int | None = None, last: int | None = None) -> Tensor:
    """`pad_flat` of separate rows."""
    return pad_flat(*flatten(rows), first=first, last=last)


def collate(source: tuple[IntArray, IntArray], target: tuple[IntArray, IntArray], ids: IntArray) -> Batch:
    """A batch of sentence pairs.

    Args:
        source: ids of all rows without bos and eos, one after the other, and the length of each row.
        target: the same of the other side.
        ids: line number of each pair.
    """
    return Batch(
        src_tokens=pad_flat(*source, last=EOS),
        prev_output_tokens=pad_flat(*target, first=BOS),
        target=pad_flat(*target, last=EOS),
        num_tokens=len(target[0]) + len(ids),
        ids=[int(i) for i in ids],
    )


def make_batch(split: ParallelSplit, lines: Sequence[int] | IntArray) -> Batch:
    """A batch of some lines of a split, as they were segmented when the corpus was prepared."""
    numbers = np.asarray(lines, dtype=np.int64)
    return collate(split.gather("source", numbers), split.gather("target", numbers), numbers)
