"""Validation: loss of the references, and BLEU and chrF of real beam output.

Several processes share the work, and all get the same figures.
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterable, Mapping

import torch

from nmt.data.corpus import ParallelSplit
from nmt.data.iteration import evaluation_batches
from nmt.data.options import BatchOptions
from nmt.generation.options import SearchOptions
from nmt.generation.translate import GenerationBatchOptions, translate_ids
from nmt.models.encoder_decoder import EncoderDecoder
from nmt.ranks import Ranks
from nmt.text.vocabulary import VocabularyPair
from nmt.training.interfaces import Criterion
from nmt.training.options import ValidateOptions


@torch.inference_mode()
def validation_loss(
    model: EncoderDecoder,
    criterion: Criterion,
    split: ParallelSplit,
    max_tokens: int,
    device: torch.device,
    ranks: Ranks,
) -> dict[str, float]:
    """Figures of the criterion per target token, and the perplexity, over a whole split."""
    was_training = model.training
    model.eval()
    criterion.eval()
    own: dict[str, float] = {"num_tokens": 0}
    for pairs in evaluation_batches(split, BatchOptions(max_tokens, None, None, 0), ranks.rank, ranks.world):
        batch = pairs.to(device)
        for name, value in criterion(model, batch).sums.items():
            own[name] = own.get(name, 0.0) + float(value)
        own["num_tokens"] += batch.num_tokens
    model.train(was_training)
    criterion.train(was_training)
    totals = sum_by_name(ranks.all_gather(own))
    num_tokens = totals.pop("num_tokens")
    figures = {name: value / num_tokens for name, value in totals.items()}
    figures["ppl"] = math.exp(min(figures["nll"], 100.0))
    return figures


def sum_by_name(parts: Iterable[Mapping[str, float]]) -> dict[str, float]:
    """Sums of the figures of several processes, of which some may lack a name."""
    totals: dict[str, float] = {}
    for part in parts:
        for name, value in part.items():
            totals[name] = totals.get(name, 0.0) + value
    return totals


def validation_quality(
    model: EncoderDecoder,
    vocabularies: VocabularyPair,
    split: ParallelSplit,
    options: ValidateOptions,
    device: torch.device,
    ranks: Ranks,
) -> dict[str, float]:
    """BLEU and chrF of the translations of a split."""
    from nmt.text.scoring import bleu, chrf

    size = min(len(split), options.max_sentences or len(split))
    started = time.monotonic()
    hypotheses = translate_ids(
        model,
        [split.source_ids(i).tolist() for i in range(ranks.rank, size, ranks.world)],
        SearchOptions(beam=options.beam),
        batch=GenerationBatchOptions(max_tokens=options.max_tokens),
        device=device,
    )
    lines = ranks.merge([vocabularies.target.decode(best[0].ids) for best in hypotheses])
    figures = {}
    if ranks.first:
        references = [split.target_text(i) for i in range(size)]
        figures = {"bleu": bleu(lines, references).score, "chrf": chrf(lines, references).score}
    return {**ranks.broadcast(figures), "translate_seconds": time.monotonic() - started}
