"""Feed-forward networks side by side, each for its own rows."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from nmt.models.dropout import Dropout
from nmt.models.experts import Experts

from .dense import GATED, PLAIN, Activation

BLOCK = 32
"""On a CPU, oneDNN compiles a product in bfloat16 for every shape that it has not met of late, which takes longer than
the product: groups are therefore filled up to whole blocks of so many rows, where that does not add many."""


class FeedForwardExperts(Experts):
    """Feed-forward networks of one shape; the first dimension of every parameter is the expert.

    Args:
        num_experts: how many.
        embed_dim: width of input and output.
        ffn_dim: inner width of each.
        activation: as in ``dense``.
        bias: whether projections have biases.
        dropout: after the activation.
    """

    def __init__(
        self, num_experts: int, embed_dim: int, ffn_dim: int, activation: Activation, *, bias: bool, dropout: float
    ) -> None:
        super().__init__()
        self.gated = activation in GATED
        self.activation = (GATED if self.gated else PLAIN)[activation]
        parts = 2 if self.gated else 1
        self.inner_weight = nn.Parameter(torch.empty(num_experts, parts * ffn_dim, embed_dim))
        self.outer_weight = nn.Parameter(torch.empty(num_experts, embed_dim, ffn_dim))
        self.inner_bias = nn.Parameter(torch.zeros(num_experts, parts * ffn_dim)) if bias else None
        self.outer_bias = nn.Parameter(torch.zeros(num_experts, embed_dim)) if bias else None
        self.dropout = Dropout(dropout)
        for inner, outer in zip(self.inner_weight.detach(), self.outer_weight.detach()):
            for block in inner.chunk(parts, dim=0):
                nn.init.xavier_uniform_(block)
            nn.init.xavier_uniform_(outer)

    def transform(self, x: Tensor, counts: Tensor) -> Tensor:
        if not _compiles_shapes(x) or len(x) < BLOCK * len(counts):
            return self._transform(x, counts)
        room = (counts + BLOCK - 1) // BLOCK * BLOCK
        ends = room.cumsum(0)
        shift = (ends - room) - (counts.cumsum(0) - counts)
        slots = torch.arange(len(x)) + shift.repeat_interleave(counts)
        filled = x.new_zeros(int(ends[-1]), x.size(1)).index_copy(0, slots, x)
        return self._transform(filled, room).index_select(0, slots)

    def _transform(self, x: Tensor, counts: Tensor) -> Tensor:
        x = grouped_linear(x, counts, self.inner_weight, self.inner_bias)  # (num_rows, ffn_dim), or twice as wide
        if self.gated:
            gate, value = x.chunk(2, dim=-1)
            x = self.activation(gate) * value
        else:
            x = self.activation(x)
        return grouped_linear(self.dropout(x), counts, self.outer_weight, self.outer_bias)


def grouped_linear(x: Tensor, counts: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """The linear map x W_g^T + b_g of every row x of group g.

    Args:
        x: (num_rows, in_features), sorted by group.
        counts: int64 (num_groups,), rows of each group; they sum to num_rows.
        weight: (num_groups, out_features, in_features).
        bias: (num_groups, out_features), or None.

    Returns:
        (num_rows, out_features), of the number format that autocast gives a linear map.
    """
    dtype = _product_dtype(x)
    x, weight = x.to(dtype), weight.to(dtype)
    bias = None if bias is None else bias.to(dtype)
    if not _has_grouped_product(weight):
        return _one_by_one(x, counts, weight, bias)
    ends = counts.cumsum(0)
    y = F.grouped_mm(x, weight.transpose(1, 2), offs=ends.to(torch.int32))
    if bias is None:
        return y
    rows = torch.arange(len(x), device=x.device)
    groups = torch.searchsorted(ends, rows, right=True)
    # A product, because its gradient is one too: indexing's would add row to row.
    return torch.addmm(y, F.one_hot(groups, len(counts)).to(y.dtype), bias)


def _product_dtype(x: Tensor) -> torch.dtype:
    """The number format of a product with rows like these."""
    device = x.device.type
    return torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else x.dtype


def _compiles_shapes(x: Tensor) -> bool:
    """See ``BLOCK``."""
    return x.device.type == "cpu" and not torch.compiler.is_compiling() and _product_dtype(x) is torch.bfloat16


def _has_grouped_product(weight: Tensor) -> bool:
    """Whether this version of torch multiplies all groups in one call; it wants rows of whole 16 bytes."""
    if not hasattr(F, "grouped_mm") or weight.dtype not in (torch.float32, torch.bfloat16, torch.float16):
        return False
    return all(size * weight.element_size() % 16 == 0 for size in weight.shape[1:])


def _one_by_one(x: Tensor, counts: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """The same, a product for each group that has rows."""
    biases = [None] * len(counts) if bias is None else bias.unbind()
    groups = zip(torch.split(x, counts.tolist()), weight.unbind(), biases)
    return torch.cat([F.linear(rows, w, b) for rows, w, b in groups if len(rows) or not len(x)])
