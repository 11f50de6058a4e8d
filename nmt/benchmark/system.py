"""What is measured: systems that take lines of text and give their translations."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class Search:
    """How every system searches; what is None here each checkpoint may have a default of its own for.

    Attributes:
        beam: hypotheses kept a step.
        length_penalty: exponent of the length, EOS counted.
        forced_length: tokens of every translation; None lets them end.
    """

    beam: int
    length_penalty: float | None
    forced_length: int | None

    @property
    def given(self) -> dict[str, Any]:
        """The fields of ``SearchOptions`` that are given."""
        return {name: value for name, value in asdict(self).items() if value is not None}


@dataclass(frozen=True)
class Translations:
    """Output of a system.

    Attributes:
        texts: a text a line.
        num_tokens: its tokens (EOS counted, unless a length was forced).
        num_failed: lines for which the search found nothing.
    """

    texts: list[str]
    num_tokens: int
    num_failed: int = 0


class System(ABC):
    """A loaded model. Text goes in and comes out: sub-words are part of what is timed."""

    folder: Path

    @abstractmethod
    def translate(self, lines: Sequence[str], search: Search, batch: int) -> Translations:
        """Translate lines, ``batch`` of them together."""

    def num_bytes(self) -> int:
        """Bytes on disk of all that translating needs."""
        return sum(path.stat().st_size for path in self.folder.rglob("*") if path.is_file())
