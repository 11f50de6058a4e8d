"""Validation: loss of the references, and BLEU and chrF of real beam output.

Several processes share the work, and all get the same figures.
"""

from __future__ import annotations

import math
import time

import torch

from nmt.data.corpus import ParallelSplit
from nmt.data.iteration import evaluation_batches
from nmt.data.options import BatchOptions
from nmt.generation.hypothesis import FailedLines
from nmt.generation.options import SearchOptions
from nmt.generation.translate import GenerationBatchOptions, translate_ids
from nmt.models.encoder_decoder import SequenceModel
from nmt.models.mode import evaluating
from nmt.parallel.ranks import Ranks, interleaved, sum_by_name
from nmt.text.vocabulary import VocabularyPair
from nmt.training.interfaces import Criterion
from nmt.training.options import ValidateOptions
from nmt.training.run.signals import StopSignals


@torch.inference_mode()
def validation_loss(
    model: SequenceModel,
    criterion: Criterion,
    split: ParallelSplit,
    max_tokens: int,
    device: torch.device,
    ranks: Ranks,
    signals: StopSignals,
) -> dict[str, float]:
    """Figures of the criterion per target token, and the perplexity, over a whole split.

    Raises:
        Interrupted: see ``StopSignals.shared``.
    """

    def sums() -> dict[str, float]:
        own: dict[str, float] = {"num_tokens": 0}
        for pairs in evaluation_batches(split, BatchOptions(max_tokens, None, None, 0), ranks.rank, ranks.world):
            batch = pairs.to(device)
            for name, value in criterion(model, batch).sums.items():
                own[name] = own.get(name, 0.0) + float(value)
            own["num_tokens"] += batch.num_tokens
        return own

    with evaluating(model, criterion):
        totals = sum_by_name(signals.shared(ranks, sums))
    num_tokens = totals.pop("num_tokens")
    figures = {name: value / num_tokens for name, value in totals.items()}
    figures["ppl"] = math.exp(min(figures["nll"], 100.0))
    return figures


def validation_quality(
    model: SequenceModel,
    vocabularies: VocabularyPair,
    split: ParallelSplit,
    options: ValidateOptions,
    device: torch.device,
    ranks: Ranks,
    signals: StopSignals,
) -> dict[str, float]:
    """BLEU and chrF of the translations of a split.

    Raises:
        Interrupted: see ``StopSignals.shared``.
    """
    from nmt.metrics.scoring import bleu, chrf

    size = min(len(split), options.max_sentences or len(split))
    started = time.monotonic()

    def translate() -> list[tuple[str, bool]]:
        hypotheses = translate_ids(
            model,
            [split.source_ids(i).tolist() for i in range(ranks.rank, size, ranks.world)],
            SearchOptions(beam=options.beam),
            batch=GenerationBatchOptions(max_tokens=options.max_tokens),
            device=device,
        )
        return [(vocabularies.target.decode(best[0].ids), best[0].failed) for best in hypotheses]

    with evaluating(model):
        pairs = interleaved(signals.shared(ranks, translate))
    lines = [text for text, _ in pairs]
    figures = {}
    if ranks.first:
        FailedLines.of(failed for _, failed in pairs).warn(size)
        references = [split.target_text(i) for i in range(size)]
        figures = {"bleu": bleu(lines, references).score, "chrf": chrf(lines, references).score}
    return {**ranks.broadcast(figures), "translate_seconds": time.monotonic() - started}
