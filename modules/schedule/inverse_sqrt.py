"""Linear warm-up, then decay with the inverse square root (Vaswani et al. 2017, arXiv:1706.03762, eq. 3)."""

from __future__ import annotations

from dataclasses import dataclass

from nmt.config import option
from nmt.limits import MAX_COUNT
from nmt.registry import register
from nmt.training.interfaces import Schedule


@dataclass
class InverseSqrtOptions:
    """Options of ``inverse_sqrt`` (schedule)."""

    warmup_updates: int = option(4000, "updates until the peak", minimum=0, maximum=MAX_COUNT)


@register("schedule", "inverse_sqrt", options=InverseSqrtOptions, paper="Vaswani et al. 2017, arXiv:1706.03762")
class InverseSqrt(Schedule):
    """Linear warm-up to the peak, then proportional to 1 / sqrt(update)."""

    def __init__(self, options: InverseSqrtOptions, *, total_updates: int | None) -> None:
        self.warmup = max(1, options.warmup_updates)

    def factor(self, update: int) -> float:
        return min(update / self.warmup, (self.warmup / update) ** 0.5)
