"""Adam with decoupled weight decay (Loshchilov and Hutter 2019, arXiv:1711.05101)."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import nn

from nmt.config import option
from nmt.registry import register

from .adam import AdamOptions


@dataclass
class AdamWOptions(AdamOptions):
    """Options of ``adamw`` (optimizer)."""

    weight_decay: float = option(0.01, "decoupled decay, times the learning rate; matrices only", minimum=0, maximum=10)


@register("optimizer", "adamw", options=AdamWOptions, paper="Loshchilov and Hutter 2019, arXiv:1711.05101")
class AdamW(torch.optim.AdamW):
    """Adam with decoupled weight decay, on matrices but not on biases and norms."""

    def __init__(self, options: AdamWOptions, *, parameters: Iterable[nn.Parameter]) -> None:
        parameters = list(parameters)
        groups = [
            {"params": [p for p in parameters if p.dim() > 1], "weight_decay": options.weight_decay},
            {"params": [p for p in parameters if p.dim() <= 1], "weight_decay": 0.0},
        ]
        super().__init__(
            [group for group in groups if group["params"]],
            lr=options.lr,
            betas=(options.beta1, options.beta2),
            eps=options.eps,
            fused=True,
        )
