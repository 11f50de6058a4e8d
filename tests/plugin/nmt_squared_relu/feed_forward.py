"""Feed-forward network whose activation is a squared ReLU (So et al. 2021, arXiv:2109.08668, section 3)."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor, nn

from nmt.config import option
from nmt.models.interfaces import FeedForward, ForwardPass, LayerContext
from nmt.registry import register


@dataclass
class SquaredReluOptions:
    bias: bool = option(True, "biases in the projections")


@register("feed_forward", "squared_relu", options=SquaredReluOptions, paper="So et al. 2021, arXiv:2109.08668")
class SquaredReluFeedForward(FeedForward):
    """Two projections with max(0, x) squared between them."""

    def __init__(self, options: SquaredReluOptions, *, context: LayerContext) -> None:
        super().__init__()
        self.inner = context.make_linear("ffn1", context.embed_dim, context.ffn_dim, bias=options.bias)
        self.outer = context.make_linear("ffn2", context.ffn_dim, context.embed_dim, bias=options.bias)
        self.inner.init()
        self.outer.init()
        self.dropout = nn.Dropout(context.activation_dropout)

    def forward(self, x: Tensor, memo: ForwardPass) -> Tensor:
        x = self.inner(x).relu().square()  # (bsz, length, ffn_dim)
        return self.outer(self.dropout(x))
