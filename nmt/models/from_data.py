"""What of a model is computed from its training data."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Mapping
from pathlib import Path

from torch import Tensor, nn

from nmt.config import DataError


class FromData(nn.Module, ABC):
    """A part with persistent buffers that a training computes from its data before the first update, and then keeps.

    They count as weights: checkpoints keep them, and a training that begins with the weights of a checkpoint takes them
    from there, whatever its own data would give. Other parameters mean something only beside them.

    Attributes:
        sides: whose tokens are counted for it: ``source``, ``target`` or both.
    """

    sides: Collection[str]

    @abstractmethod
    def use(self, counts: Tensor) -> None:
        """Compute the buffers.

        Args:
            counts: how often every id occurs in the training data on ``sides`` together, int64 (vocab_size,).
        """

    @abstractmethod
    def why_not(self, buffers: Mapping[str, Tensor]) -> str | None:
        """What is wrong with buffers of the right shapes, of which nothing else is known; None if nothing.

        Args:
            buffers: by their names in this part.

        Returns:
            A clause that begins with the name of a buffer.
        """


def use_data(model: nn.Module, counts: Callable[[str], Tensor], known: Collection[str] = ()) -> None:
    """Compute what a new model takes from its training data.

    Args:
        model: changed in place.
        counts: how often every id occurs on a side, int64 (vocab_size,).
        known: names of parameters and buffers that came from a checkpoint; parts that have theirs stay as they are.
    """
    for _, part, names in _parts(model):
        if not set(names.values()) <= set(known):
            sides = [counts(side) for side in sorted(part.sides)]
            part.use(sum(sides[1:], start=sides[0]))


def check_from_data(model: nn.Module, tensors: Mapping[str, Tensor], path: Path) -> None:
    """Look at such buffers in a file whose names and shapes fit the model: components trust their values.

    Raises:
        DataError: a part refuses them.
    """
    for place, part, names in _parts(model):
        reason = part.why_not({own: tensors[name] for own, name in names.items()})
        if reason is not None:
            raise DataError(f"{path}: {place}.{reason}")


def _parts(model: nn.Module) -> list[tuple[str, FromData, dict[str, str]]]:
    """The parts: the place of each, itself, and the names of its buffers as it calls them and as the model does."""
    return [
        (place, part, {own: f"{place}.{own}" for own, _ in part.named_buffers(recurse=False)})
        for place, part in model.named_modules()
        if isinstance(part, FromData)
    ]
