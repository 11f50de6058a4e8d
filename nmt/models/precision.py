"""Number formats in which sums are safe."""

from __future__ import annotations

import torch
from torch import Tensor


def at_least_float32(x: Tensor) -> Tensor:
    """The same values, in float32 unless they are in float64: long sums lose their last terms in narrower formats."""
    return x.to(torch.promote_types(x.dtype, torch.float32))
