"""Random segmentations of sentencepiece models from random numbers that the caller draws.

The library samples, too, but salts every seed with a number of the process: the same seed gives other segmentations in
another process. A training that goes on would not be the same training, and its processes would not agree.
"""

from __future__ import annotations

import heapq
import math
import re
from abc import ABC, abstractmethod
from bisect import bisect
from collections.abc import Sequence
from functools import lru_cache
from itertools import accumulate
from typing import Any

from nmt.text.model_proto import BYTE, NORMAL, UNUSED, USER_DEFINED
from nmt.text.segmentation import UNK, Draw

UNKNOWN_PENALTY = 10.0
"""How far the score of an unknown character is below that of the worst piece, in the library."""

USER_DEFINED_BONUS = 0.1
"""For every character but one of a user-defined piece, where all others have negative scores."""

CACHED_WORDS = 1 << 14
WORD = re.compile("▁[^▁]*|[^▁]+")


class Pieces:
    """The pieces of a model that text is cut into.

    Attributes:
        ids: by piece.
        scores: by id; for user-defined pieces and unknown characters, what the library takes.
        user_defined: ids of pieces that are never cut.
        unused: ids of pieces that only stand in the way of others.
        longest: characters of the longest piece.
        of_words: no piece reaches into the next word, so words are cut on their own.
    """

    def __init__(self, proto: Any) -> None:
        kinds = [piece.type for piece in proto.pieces]
        text = {NORMAL, USER_DEFINED, UNUSED}
        self.ids = {piece.piece: i for i, piece in enumerate(proto.pieces) if piece.type in text}
        self.user_defined = {i for i, kind in enumerate(kinds) if kind == USER_DEFINED}
        self.unused = {i for i, kind in enumerate(kinds) if kind == UNUSED}
        self.longest = max(map(len, self.ids), default=1)
        self.of_words = not any("▁" in piece[1:] for piece in self.ids)
        self._bytes = [i for i, kind in enumerate(kinds) if kind == BYTE] if proto.trainer_spec.byte_fallback else []
        normal = [piece.score for piece in proto.pieces if piece.type == NORMAL] or [0.0]
        self.scores = [piece.score for piece in proto.pieces]
        self.scores[UNK] = min(normal) - UNKNOWN_PENALTY
        for piece, i in self.ids.items():
            if i in self.user_defined:
                self.scores[i] = USER_DEFINED_BONUS * (len(piece) - 1)

    def spell(self, piece: str, index: int) -> list[int]:
        """The ids of a piece: itself, or the bytes of an unknown character."""
        return [self._bytes[byte] for byte in piece.encode()] if index == UNK and len(self._bytes) == 256 else [index]


class RandomSegmenter(ABC):
    """Segments normalised text at random.

    Args:
        pieces: of the model.
    """

    def __init__(self, pieces: Pieces) -> None:
        self.pieces = pieces

    @abstractmethod
    def _word(self, word: str, draw: Draw) -> list[int]:
        """The ids of a word, or of a line where pieces reach over words."""

    def segment(self, text: str, draw: Draw) -> list[int]:
        """The ids of normalised text (``▁`` for a space)."""
        ids: list[int] = []
        for word in WORD.findall(text) if self.pieces.of_words else [text]:
            ids += self._word(word, draw)
        return [i for place, i in enumerate(ids) if i != UNK or ids[place - 1 : place] != [UNK]]  # a run is one


class UnigramLattice(RandomSegmenter):
    """Draws from all segmentations with probabilities of a unigram model to the power of alpha.

    Kudo 2018, arXiv:1804.10959, section 3: sums forward, draws backward.

    Args:
        pieces: of the model.
        alpha: 0 draws uniformly.
    """

    def __init__(self, pieces: Pieces, alpha: float) -> None:
        super().__init__(pieces)
        self._alpha = alpha
        self._ends = lru_cache(CACHED_WORDS)(self._lattice)

    def _word(self, word: str, draw: Draw) -> list[int]:
        ends = self._ends(word)
        cut: list[list[int]] = []
        end = len(word)
        while end:
            starts, ids, sums = ends[end]
            edge = min(bisect(sums, draw()), len(ids) - 1)
            cut.append(self.pieces.spell(word[starts[edge] : end], ids[edge]))
            end = starts[edge]
        return [i for ids in reversed(cut) for i in ids]

    def _lattice(self, word: str) -> list[tuple[list[int], list[int], list[float]]]:
        """Of every position: where the pieces that end there start, their ids, and their probabilities summed up."""
        pieces, size = self.pieces, len(word)
        edges: list[list[tuple[int, int]]] = [[] for _ in range(size + 1)]
        sums = [0.0] * (size + 1)  # log of the sum over all segmentations up to a position
        ends: list[tuple[list[int], list[int], list[float]]] = [([], [], [])]
        for start in range(size + 1):
            if start:
                logs = [sums[first] + self._alpha * pieces.scores[i] for first, i in edges[start]]
                largest = max(logs)
                weights = [math.exp(log - largest) for log in logs]
                total = math.fsum(weights)
                sums[start] = largest + math.log(total)
                shares = list(accumulate(weight / total for weight in weights))
                ends.append(([first for first, _ in edges[start]], [i for _, i in edges[start]], shares))
            for end in range(start + 1, min(start + pieces.longest, size) + 1):
                found = pieces.ids.get(word[start:end])
                if found is not None and found not in pieces.unused:
                    edges[end].append((start, found))
            if start < size and not any(first == start for first, _ in edges[start + 1]):
                edges[start + 1].append((start, UNK))
        return ends


class MergeDropout(RandomSegmenter):
    """Leaves every merge of a BPE model out with some probability (Provilkov et al. 2020, arXiv:1910.13267).

    Args:
        pieces: of the model.
        alpha: the probability.
    """

    def __init__(self, pieces: Pieces, alpha: float) -> None:
        super().__init__(pieces)
        self._alpha = alpha
        marked = sorted((p for p, i in pieces.ids.items() if i in pieces.user_defined), key=len, reverse=True)
        self._symbol = re.compile("|".join([*map(re.escape, marked), "."]), re.DOTALL)

    def _word(self, word: str, draw: Draw) -> list[int]:
        parts = self._symbol.findall(word)
        before, after = list(range(-1, len(parts) - 1)), [*range(1, len(parts)), -1]
        frozen = [self.pieces.ids.get(part) in self.pieces.user_defined for part in parts]
        halves: dict[str, tuple[str, str]] = {}  # of pieces that are there to be merged on only
        agenda: list[tuple[float, int, int, str]] = []

        def consider(left: int, right: int) -> None:
            if left < 0 or right < 0 or frozen[left] or frozen[right]:
                return
            whole = parts[left] + parts[right]
            found = self.pieces.ids.get(whole)
            if found is not None:
                heapq.heappush(agenda, (-self.pieces.scores[found], left, right, whole))
                if found in self.pieces.unused:
                    halves[whole] = parts[left], parts[right]

        for right in range(1, len(parts)):
            consider(right - 1, right)
        while agenda:
            _, left, right, whole = heapq.heappop(agenda)
            if not parts[left] or not parts[right] or parts[left] + parts[right] != whole:
                continue  # one of them was merged with another
            if draw() < self._alpha:
                continue
            parts[left], parts[right] = whole, ""
            after[left] = after[right]
            if after[left] >= 0:
                before[after[left]] = left
            consider(before[left], left)
            consider(left, after[left])
        return [i for part in parts if part for i in self._final(part, halves)]

    def _final(self, part: str, halves: dict[str, tuple[str, str]]) -> Sequence[int]:
        index = self.pieces.ids.get(part, UNK)
        if index in self.pieces.unused and part in halves:
            return [i for half in halves[part] for i in self._final(half, halves)]
        return self.pieces.spell(part, index)
