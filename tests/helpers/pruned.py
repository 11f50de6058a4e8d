"""A plug-in: magnitude pruning with a cubic schedule (Zhu and Gupta 2017, arXiv:1710.01878) and rewinding."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from nmt.config import option
from nmt.models.encoder_decoder import SequenceModel
from nmt.registry import register
from nmt.training.callbacks import Callback


@dataclass
class PrunedOptions:
    """Options of ``pruned`` (callback)."""

    sparsity: float = option(0.5, "share of the weights that is zero at the end", minimum=0, below=1)
    until: int = option(4, "the update in which the share is reached", minimum=1, maximum=1000)
    rewind: int | None = option(None, "the update before which the first weights come back", minimum=1, maximum=99)
    pull: float = option(0.0, "what a squared norm adds to the loss", minimum=0, maximum=10)


@register("callback", "pruned", options=PrunedOptions)
class Pruned(Callback):
    """Zeroes the smallest weights of every matrix of the encoder's layers, more with every update."""

    def __init__(self, options: PrunedOptions) -> None:
        super().__init__()
        self.options = options
        self.names: list[str] = []

    def prepare(self, model: SequenceModel) -> None:
        for name, weight in model.named_parameters():
            if name.startswith("encoder.layers") and weight.dim() == 2:
                self.register_buffer(f"mask{len(self.names)}", torch.ones_like(weight, dtype=torch.bool))
                self.register_buffer(f"first{len(self.names)}", weight.detach().clone())
                self.names.append(name)

    def before_step(self, model: SequenceModel, update: int) -> None:
        if update == self.options.rewind:
            weights = dict(model.named_parameters())
            with torch.no_grad():
                for index, name in enumerate(self.names):
                    weights[name].copy_(self.get_buffer(f"first{index}") * self.get_buffer(f"mask{index}"))

    def terms(self, model: SequenceModel) -> dict[str, Tensor]:
        if not self.options.pull:
            return {}
        weights = dict(model.named_parameters())
        return {"pull": self.options.pull * torch.stack([weights[name].square().sum() for name in self.names]).sum()}

    def constrain(self, weights: Mapping[str, Tensor], update: int) -> None:
        left = max(0.0, 1 - update / self.options.until)
        share = self.options.sparsity * (1 - left**3)
        for index, name in enumerate(self.names):
            mask, weight = self.get_buffer(f"mask{index}"), weights[name]
            zeros = round(share * weight.numel())
            if int((~mask).sum()) < zeros:  # the average comes second and takes the mask as it is
                smallest = weight.abs().masked_fill(~mask, -1.0).flatten().argsort()[:zeros]
                mask.view(-1)[smallest] = False
            weight *= mask
