"""Several models as one: their probabilities are averaged."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import torch
from torch import Tensor

from nmt.generation.interface import TranslationModel


@dataclass
class EnsembleState:
    """The members' decoding states."""

    states: list[Any]

    def reorder(self, rows: Tensor) -> None:
        for state in self.states:
            state.reorder(rows)

    def select(self, sentences: Tensor) -> EnsembleState:
        return EnsembleState([state.select(sentences) for state in self.states])


class Ensemble:
    """Models of any architectures over one vocabulary; the next token's probability is the mean of theirs."""

    def __init__(self, models: Sequence[TranslationModel]) -> None:
        self.models = list(models)
        self._sums: list[Tensor] = []  # of all that each member said: nan once it has said nan

    def broken(self) -> int:
        """The first member that has given what is not a number."""
        return max(range(len(self._sums)), key=lambda place: bool(self._sums[place].isnan()))

    @property
    def max_source_length(self) -> int | None:
        """The tightest of the members' limits."""
        return smallest(m.max_source_length for m in self.models)

    @property
    def max_target_length(self) -> int | None:
        """The tightest of the members' limits."""
        return smallest(m.max_target_length for m in self.models)

    def encode(self, src_tokens: Tensor) -> list[Any]:
        return [model.encode(src_tokens) for model in self.models]

    def init_state(self, encoder_out: list[Any], *, beam: int, max_len: int) -> EnsembleState:
        each = zip(self.models, encoder_out)
        return EnsembleState([model.init_state(out, beam=beam, max_len=max_len) for model, out in each])

    def step(self, tokens: Tensor, state: EnsembleState, top: int | None = None) -> Tensor:
        # The best of the mean need not be among the best of any member: all of them are needed.
        each = [model.step(tokens, s) for model, s in zip(self.models, state.states)]
        sums = [lprobs.sum() for lprobs in each]
        self._sums = [old + new for old, new in zip(self._sums, sums)] if self._sums else sums
        return mean_of_probabilities(each)


M = TypeVar("M")


def as_list(models: M | Sequence[M]) -> list[M]:
    """One model or several, as a list."""
    return list(models) if isinstance(models, Sequence) else [models]


def model_name(place: int, number: int, names: Sequence[str]) -> str:
    """How messages call one of so many models."""
    if names:
        return names[place]
    return "the model" if number == 1 else f"model {place + 1} of {number}"


def smallest(limits: Iterable[int | None]) -> int | None:
    """The tightest of some limits; None stands for no limit."""
    return min((limit for limit in limits if limit is not None), default=None)


def mean_of_probabilities(lprobs: Sequence[Tensor]) -> Tensor:
    """Log of the mean of the probabilities whose logs are given."""
    if len(lprobs) == 1:
        return lprobs[0]
    return torch.stack(list(lprobs)).logsumexp(0) - math.log(len(lprobs))
