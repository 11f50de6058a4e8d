"""What a search returns, and what it works on."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from torch import Tensor


@dataclass(frozen=True)
class Hypothesis:
    """One translation of one sentence.

    Attributes:
        ids: target ids without BOS and EOS.
        score: ``logprob / length ** length_penalty``; what n-best lists are sorted by.
        logprob: log-probability of the whole, EOS counted (natural log).
        token_lprobs: log-probability of each token; the last is EOS's, where the hypothesis ends with one.
    """

    ids: list[int]
    score: float
    logprob: float
    token_lprobs: list[float]


EMPTY = Hypothesis([], 0.0, 0.0, [])
"""The translation of a line without tokens."""


@dataclass
class SearchBatch:
    """Sentences that are searched together.

    Attributes:
        src_tokens: ids and EOS (bsz, src_len), padded on the right.
        limits: most target tokens of each sentence, without EOS.
        prefixes: target ids that each sentence starts with.
        keys: the sentences' places in the input; sampling depends on them and on nothing else of the batch.
    """

    src_tokens: Tensor
    limits: list[int]
    prefixes: list[Sequence[int]] = field(default_factory=list)
    keys: list[int] = field(default_factory=list)

    def __len__(self) -> int:
        return len(self.limits)


def normalised(logprob: float, length: int, length_penalty: float) -> float:
    """Score of a hypothesis; ``length`` counts EOS."""
    return logprob / length**length_penalty
