"""What a search returns, and what it works on."""

from __future__ import annotations

import logging
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from torch import Tensor

from nmt.generation.options import SearchOptions
from nmt.text.vocabulary import EOS, UNK

log = logging.getLogger(__name__)

NAMED_LINES = 5
"""Of those that a warning counts."""


@dataclass(frozen=True)
class Hypothesis:
    """One translation of one sentence.

    Attributes:
        ids: target ids without BOS and EOS.
        score: what n-best lists are sorted by (``make_hypothesis``).
        logprob: log-probability of the whole, EOS counted (natural log).
        token_lprobs: log-probability of each token; the last is EOS's, where the hypothesis ends with one.
    """

    ids: list[int]
    score: float
    logprob: float
    token_lprobs: list[float]

    @property
    def failed(self) -> bool:
        """Whether this is ``FAILED``: no translation."""
        return not self.token_lprobs and self.score == -math.inf


EMPTY = Hypothesis([], 0.0, 0.0, [])
"""The translation of a line without tokens."""

FAILED = Hypothesis([], -math.inf, -math.inf, [])
"""Stands for the translation of a line where the rules of the search left nothing."""


def make_hypothesis(tokens: Sequence[int], lprobs: Sequence[float], options: SearchOptions) -> Hypothesis:
    """A hypothesis with its score: (log-probability - unk_penalty x unknown words) / ``options.norm(length)``.

    Args:
        tokens: ids, with EOS where it ends with one; the length counts it.
        lprobs: log-probability of each.
        options: of the search.
    """
    logprob = sum(lprobs)
    score = (logprob - options.unk_penalty * tokens.count(UNK)) / options.norm(float(len(tokens)))
    return Hypothesis([token for token in tokens if token != EOS], score, logprob, list(lprobs))


@dataclass
class SearchBatch:
    """Sentences that are searched together.

    Attributes:
        src_tokens: ids and EOS (bsz, src_len), padded on the right.
        limits: most target tokens of each sentence, without EOS.
        prefixes: target ids that each sentence starts with.
        keys: the sentences' places in the input; sampling depends on them and on nothing else of the batch.
        may_repeat: ids; an n-gram that holds one of them may occur again.
    """

    src_tokens: Tensor
    limits: list[int]
    prefixes: list[Sequence[int]] = field(default_factory=list)
    keys: list[int] = field(default_factory=list)
    may_repeat: Sequence[int] = ()

    def __len__(self) -> int:
        return len(self.limits)


def perplexity(logprob: float, num_tokens: int) -> float:
    """The exponential of the mean negative log-probability of a token; infinite beyond the range of a float."""
    try:
        return math.exp(-logprob / num_tokens)
    except OverflowError:
        return math.inf


@dataclass
class FailedLines:
    """Lines without translation: how many, and the places of the first ones, from 0."""

    number: int = 0
    first: list[int] = field(default_factory=list)

    @classmethod
    def of(cls, failed: Iterable[bool]) -> FailedLines:
        """Those of a whole input, line by line."""
        found = cls()
        for key, this in enumerate(failed):
            if this:
                found.add(key)
        return found

    def add(self, key: int) -> None:
        """One more line."""
        self.number += 1
        if len(self.first) < NAMED_LINES:
            self.first.append(key)

    def warn(self, num_lines: int) -> None:
        """Warn once, if there are any among so many lines."""
        if self.number:
            named = ", ".join(str(key + 1) for key in self.first)
            more = ", ..." if self.number > len(self.first) else ""
            log.warning(
                "%d of %d lines have no translation: the rules of the search left nothing (line %s%s)",
                *(self.number, num_lines, named, more),
            )
