"""Layer normalisation (Ba et al. 2016, arXiv:1607.06450)."""

from __future__ import annotations

from dataclasses import dataclass

from torch import nn

from nmt.config import option
from nmt.registry import register


@dataclass
class LayerNormOptions:
    """Options of ``layer_norm`` (norm)."""

    eps: float = option(1e-5, "added to the variance", minimum=1e-30, maximum=1)


@register("norm", "layer_norm", options=LayerNormOptions, paper="Ba et al. 2016, arXiv:1607.06450")
class LayerNorm(nn.LayerNorm):
    """Zero mean and unit variance over the features, then a learned gain and bias."""

    def __init__(self, options: LayerNormOptions, *, width: int) -> None:
        super().__init__(width, eps=options.eps)
