"""Sinusoidal positions in the form of tensor2tensor, which fairseq and Marian took over."""

from __future__ import annotations

import math

import torch
from torch import Tensor


def sinusoids(length: int, dim: int) -> Tensor:
    """All sines, then all cosines, frequencies from 1 to 1 / 10000; float32 (length, dim), dim of at least 4.

    The paper's frequencies (Vaswani et al. 2017, arXiv:1706.03762, section 3.5) are slightly others: they end before
    1 / 10000.
    """
    half = dim // 2
    frequency = torch.exp(torch.arange(half).float() * -(math.log(10000) / (half - 1)))
    angle = torch.arange(length).float()[:, None] * frequency
    table = torch.cat([angle.sin(), angle.cos()], dim=1)
    return torch.cat([table, table.new_zeros(length, dim - 2 * half)], dim=1)
