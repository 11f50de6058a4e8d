"""Translation of sentences."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from nmt.models.encoder_decoder import EncoderDecoder, build_model
from nmt.registry import NoOptions, register
from nmt.tasks.interfaces import Task
from nmt.text.vocabulary import VocabularyPair


@register("task", "translation")
class Translation(Task):
    """Sentence pairs, an encoder-decoder, and BLEU or chrF of beam output."""

    metrics = ("bleu", "chrf", "loss")

    def __init__(self, options: NoOptions) -> None:
        pass

    def build_model(self, node: Mapping[str, Any], vocabularies: VocabularyPair) -> EncoderDecoder:
        return build_model(
            node,
            source_size=len(vocabularies.source),
            target_size=len(vocabularies.target),
            joint=vocabularies.joint,
        )
