"""Simpler simple recurrent unit (Kim et al. 2019, ACL anthology D19-5632, section 3), a recurrence for decoders.

It leaves out the reset gate and the skip of the simple recurrent unit (Lei et al. 2018, arXiv:1709.02755).
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from nmt.models.interfaces import ForwardPass, LayerContext, SelfAttention
from nmt.models.masks import SelfMask
from nmt.models.precision import at_least_float32
from nmt.models.state import State, Step
from nmt.registry import NoOptions, register


@register("self_attention", "ssru", paper="Lei et al. 2018, arXiv:1709.02755 (SRU); Kim et al. 2019, D19-5632 (SSRU)")
class SimplerSimpleRecurrentUnit(SelfAttention):
    """A gated running mean of the positions so far, whose gates see only the position itself."""

    causal_only = True

    def __init__(self, options: NoOptions, *, context: LayerContext) -> None:
        super().__init__()
        self.width = context.embed_dim
        # Gate and candidate in one product; only the gate has a bias.
        self.project = context.make_linear(("gate", "v"), self.width, 2 * self.width, bias=False)
        self.gate_bias = nn.Parameter(torch.zeros(self.width))
        self.project.init(parts=2, gain=1.0)

    def _terms(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """(bsz, length, embed_dim) to f and (1 - f) W x of the same shape, at least float32."""
        gate, candidate = at_least_float32(self.project(x)).chunk(2, dim=-1)
        forget = torch.sigmoid(gate + self.gate_bias)
        return forget, (1 - forget) * candidate

    def forward(self, x: Tensor, mask: SelfMask, memo: ForwardPass) -> Tensor:
        return linear_recurrence(*self._terms(x)).relu().to(x.dtype)

    def init_state(self, rows: int, max_len: int, like: Tensor) -> State:
        return {"cell": at_least_float32(like.new_zeros(rows, self.width))}

    def step(self, x: Tensor, cache: State, step: Step, memo: ForwardPass) -> Tensor:
        forget, update = self._terms(x)
        first = update[:, :1] + forget[:, :1] * cache["cell"].unsqueeze(1)
        cells = linear_recurrence(forget, torch.cat([first, update[:, 1:]], dim=1))
        cache["cell"].copy_(cells[:, -1])
        return cells.relu().to(x.dtype)


def linear_recurrence(decay: Tensor, update: Tensor) -> Tensor:
    """``c[t] = decay[t] * c[t - 1] + update[t]`` from c = 0, in O(log length) vector operations.

    Args:
        decay: (bsz, length, dim), between 0 and 1.
        update: (bsz, length, dim).

    Returns:
        All c, (bsz, length, dim). Only these and ``decay`` are kept for the gradients.
    """
    cells: Tensor = _LinearRecurrence.apply(decay, update)  # type: ignore[no-untyped-call]
    return cells


class _LinearRecurrence(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, decay: Tensor, update: Tensor) -> Tensor:
        cells = _scan(decay, update)
        ctx.save_for_backward(decay, cells)
        return cells

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor]:
        decay, cells = ctx.saved_tensors
        none = torch.zeros_like(decay[:, :1])
        # What reaches c[t] comes from its output and, through decay[t + 1], from c[t + 1]: the same backwards.
        later = torch.cat([decay[:, 1:], none], dim=1)
        reached = linear_recurrence(later.flip(1), grad.flip(1)).flip(1)
        return reached * torch.cat([none, cells[:, :-1]], dim=1), reached


def _scan(decay: Tensor, update: Tensor) -> Tensor:
    """By doubling: a position's pair (decay, update) comes to stand for 1, 2, 4, ... positions up to it.

    Products of decays may vanish, which is right, but never overflow, as dividing by them would.
    """
    decay, cells = decay.clone(), update.clone()
    span, length = 1, decay.size(1)
    while span < length:
        cells[:, span:] += decay[:, span:] * cells[:, :-span]
        decay[:, span:] = decay[:, span:] * decay[:, :-span]
        span *= 2
    return cells
