"""Average attention (Zhang et al. 2018, arXiv:1805.00631)."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

import torch
from torch import Tensor, nn

from nmt.config import option
from nmt.models.initialisation import init_projection
from nmt.models.interfaces import ForwardPass, LayerContext, SelfAttention
from nmt.models.masks import SelfMask
from nmt.models.recurrence import refuse_encoder, wide
from nmt.models.state import State, Step
from nmt.registry import register

from ..feed_forward.dense import DenseFeedForward, DenseOptions


class AverageInput(Enum):
    """What is averaged in a pre-norm layer."""

    normed = "normed"
    raw = "raw"


@dataclass
class AverageOptions:
    """Options of ``average`` (self attention)."""

    gate: bool = option(True, "weigh the position itself and its prefix by an input and a forget gate")
    ffn: bool = option(True, "a feed-forward network on the average")
    ffn_dim: int | None = option(None, "its inner width; default: the stack's ffn_dim", minimum=1)
    average_input: AverageInput = option(
        AverageInput.normed,
        "normed: all reads the layer's normalised input; raw: all reads the residual stream, and a norm of its own "
        "stands before the feed-forward network (pre-norm layers only differ)",
    )


@register("self_attention", "average", options=AverageOptions, paper="Zhang et al. 2018, arXiv:1805.00631")
class AverageAttention(SelfAttention):
    """Every position takes the plain average of its prefix: decoding costs the same at every position.

    With a_j = (y_1 + ... + y_j) / j and g_j = FFN(a_j), the output is i * y_j + f * g_j, where the gates [i; f] are
    sigmoid(W [y_j; g_j] + b). Without a gate it is g_j, without the network g_j = a_j. The state is the running sum.

    Raises:
        ConfigError: the stack is an encoder, which has no prefixes.
    """

    def __init__(self, options: AverageOptions, *, context: LayerContext) -> None:
        super().__init__()
        refuse_encoder(context, "average")
        dim = context.embed_dim
        self.takes_raw = options.average_input is AverageInput.raw
        self.norm = context.make_norm(dim) if self.takes_raw and options.ffn else nn.Identity()
        dense = DenseOptions(ffn_dim=options.ffn_dim)
        self.ffn = DenseFeedForward(dense, context=context) if options.ffn else None
        self.gate = nn.Linear(2 * dim, 2 * dim) if options.gate else None
        if self.gate is not None:
            init_projection(self.gate)

    def forward(self, x: Tensor, mask: SelfMask, memo: ForwardPass) -> Tensor:
        counts = torch.arange(1, x.size(1) + 1, device=x.device)
        return self._mix(x, wide(x).cumsum(1) / counts[:, None], memo)

    def init_state(self, rows: int, max_len: int, like: Tensor) -> State:
        return {"sum": wide(like.new_zeros(rows, like.size(-1)))}

    def step(self, x: Tensor, cache: State, step: Step, memo: ForwardPass) -> Tensor:
        sums = wide(x).cumsum(1) + cache["sum"].unsqueeze(1)  # (rows, num_tokens, embed_dim)
        cache["sum"].copy_(sums[:, -1])
        return self._mix(x, sums / (step.positions + 1)[:, None], memo)

    def _mix(self, x: Tensor, average: Tensor, memo: ForwardPass) -> Tensor:
        """Positions and the averages of their prefixes, each (bsz, length, embed_dim), to the output."""
        g = average.to(x.dtype)
        if self.ffn is not None:
            g = self.ffn(self.norm(g), memo)
        if self.gate is None:
            return g
        own, prefix = torch.sigmoid(self.gate(torch.cat([x, g], dim=-1))).chunk(2, dim=-1)
        return own * x + prefix * g
