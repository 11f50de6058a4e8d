"""A plug-in: a criterion with a projection of its own, a buffer, and two models that it only uses."""

from __future__ import annotations

import copy
from dataclasses import dataclass

import torch
from nmt.criterions.cross_entropy import CrossEntropy, CrossEntropyOptions
from torch import Tensor, nn

from nmt.config import option
from nmt.data.batch import Batch
from nmt.models.encoder_decoder import ModelOutput, SequenceModel
from nmt.models.frozen import Frozen
from nmt.registry import register
from nmt.text.vocabulary import EOS, PAD


@dataclass
class HintedOptions(CrossEntropyOptions):
    """Options of ``hinted`` (criterion)."""

    dropout: float = option(0.1, "of what is projected", minimum=0, below=1, training_only=True)


@register("criterion", "hinted", options=HintedOptions)
class Hinted(CrossEntropy):
    """Cross-entropy, and how far a projection of the decoder's states is from those of the model at its beginning."""

    def __init__(self, options: HintedOptions) -> None:
        super().__init__(options)
        self.dropout = nn.Dropout(options.dropout)

    def prepare(self, model: SequenceModel) -> None:
        tokens = torch.tensor([[EOS]])
        embed_dim = model(tokens, tokens).hidden.size(-1)
        self.project = nn.Linear(embed_dim, embed_dim)
        self.register_buffer("passes", torch.zeros(()))
        self.teacher = Frozen(copy.deepcopy(model))
        self.held = nn.Sequential(nn.Dropout(0.5), nn.Linear(2, 2)).eval().requires_grad_(False)

    def main(self, model: SequenceModel, output: ModelOutput, batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
        self.passes += self.training
        loss, sums = super().main(model, output, batch)
        hint = self.teacher(batch.src_tokens, batch.prev_output_tokens).hidden
        distance = (self.project(self.dropout(output.hidden)) - hint).square().mean(-1)[batch.target != PAD].sum()
        return loss + distance, {**sums, "hint": distance.detach()}
