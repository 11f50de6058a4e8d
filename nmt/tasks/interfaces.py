"""The slot for tasks: which data, which model family, which metric."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Any

from nmt.models.encoder_decoder import SequenceModel
from nmt.registry import declare_slot
from nmt.text.vocabulary import VocabularyPair


class Task(ABC):
    """What is learned. Built with its options only."""

    metrics: tuple[str, ...]
    """Figures that a validation can give and that may choose the best checkpoint (the first one does where the user
    says nothing); ``loss`` is one of them."""

    parallel: bool = True
    """Whether it learns translation from sentence pairs; else from lines of one language."""

    @abstractmethod
    def build_model(self, node: Mapping[str, Any], vocabularies: VocabularyPair) -> SequenceModel:
        """The model that the node ``model`` of a configuration describes."""


declare_slot("task", key="task", interface=Task)
