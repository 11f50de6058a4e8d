"""Language modelling: each word of a sentence from the words before it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

from nmt.models.language_model import LanguageModel, build_language_model
from nmt.registry import NoOptions, register
from nmt.tasks.interfaces import Task
from nmt.text.vocabulary import VocabularyPair


@register("task", "language_modeling")
class LanguageModeling(Task):
    """Lines of one language, a decoder without an encoder, and perplexity."""

    metrics: ClassVar = {"loss": False}
    parallel = False

    def __init__(self, options: NoOptions) -> None:
        pass

    def build_model(self, node: Mapping[str, Any], vocabularies: VocabularyPair) -> LanguageModel:
        return build_language_model(node, vocab_size=len(vocabularies.target))
