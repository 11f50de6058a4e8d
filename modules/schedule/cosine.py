"""Linear warm-up, then half a cosine (Loshchilov and Hutter 2017, arXiv:1608.03983)."""

from __future__ import annotations

import math
from dataclasses import dataclass

from nmt.registry import register

from .linear import Linear, LinearOptions


@dataclass
class CosineOptions(LinearOptions):
    """Options of ``cosine`` (schedule)."""


@register("schedule", "cosine", options=CosineOptions, paper="Loshchilov and Hutter 2017, arXiv:1608.03983")
class Cosine(Linear):
    """Linear warm-up to the peak, then half a cosine down to the final factor."""

    def shape(self, progress: float) -> float:
        return 0.5 * (1 + math.cos(math.pi * progress))
