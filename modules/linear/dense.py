"""The plain linear map."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn

from nmt.models.initialisation import init_projection
from nmt.models.linear import LinearMap
from nmt.registry import NoOptions, register


@register("linear", "dense")
class DenseLinear(nn.Linear, LinearMap):  # type: ignore[misc]  # torch says that there always is a bias
    """A matrix in full, and a bias."""

    def __init__(self, options: NoOptions, *, in_features: int, out_features: int, bias: bool) -> None:
        super().__init__(in_features, out_features, bias=bias)

    def matrix(self) -> Tensor:
        return self.weight

    def init(self, parts: int | Sequence[int] = 1, gain: float | None = None) -> None:
        init_projection(self, parts=parts, gain=gain)

    def tie(self, weight: nn.Parameter) -> None:
        self.weight = weight
