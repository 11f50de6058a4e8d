"""The simpler simple recurrent unit, SSRU.

Kim et al. 2019, "From Research to Production and Back: Ludicrously Fast Neural Machine Translation", section 3
(aclanthology.org/D19-5632), after the SRU of Lei et al. 2018 (arXiv:1709.02755).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from nmt.config import option
from nmt.models.interfaces import ForwardPass, LayerContext, SelfAttention
from nmt.models.masks import SelfMask
from nmt.models.recurrence import linear_recurrence, refuse_encoder, wide
from nmt.models.state import State, Step
from nmt.registry import register


@dataclass
class SsruOptions:
    """Options of ``ssru`` (self attention)."""

    bias: bool = option(True, "a bias in the forget gate")


@register(
    "self_attention", "ssru", options=SsruOptions, paper="Lei et al. 2018, arXiv:1709.02755; SSRU: Kim et al. 2019"
)
class SsruSelfAttention(SelfAttention):
    """A gated running average of the prefix, whose gate reads the current position only.

    f_t = sigmoid(W_f x_t + b), c_t = f_t * c_{t-1} + (1 - f_t) * W x_t, output relu(c_t). The state is c_t.

    Raises:
        ConfigError: the stack is an encoder, which has no prefixes.
    """

    def __init__(self, options: SsruOptions, *, context: LayerContext) -> None:
        super().__init__()
        refuse_encoder(context, "ssru")
        # One product; the bias is the gate's alone.
        self.projection = nn.Linear(context.embed_dim, 2 * context.embed_dim, bias=False)
        self.bias = nn.Parameter(torch.zeros(context.embed_dim)) if options.bias else None
        for block in self.projection.weight.chunk(2, dim=0):
            nn.init.xavier_uniform_(block)

    def forward(self, x: Tensor, mask: SelfMask, memo: ForwardPass) -> Tensor:
        return F.relu(linear_recurrence(*self._terms(x))).to(x.dtype)

    def init_state(self, rows: int, max_len: int, like: Tensor) -> State:
        return {"c": wide(like.new_zeros(rows, like.size(-1)))}

    def step(self, x: Tensor, cache: State, step: Step, memo: ForwardPass) -> Tensor:
        forget, new = self._terms(x)
        new[:, 0].addcmul_(forget[:, 0], cache["c"])
        c = linear_recurrence(forget, new)
        cache["c"].copy_(c[:, -1])
        return F.relu(c).to(x.dtype)

    def _terms(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """f_t and (1 - f_t) * W x_t, each (bsz, length, embed_dim), in float32 at least."""
        gate, value = self.projection(x).chunk(2, dim=-1)
        gate, value = wide(gate), wide(value)
        if self.bias is not None:
            gate = gate + self.bias
        return torch.sigmoid(gate), torch.sigmoid(-gate) * value
