"""Figures of the updates since the last line of the log."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor

from nmt.parallel.ranks import Ranks, sum_by_name


@dataclass
class UpdateResult:
    """Figures of one update; tensors stay on the device until they are logged.

    Attributes:
        sums: figures summed over the target tokens of this process.
        figures: other scalars of this process.
        num_tokens: target tokens of all processes.
        num_padded: the same of this process, with padding.
        grad_norm: of the whole gradient, before clipping.
        skipped: the gradient was not finite and changed nothing.
        stop: a process had been asked to stop before the update.
    """

    sums: dict[str, Tensor]
    figures: dict[str, Tensor]
    num_tokens: int
    num_padded: int
    grad_norm: float
    skipped: bool
    stop: bool


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
        self.num_tokens += result.num_tokens  # of all processes; the other sums are this process's
        self.num_padded += result.num_padded
        self.num_updates += 1
        self.grad_norm = result.grad_norm
        self.seconds += seconds

    def stored(self) -> Window:
        """The same in plain numbers; as a float a tensor's value stays exact."""
        parts = {"sums": self.sums, "figures": self.figures}
        plain: Any = {part: {key: float(value) for key, value in of.items()} for part, of in parts.items()}
        return dataclasses.replace(self, **plain)

    def summary(self, ranks: Ranks) -> dict[str, float]:
        """Means per target token, and rates; the only place where training reads tensors back.

        Every process must ask at once. Figures that are no sums are means over the processes that have them.
        """
        plain = self.stored()
        parts = ranks.all_gather([plain.sums, plain.figures, plain.num_padded])
        values = {name: total / self.num_tokens for name, total in sum_by_name(part[0] for part in parts).items()}
        values["ppl"] = math.exp(min(values["nll"], 100.0))
        values.update(_means([part[1] for part in parts]))
        num_padded = sum(part[2] for part in parts)
        seconds = max(1e-9, self.seconds)
        values.update(
            grad_norm=self.grad_norm,
            tokens=self.num_tokens,
            tokens_per_second=self.num_tokens / seconds,
            updates_per_second=self.num_updates / seconds,
            target_padding=1 - self.num_tokens / max(1, num_padded),
        )
        return values


def gathered(window: Window, ranks: Ranks) -> list[Window]:
    """The windows of all processes, by rank, in plain numbers; the same on all."""
    return [Window(**fields) for fields in ranks.all_gather(dataclasses.asdict(window.stored()))]


def dealt(windows: Sequence[Window], ranks: Ranks) -> Window:
    """The window of this process of those that were `gathered`, perhaps by another number of processes."""
    if not windows:
        return Window()
    if len(windows) == ranks.world:
        return windows[ranks.rank]
    if not ranks.first:
        return dataclasses.replace(windows[0], sums={}, figures={}, num_padded=0)
    sums: Any = sum_by_name(window.sums for window in windows)  # type: ignore[misc]
    figures: Any = _means([window.figures for window in windows])
    return dataclasses.replace(windows[0], sums=sums, figures=figures, num_padded=sum(w.num_padded for w in windows))


def _means(parts: Sequence[Mapping[str, Any]]) -> dict[str, float]:
    """Means of figures over those that have them."""
    having = sum_by_name(dict.fromkeys(part, 1.0) for part in parts)
    return {name: total / having[name] for name, total in sum_by_name(parts).items()}
