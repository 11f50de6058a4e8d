"""The Transformer layer, pre- or post-norm.

Post-norm is the original (Vaswani et al. 2017, arXiv:1706.03762); pre-norm trains deep stacks (Wang et al. 2019,
arXiv:1906.01787; Xiong et al. 2020, arXiv:2002.04745).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum
from typing import Any

from torch import Tensor, nn

from nmt.config import option
from nmt.models.dropout import Dropout
from nmt.models.interfaces import EncoderOut, FeedForward, ForwardPass, Layer, LayerContext, Part
from nmt.models.masks import SelfMask
from nmt.models.state import State, Step
from nmt.registry import register


class NormPosition(Enum):
    """Where the norm of a sub-layer stands."""

    pre = "pre"
    post = "post"


@dataclass
class TransformerLayerOptions:
    """Options of ``transformer`` (layer)."""

    norm_position: NormPosition = option(
        NormPosition.pre, "pre: x + f(norm(x)), the stack ends with a norm; post: norm(x + f(x))"
    )


class SubLayer(nn.Module):
    """Norm, dropout and residual around a part of a layer."""

    def __init__(self, part: Part, norm_position: NormPosition, context: LayerContext) -> None:
        super().__init__()
        self.pre = norm_position is NormPosition.pre
        raw = self.pre and part.takes_raw
        self.norm = nn.Identity() if raw else context.make_norm(context.embed_dim)
        self.dropout = Dropout(context.dropout)

    def forward(self, x: Tensor, function: Callable[[Tensor], Tensor]) -> Tensor:
        """(bsz, length, embed_dim) to the same shape."""
        if self.pre:
            return x + self.dropout(function(self.norm(x)))
        return self.norm(x + self.dropout(function(x)))


@register("layer", "transformer", options=TransformerLayerOptions, paper="Vaswani et al. 2017, arXiv:1706.03762")
class TransformerLayer(Layer):
    """Self-attention, cross-attention (in decoders) and feed-forward, each with norm and residual."""

    def __init__(
        self, options: TransformerLayerOptions, *, context: LayerContext, make_part: Callable[[str], Any]
    ) -> None:
        super().__init__()
        self.normalised = options.norm_position is NormPosition.post

        def around(part: Part) -> SubLayer:
            return SubLayer(part, options.norm_position, context)

        self.self_attention = make_part("self_attention")
        self.around_self = around(self.self_attention)
        self.cross_attention = None if context.memory_dim is None else make_part("cross_attention")
        self.around_cross = None if self.cross_attention is None else around(self.cross_attention)
        feed_forward: FeedForward = make_part("feed_forward")
        self.feed_forward = None if feed_forward.absent else feed_forward
        self.around_feed_forward = None if self.feed_forward is None else around(self.feed_forward)
        parts = (self.self_attention, self.cross_attention, self.feed_forward)
        self.follows = any(part is not None and part.follows for part in parts)

    def forward(self, x: Tensor, mask: SelfMask, memo: ForwardPass, encoder_out: EncoderOut | None = None) -> Tensor:
        x = self.around_self(x, lambda y: self.self_attention(y, mask, memo))
        if self.cross_attention is not None and self.around_cross is not None:
            attention = self.cross_attention
            x = self.around_cross(x, lambda y: attention(y, encoder_out, memo))
        return self._transform(x, memo)

    def _transform(self, x: Tensor, memo: ForwardPass) -> Tensor:
        if self.feed_forward is None or self.around_feed_forward is None:
            return x
        feed_forward = self.feed_forward
        return self.around_feed_forward(x, lambda y: feed_forward(y, memo))

    def init_state(self, rows: int, max_len: int, like: Tensor) -> State:
        return self.self_attention.init_state(rows, max_len, like)

    def init_memory(self, encoder_out: EncoderOut | None) -> State:
        return {} if self.cross_attention is None else self.cross_attention.init_memory(encoder_out)

    def step(self, x: Tensor, cache: State, memory: State, step: Step, memo: ForwardPass) -> Tensor:
        x = self.around_self(x, lambda y: self.self_attention.step(y, cache, step, memo))
        if self.cross_attention is not None and self.around_cross is not None:
            attention = self.cross_attention
            x = self.around_cross(x, lambda y: attention.step(y, memory, step, memo))
        return self._transform(x, memo)
