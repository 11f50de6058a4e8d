"""Figures of the updates since the last line of the log."""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from torch import Tensor

if TYPE_CHECKING:
    from nmt.training.update import UpdateResult


@dataclass
class Window:
    """Figures since the last line of the log."""

    sums: dict[str, float | Tensor] = field(default_factory=dict)
    figures: dict[str, float | Tensor] = field(default_factory=dict)
    num_tokens: int = 0
    num_padded: int = 0
    num_updates: int = 0
    grad_norm: float = 0.0
    seconds: float = 0.0

    def add(self, result: UpdateResult, seconds: float) -> None:
        """Take in an update and the time it took."""
        for name, value in result.sums.items():
            self.sums[name] = self.sums[name] + value if name in self.sums else value
        self.figures.update(result.figures)
        self.num_tokens += result.num_tokens
        self.num_padded += result.num_padded
        self.num_updates += 1
        self.grad_norm = result.grad_norm
        self.seconds += seconds

    def stored(self) -> Window:
        """The same in plain numbers; as a float a tensor's value stays exact."""
        parts = {"sums": self.sums, "figures": self.figures}
        plain: Any = {part: {key: float(value) for key, value in of.items()} for part, of in parts.items()}
        return dataclasses.replace(self, **plain)

    def summary(self) -> dict[str, float]:
        """Means per target token, and rates; the only place where training reads tensors back."""
        values = {name: float(total) / self.num_tokens for name, total in self.sums.items()}
        values["ppl"] = math.exp(min(values["nll"], 100.0))
        values.update({name: float(value) for name, value in self.figures.items()})
        seconds = max(1e-9, self.seconds)
        values.update(
            grad_norm=self.grad_norm,
            tokens=self.num_tokens,
            tokens_per_second=self.num_tokens / seconds,
            updates_per_second=self.num_updates / seconds,
            target_padding=1 - self.num_tokens / max(1, self.num_padded),
        )
        return values
