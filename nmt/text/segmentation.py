"""What every kind of sub-word model does: cut text into pieces, which have ids, and join them."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Sequence
from typing import ClassVar

PAD, BOS, EOS, UNK = 0, 1, 2, 3
"""Special ids, the same in every vocabulary."""

SPECIAL_IDS = {"pad": PAD, "bos": BOS, "eos": EOS, "unk": UNK}

Draw = Callable[[], float]
"""Gives random numbers in [0, 1)."""


class Segmentation(ABC):
    """One sub-word model; `nmt.text.vocabulary.Vocabulary` keeps its file. The special ids come first.

    Attributes:
        kind: its name.
        files: names of its file: of a joint one, of the source's and of the target's.
    """

    kind: ClassVar[str]
    files: ClassVar[tuple[str, str, str]]

    @abstractmethod
    def __len__(self) -> int:
        """Number of pieces, special ones included."""

    @abstractmethod
    def encode_batch(self, lines: Sequence[str]) -> list[list[int]]:
        """Ids of several lines, in order, without bos and eos; no text gives them, nor pad.

        Raises:
            DataError: a line holds half of a surrogate pair, and the model needs text.
        """

    @abstractmethod
    def sample(self, line: str, *, alpha: float, nbest: int, draw: Draw) -> list[int]:
        """One random segmentation, a function of the numbers that are drawn.

        Raises:
            DataError: the model has none.
        """

    @abstractmethod
    def decode(self, ids: Sequence[int]) -> str:
        """Text of some ids below the length; pad, bos and eos leave no trace."""

    @abstractmethod
    def pieces(self, line: str) -> list[str]:
        """Pieces of a line as the model writes them."""

    @abstractmethod
    def join(self, pieces: Iterable[str]) -> str:
        """Text of some pieces."""

    @abstractmethod
    def piece(self, index: int) -> str:
        """The piece of one id."""
