"""Average attention network (Zhang, Xiong and Su 2018, arXiv:1805.00631)."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

import torch
from torch import Tensor, nn

from nmt.config import option
from nmt.limits import MAX_WIDTH
from nmt.models.interfaces import ForwardPass, LayerContext, SelfAttention
from nmt.models.masks import SelfMask
from nmt.models.precision import at_least_float32
from nmt.models.state import State, Step
from nmt.registry import register

from ..feed_forward.dense import DenseFeedForward, DenseOptions


class AverageInput(Enum):
    """What a pre-norm layer's average is taken over."""

    normed = "normed"
    raw = "raw"


@dataclass
class AverageOptions:
    """Options of ``average`` (self attention)."""

    gate: bool = option(True, "weigh the input and the average of the past with learned gates")
    ffn: bool = option(True, "a feed-forward network over the average")
    ffn_dim: int | None = option(None, "its inner width; default: the stack's ffn_dim", minimum=1, maximum=MAX_WIDTH)
    average_input: AverageInput = option(
        AverageInput.normed, "normed: the sub-layer's input; raw: the residual stream, normalised only before the ffn"
    )


@register("self_attention", "average", options=AverageOptions, paper="Zhang et al. 2018, arXiv:1805.00631")
class AverageAttention(SelfAttention):
    """Every position sees the plain average of the positions so far: steps take constant time and memory."""

    causal_only = True

    def __init__(self, options: AverageOptions, *, context: LayerContext) -> None:
        super().__init__()
        width = context.embed_dim
        self.width = width
        self.takes_raw = options.average_input is AverageInput.raw
        self.ffn = DenseFeedForward(DenseOptions(ffn_dim=options.ffn_dim), context=context) if options.ffn else None
        self.norm = context.make_norm(width) if self.takes_raw and options.ffn else nn.Identity()
        self.gate = context.make_linear("gate", 2 * width, 2 * width) if options.gate else None
        if self.gate is not None:
            self.gate.init()

    def _mix(self, x: Tensor, average: Tensor, memo: ForwardPass) -> Tensor:
        """Input and average of every position, each (bsz, length, embed_dim), to the output."""
        past = average if self.ffn is None else self.ffn(self.norm(average), memo)
        if self.gate is None:
            return past
        of_input, of_past = self.gate(torch.cat([x, past.to(x.dtype)], dim=-1)).sigmoid().chunk(2, dim=-1)
        return of_input * x + of_past * past

    def forward(self, x: Tensor, mask: SelfMask, memo: ForwardPass) -> Tensor:
        total = at_least_float32(x).cumsum(dim=1)
        counts = torch.arange(1, x.size(1) + 1, device=x.device)
        return self._mix(x, (total / counts[:, None]).to(x.dtype), memo)

    def init_state(self, rows: int, max_len: int, like: Tensor) -> State:
        return {"sum": at_least_float32(like.new_zeros(rows, self.width))}

    def step(self, x: Tensor, cache: State, step: Step, memo: ForwardPass) -> Tensor:
        total = cache["sum"].unsqueeze(1) + at_least_float32(x).cumsum(dim=1)
        cache["sum"].copy_(total[:, -1])
        counts = step.positions + 1
        return self._mix(x, (total / counts[:, None]).to(x.dtype), memo)
