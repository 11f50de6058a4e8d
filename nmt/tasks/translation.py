"""Translation of sentences."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any, ClassVar

from nmt.generation.hypothesis import FailedLines
from nmt.generation.options import SearchOptions
from nmt.generation.translate import GenerationBatchOptions, translate_ids
from nmt.models.encoder_decoder import EncoderDecoder, build_model
from nmt.models.mode import evaluating
from nmt.parallel.ranks import interleaved
from nmt.registry import NoOptions, register
from nmt.tasks.interfaces import Evaluation, Task
from nmt.text.vocabulary import VocabularyPair


@register("task", "translation")
class Translation(Task):
    """Sentence pairs, an encoder-decoder, and BLEU or chrF of beam output."""

    metrics: ClassVar = {"bleu": True, "chrf": True, "loss": False}

    def __init__(self, options: NoOptions) -> None:
        pass

    def build_model(self, node: Mapping[str, Any], vocabularies: VocabularyPair) -> EncoderDecoder:
        return build_model(
            node,
            source_size=len(vocabularies.source),
            target_size=len(vocabularies.target),
            joint=vocabularies.joint,
        )

    def evaluate(self, given: Evaluation) -> dict[str, float]:
        """BLEU and chrF of beam output, and how long translating took."""
        from nmt.metrics.scoring import bleu, chrf

        split, ranks = given.split, given.ranks
        size = min(len(split), given.options.max_sentences or len(split))
        started = time.monotonic()

        def translate() -> list[tuple[str, bool]]:
            hypotheses = translate_ids(
                given.model,
                [split.source_ids(i).tolist() for i in range(ranks.rank, size, ranks.world)],
                SearchOptions(beam=given.options.beam),
                batch=GenerationBatchOptions(max_tokens=given.options.max_tokens),
                device=given.device,
            )
            return [(given.vocabularies.target.decode(best[0].ids), best[0].failed) for best in hypotheses]

        with evaluating(given.model):
            pairs = interleaved(given.shared(translate))
        lines = [text for text, _ in pairs]
        figures = {}
        if ranks.first:
            FailedLines.of(failed for _, failed in pairs).warn(size)
            references = [split.target_text(i) for i in range(size)]
            figures = {"bleu": bleu(lines, references).score, "chrf": chrf(lines, references).score}
        return {**ranks.broadcast(figures), "translate_seconds": time.monotonic() - started}
