"""Validation: figures of the criterion. Several processes share the work, and all get the same figures."""

from __future__ import annotations

import math

import torch

from nmt.data.corpus import ParallelSplit
from nmt.data.iteration import evaluation_batches
from nmt.data.options import BatchOptions
from nmt.models.encoder_decoder import SequenceModel
from nmt.models.mode import evaluating
from nmt.parallel.ranks import Ranks, sum_by_name
from nmt.training.interfaces import Criterion
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
