"""No feed-forward sub-layer."""

from __future__ import annotations

from torch import Tensor

from nmt.models.interfaces import FeedForward, ForwardPass, LayerContext
from nmt.registry import NoOptions, register


@register("feed_forward", "none")
class NoFeedForward(FeedForward):
    """Leaves the sub-layer out: layers drop its norm and residual with it."""

    absent = True

    def __init__(self, options: NoOptions, *, context: LayerContext) -> None:
        super().__init__()

    def forward(self, x: Tensor, memo: ForwardPass) -> Tensor:
        return x
