"""The full softmax over the vocabulary, with a loss that never holds all logits."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from nmt.config import option
from nmt.models.cross_entropy import chunked_cross_entropy
from nmt.models.interfaces import Embedding, Output
from nmt.models.linear import LinearMaker
from nmt.models.precision import at_least_float32
from nmt.registry import register


@dataclass
class LinearOutputOptions:
    """Options of ``linear`` (output)."""

    bias: bool = option(False, "a bias per word")


@register("output", "linear", options=LinearOutputOptions)
class LinearOutput(Output):
    """One projection and a softmax; the matrix is the embedding's where that is shared."""

    def __init__(
        self,
        options: LinearOutputOptions,
        *,
        embed_dim: int,
        vocab_size: int,
        embedding: Embedding,
        make_linear: LinearMaker,
    ) -> None:
        super().__init__()
        self.projection = make_linear("output", embed_dim, vocab_size, bias=options.bias)
        shared = embedding.output_weight()
        if shared is None:
            self.projection.init()
        else:
            self.projection.tie(shared)
            if self.projection.bias is not None:
                nn.init.zeros_(self.projection.bias)

    def log_probs(self, hidden: Tensor) -> Tensor:
        return torch.log_softmax(at_least_float32(self.projection(hidden)), dim=-1)

    def loss(self, hidden: Tensor, target: Tensor, label_smoothing: float) -> tuple[Tensor, Tensor]:
        weight, bias = self.projection.matrix(), self.projection.bias
        spread = label_smoothing / weight.size(0)
        return chunked_cross_entropy(hidden, weight, bias, target, kept=1 - label_smoothing, spread=spread)
