"""Exponential moving average of the weights."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn


class MovingAverage:
    """An exponential moving average of parameters, in float32.

    The decay grows with the number of updates, min(decay, (1 + n) / (10 + n)), so that early values are forgotten
    while they change fast (as in TensorFlow's ExponentialMovingAverage).

    Args:
        parameters: what is followed.
        decay: weight of the old average; 0 turns the average off.
    """

    def __init__(self, parameters: Iterable[nn.Parameter], decay: float) -> None:
        self.decay = decay
        self.parameters = [p.data for p in parameters]
        self.average: list[Tensor] = [p.clone() for p in self.parameters] if decay else []

    def update(self, num_updates: int) -> None:
        """Take in the parameters after an update, counted from 1."""
        if self.decay:
            decay = min(self.decay, (1 + num_updates) / (10 + num_updates))
            torch._foreach_lerp_(self.average, self.parameters, 1 - decay)

    @contextmanager
    def applied(self) -> Iterator[None]:
        """While inside, the parameters have the averaged values."""
        if not self.decay:
            yield
            return
        kept = [p.clone() for p in self.parameters]
        torch._foreach_copy_(self.parameters, self.average)
        try:
            yield
        finally:
            torch._foreach_copy_(self.parameters, kept)
