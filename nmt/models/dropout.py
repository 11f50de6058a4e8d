"""Dropout (Srivastava et al. 2014) with cheap random numbers on the CPU."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

LEVELS = 1 << 16


class Dropout(nn.Module):
    """Zeroes each value with probability ``p`` while training and scales the rest by 1 / (1 - p).

    On a CPU torch draws one random number a value, which took 8 % of a training step; here one 64-bit number serves
    four values, so ``p`` is rounded to a multiple of 2^-16. Other devices use torch's own dropout.

    Args:
        p: probability, in [0, 1).
    """

    def __init__(self, p: float) -> None:
        super().__init__()
        self.p = p

    def forward(self, x: Tensor) -> Tensor:
        """Any shape to the same shape."""
        if not self.training or self.p == 0:
            return x
        if x.device.type != "cpu" or torch.compiler.is_compiling():
            return F.dropout(x, self.p)
        return _CpuDropout.apply(x, self.p)  # type: ignore[no-untyped-call]

    def extra_repr(self) -> str:
        return f"p={self.p}"


class _CpuDropout(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, p: float) -> Tensor:
        draws = torch.empty(-(-x.numel() // 4), dtype=torch.int64).random_(-(1 << 63), None)
        dropped = min(round(p * LEVELS), LEVELS - 1)
        threshold = dropped - LEVELS // 2  # int16 values below it are dropped
        kept = (draws.view(torch.int16)[: x.numel()] >= threshold).view(x.shape)
        scale = LEVELS / (LEVELS - dropped)
        mask = kept.to(x.dtype).mul_(scale)
        ctx.save_for_backward(mask)
        return x * mask

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        (mask,) = ctx.saved_tensors
        return grad * mask, None
