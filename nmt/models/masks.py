"""The only maker of attention masks. Boolean masks are True where a query may attend."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class SelfMask:
    """Who may attend to whom within one sequence.

    Attributes:
        causal: no position sees a later one.
        padding_mask: bool (bsz, length), True = padding; None when nothing is padded, or when the mask is causal and
            padding stands at the end, so that no real position sees it.
    """

    causal: bool
    padding_mask: Tensor | None = None

    @property
    def attn_mask(self) -> Tensor | None:
        """Bool (bsz, 1, 1, length), True = may attend, without the causal part; None when nothing is padded."""
        return None if self.padding_mask is None else ~self.padding_mask[:, None, None, :]


def memory_mask(padding_mask: Tensor | None) -> Tensor | None:
    """From an encoder's padding mask (bsz, src_len), True = padding, to (bsz, 1, 1, src_len), True = may attend."""
    return None if padding_mask is None else ~padding_mask[:, None, None, :]


def causal_mask(length: int, device: torch.device) -> Tensor:
    """Bool (length, length), True = may attend: the lower triangle."""
    return torch.ones(length, length, dtype=torch.bool, device=device).tril()
