"""The choice between the ways to share a training."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import nn

from nmt.models.encoder_decoder import SequenceModel
from nmt.parallel.options import Parallel
from nmt.parallel.ranks import Ranks
from nmt.parallel.replicas import Replicas


def distribute(
    parallel: Parallel,
    model: SequenceModel,
    ranks: Ranks,
    device: torch.device,
    beside: Sequence[nn.Parameter] = (),
) -> Replicas:
    """Give every process its part in the training of a model.

    Args:
        parallel: how; one process alone has the whole model either way.
        model: on the CPU, the same in every process.
        ranks: the processes.
        device: of this process.
        beside: parameters that are trained with the model and are not its own, on the device.

    Raises:
        ConfigError: the model cannot be trained in that way.
    """
    if parallel is Parallel.replicate or ranks.world == 1:
        return Replicas(model, ranks, device, beside)
    if parallel is Parallel.experts:
        from nmt.parallel.experts import DealtExperts

        return DealtExperts(model, ranks, device, beside)
    from nmt.parallel.shards import Shards  # importing FSDP takes half as long as importing torch

    return Shards(model, ranks, device, beside)
