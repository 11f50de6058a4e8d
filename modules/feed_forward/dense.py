"""Position-wise feed-forward network and its gated family.

Two projections with an activation between them (Vaswani et al. 2017, arXiv:1706.03762, eq. 2), or a gated linear
unit, whose activation multiplies a second projection (Shazeer 2020, arXiv:2002.05202).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum

from torch import Tensor
from torch.nn import functional as F

from nmt.config import option
from nmt.limits import MAX_WIDTH
from nmt.models.dropout import Dropout
from nmt.models.interfaces import FeedForward, ForwardPass, LayerContext
from nmt.registry import register


class Activation(Enum):
    """Activations; the gated ones compute ``f(x W) * (x V)``."""

    relu = "relu"
    gelu = "gelu"
    silu = "silu"
    glu = "glu"
    reglu = "reglu"
    geglu = "geglu"
    swiglu = "swiglu"


PLAIN: dict[Activation, Callable[[Tensor], Tensor]] = {
    Activation.relu: F.relu,
    Activation.gelu: F.gelu,
    Activation.silu: F.silu,
}
GATED: dict[Activation, Callable[[Tensor], Tensor]] = {
    Activation.glu: F.sigmoid,
    Activation.reglu: F.relu,
    Activation.geglu: F.gelu,
    Activation.swiglu: F.silu,
}


@dataclass
class DenseOptions:
    """Options of ``dense`` (feed forward)."""

    ffn_dim: int | None = option(None, "inner width; default: the stack's ffn_dim", minimum=1, maximum=MAX_WIDTH)
    activation: Activation = option(Activation.relu, "relu, gelu, silu, or gated: glu, reglu, geglu, swiglu")
    bias: bool = option(True, "biases in the projections")


@register("feed_forward", "dense", options=DenseOptions, paper="Vaswani et al. 2017, arXiv:1706.03762")
class DenseFeedForward(FeedForward):
    """Two projections with an activation between them, or a gated linear unit."""

    def __init__(self, options: DenseOptions, *, context: LayerContext) -> None:
        super().__init__()
        ffn_dim = options.ffn_dim or context.ffn_dim
        self.gated = options.activation in GATED
        self.activation = (GATED if self.gated else PLAIN)[options.activation]
        parts = 2 if self.gated else 1
        self.inner = context.make_linear("ffn1", context.embed_dim, parts * ffn_dim, bias=options.bias)
        self.outer = context.make_linear("ffn2", ffn_dim, context.embed_dim, bias=options.bias)
        self.dropout = Dropout(context.activation_dropout)
        self.inner.init(parts=parts, gain=1.0)
        self.outer.init()

    def forward(self, x: Tensor, memo: ForwardPass) -> Tensor:
        x = self.inner(x)  # (bsz, length, ffn_dim), twice as wide where gated
        if self.gated:
            gate, value = x.chunk(2, dim=-1)
            x = self.activation(gate) * value
        else:
            x = self.activation(x)
        return self.outer(self.dropout(x))
