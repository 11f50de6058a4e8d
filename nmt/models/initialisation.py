"""Initial values with which pre- and post-norm models train without divergence."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import nn


def init_projection(linear: nn.Linear, *, parts: int | Sequence[int] = 1, gain: float | None = None) -> None:
    """Glorot-uniform weights and zero biases (Glorot and Bengio 2010).

    Args:
        linear: changed in place.
        parts: number of equal blocks of output features that are projections of their own, or the size of each. Blocks
            of queries, keys and values get a gain of 1/sqrt(2), which keeps early attention close to uniform.
        gain: another one, for a part that stands alone here.
    """
    if gain is None:
        gain = 1.0 if parts == 1 else 1 / math.sqrt(2)
    blocks = linear.weight.chunk(parts) if isinstance(parts, int) else torch.split(linear.weight, list(parts))
    for block in blocks:
        nn.init.xavier_uniform_(block, gain=gain)
    if linear.bias is not None:
        nn.init.zeros_(linear.bias)


def init_embedding(embedding: nn.Embedding) -> None:
    """Normal with variance 1 / embed_dim, so that scaled embeddings and tied outputs both start near unit variance."""
    nn.init.normal_(embedding.weight, std=embedding.embedding_dim**-0.5)
    if embedding.padding_idx is not None:
        with torch.no_grad():
            embedding.weight[embedding.padding_idx].zero_()
