"""The slot for tasks: which data, which model family, which metrics."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import torch

from nmt.data.corpus import ParallelSplit
from nmt.models.encoder_decoder import SequenceModel
from nmt.parallel.ranks import Ranks
from nmt.registry import declare_slot
from nmt.tasks.options import EvaluationOptions
from nmt.text.vocabulary import VocabularyPair


@dataclass(frozen=True)
class Evaluation:
    """What an evaluation works with.

    Attributes:
        model: on the device.
        vocabularies: of the corpus.
        split: the validation set.
        options: how much of it.
        device: where the model is.
        ranks: the processes that share the work.
        shared: runs a piece of work that exchanges nothing and gives JSON, and returns what it gave in each process.
    """

    model: SequenceModel
    vocabularies: VocabularyPair
    split: ParallelSplit
    options: EvaluationOptions
    device: torch.device
    ranks: Ranks
    shared: Callable[[Callable[[], Any]], list[Any]]


class Task(ABC):
    """What is learned. Built with its options only."""

    metrics: ClassVar[Mapping[str, bool]]
    """Figures that may choose the best checkpoint, each with whether the higher is the better one; the first chooses
    where the user says nothing. ``loss`` is one of them, `evaluate` gives the others."""

    parallel: bool = True
    """Whether it learns translation from sentence pairs; else from lines of one language."""

    @abstractmethod
    def build_model(self, node: Mapping[str, Any], vocabularies: VocabularyPair) -> SequenceModel:
        """The model that the node ``model`` of a configuration describes."""

    def evaluate(self, given: Evaluation) -> dict[str, float]:
        """Figures of a validation beside those of the criterion, the same in all processes; by default none.

        Raises:
            Interrupted: one of the processes was asked to stop.
        """
        return {}


declare_slot("task", key="task", interface=Task)
