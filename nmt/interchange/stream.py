"""Reordering the features of the residual stream.

A sinusoidal table can list its features in two orders: sine and cosine in turn (Vaswani et al. 2017, arXiv:1706.03762,
section 3.5; ours) or all sines, then all cosines (tensor2tensor, fairseq, Marian). No other part of a Transformer
prefers an order: norms treat features alike, and every matrix can list its rows or columns in any. So the same
reordering of everything that reads or writes the stream turns one kind of model into the other, exactly.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

import torch
from torch import Tensor

_READS = r"\.(qkv|q|kv|inner|projection)\.weight$|\.words\.weight$|\.(positions|table)$"  # features are columns
_WRITES = r"\.(out|outer|norm)\.(weight|bias)$"  # features are rows
_FREE = r"\.(qkv|q|kv|inner|projection)\.bias$"


def halves_from_turns(dim: int) -> Tensor:
    """Where the features of "sines, then cosines" stand among "sine and cosine in turn", int64 (dim,)."""
    return torch.cat([torch.arange(0, dim, 2), torch.arange(1, dim, 2)])


def turns_from_halves(dim: int) -> Tensor:
    """The inverse of ``halves_from_turns``."""
    return halves_from_turns(dim).argsort()


def reorder_stream(tensors: Mapping[str, Tensor], order: Tensor) -> dict[str, Tensor]:
    """A model whose residual stream lists its features in another order; it computes the same.

    Args:
        tensors: under the names of our checkpoints; both sides of one width.
        order: feature i of the result is feature ``order[i]`` of the given model (embed_dim,).
    """
    result = {}
    for name, tensor in tensors.items():
        if re.search(_READS, name):
            result[name] = tensor[:, order]
        elif re.search(_WRITES, name):
            result[name] = tensor[order]
        else:
            assert re.search(_FREE, name), f"{name}: not a tensor of the standard Transformer"
            result[name] = tensor
    return result
