"""Networks side by side, each with inputs of its own, in one process or dealt to several."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import TypeAlias

from torch import Tensor, nn

Transform: TypeAlias = Callable[[Tensor, Tensor], Tensor]


class Experts(nn.Module, ABC):
    """Experts of a mixture; the first dimension of every parameter is the expert.

    Training with ``train.parallel=experts`` leaves each process some of them: parameters then hold those alone.

    Attributes:
        exchange: given ``transform`` and the inputs of ``forward``, sends every row to the process that has its expert,
            has it transformed there, and brings it back; None where this process has all experts.
    """

    exchange: Callable[[Transform, Tensor, Tensor], Tensor] | None = None

    def forward(self, x: Tensor, counts: Tensor) -> Tensor:
        """Transform rows that are sorted by expert.

        Args:
            x: (num_rows, embed_dim).
            counts: int64 (num_experts,), rows of each expert; they sum to num_rows.

        Returns:
            (num_rows, embed_dim).
        """
        return self.transform(x, counts) if self.exchange is None else self.exchange(self.transform, x, counts)

    @abstractmethod
    def transform(self, x: Tensor, counts: Tensor) -> Tensor:
        """The same by the experts that are here; ``counts`` are of these."""
