"""Adam (Kingma and Ba 2015, arXiv:1412.6980)."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import nn

from nmt.config import option
from nmt.registry import register


@dataclass
class AdamOptions:
    """Options of ``adam`` (optimizer)."""

    lr: float = option(5e-4, "peak learning rate", above=0, maximum=10)
    beta1: float = option(0.9, "decay of the mean of gradients", minimum=0, below=1)
    beta2: float = option(0.98, "decay of the mean of squared gradients", minimum=0, below=1)
    eps: float = option(1e-9, "added to the root of the mean square", minimum=1e-30, maximum=1)
    weight_decay: float = option(0.0, "added to the gradient as an L2 penalty", minimum=0, maximum=10)


@register("optimizer", "adam", options=AdamOptions, paper="Kingma and Ba 2015, arXiv:1412.6980")
class Adam(torch.optim.Adam):
    """Adam with all parameters updated in one fused call."""

    def __init__(self, options: AdamOptions, *, parameters: Iterable[nn.Parameter]) -> None:
        super().__init__(
            list(parameters),
            lr=options.lr,
            betas=(options.beta1, options.beta2),
            eps=options.eps,
            weight_decay=options.weight_decay,
            fused=True,
        )
