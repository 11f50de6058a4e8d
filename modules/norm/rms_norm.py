"""Root mean square normalisation (Zhang and Sennrich 2019, arXiv:1910.07467)."""

from __future__ import annotations

from dataclasses import dataclass

from torch import nn

from nmt.config import option
from nmt.registry import register


@dataclass
class RMSNormOptions:
    """Options of ``rms_norm`` (norm)."""

    eps: float = option(1e-6, "added to the mean square", minimum=1e-30, maximum=1)


@register("norm", "rms_norm", options=RMSNormOptions, paper="Zhang and Sennrich 2019, arXiv:1910.07467")
class RMSNorm(nn.RMSNorm):
    """Divides by the root mean square of the features, then a learned gain: no mean, no bias."""

    def __init__(self, options: RMSNormOptions, *, width: int) -> None:
        super().__init__(width, eps=options.eps)
