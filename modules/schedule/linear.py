"""Linear warm-up, then linear decay."""

from __future__ import annotations

from dataclasses import dataclass

from nmt.config import ConfigError, option
from nmt.limits import MAX_COUNT
from nmt.registry import register
from nmt.training.interfaces import Schedule


@dataclass
class LinearOptions:
    """Options of ``linear`` (schedule)."""

    warmup_updates: int = option(1000, "updates until the peak", minimum=0, maximum=MAX_COUNT)
    final_factor: float = option(0.0, "share of the peak that is left at the end", minimum=0, maximum=1)


@register("schedule", "linear", options=LinearOptions)
class Linear(Schedule):
    """Linear warm-up to the peak, then a straight line down to the final factor."""

    uses_total = True

    def __init__(self, options: LinearOptions, *, total_updates: int | None) -> None:
        if total_updates is None:
            raise ConfigError("schedule: this schedule needs an end: give train.max_updates or train.max_epochs")
        self.warmup = max(1, options.warmup_updates)
        self.total = total_updates
        self.final = options.final_factor

    def factor(self, update: int) -> float:
        if update < self.warmup:
            return update / self.warmup
        progress = min(1.0, (update - self.warmup) / max(1, self.total - self.warmup))
        return self.final + (1 - self.final) * self.shape(progress)

    def shape(self, progress: float) -> float:
        """From 1 at progress 0 to 0 at progress 1."""
        return 1 - progress
