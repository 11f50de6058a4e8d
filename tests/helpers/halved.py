"""A plug-in: a linear map that keeps half of its matrix, and one that keeps it as two factors."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from nmt.config import option
from nmt.models.linear import LinearMap
from nmt.registry import NoOptions, register


@register("linear", "halved")
class Halved(LinearMap):
    """W is twice what is trained."""

    def __init__(self, options: NoOptions, *, in_features: int, out_features: int, bias: bool) -> None:
        super().__init__()
        self.in_features, self.out_features = in_features, out_features
        self.kept = nn.Parameter(torch.empty(out_features, in_features))
        self.bias = nn.Parameter(torch.zeros(out_features)) if bias else None

    def matrix(self) -> Tensor:
        return 2 * self.kept

    def init(self, parts: int | Sequence[int] = 1, gain: float | None = None) -> None:
        nn.init.normal_(self.kept, std=0.1)


@dataclass
class FactoredOptions:
    """Options of ``factored`` (linear)."""

    rank: int = option(4, "columns of the factors", minimum=1, maximum=64)


@register("linear", "factored", options=FactoredOptions)
class Factored(LinearMap):
    """W is a product of two factors."""

    def __init__(self, options: FactoredOptions, *, in_features: int, out_features: int, bias: bool) -> None:
        super().__init__()
        self.in_features, self.out_features = in_features, out_features
        self.up = nn.Parameter(torch.empty(out_features, options.rank))
        self.down = nn.Parameter(torch.empty(options.rank, in_features))
        self.bias = nn.Parameter(torch.zeros(out_features)) if bias else None

    def matrix(self) -> Tensor:
        return self.up @ self.down

    def init(self, parts: int | Sequence[int] = 1, gain: float | None = None) -> None:
        nn.init.normal_(self.up, std=0.2)
        nn.init.normal_(self.down, std=0.2)
