"""What the recurrent replacements of self-attention share: sums over a prefix."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from nmt.config import ConfigError
from nmt.models.interfaces import LayerContext


def refuse_encoder(context: LayerContext, name: str) -> None:
    """Refuse a stack whose positions see later ones.

    Raises:
        ConfigError: it does.
    """
    if not context.causal:
        raise ConfigError(
            f"{context.key}.self_attention.name={name} reads prefixes only, and here positions see later ones; "
            f"it is for model.decoder.self_attention"
        )


def wide(x: Tensor) -> Tensor:
    """In float32 at least: sums over long prefixes lose their last terms in narrower formats."""
    return x.to(torch.promote_types(x.dtype, torch.float32))


def linear_recurrence(forget: Tensor, new: Tensor) -> Tensor:
    """c_t = forget_t * c_{t-1} + new_t with c_0 = 0, in ceil(log2(length)) vector operations.

    Each round doubles the number of positions that a position has taken in (Hillis and Steele 1986): the pair (a, b),
    which stands for c -> a * c + b, is put after the pair so many positions before. Nothing is divided, so gates near
    zero do no harm.

    Args:
        forget: (bsz, length, dim), in [0, 1].
        new: of the same shape.

    Returns:
        (bsz, length, dim).
    """
    length, span = new.size(1), 1
    while span < length:
        # What lies before the start is the identity for a and zero for b.
        before = F.pad(new[:, :-span], (0, 0, span, 0))
        new = torch.addcmul(new, forget, before)
        if 2 * span < length:
            forget = forget * F.pad(forget[:, :-span], (0, 0, span, 0))
        span *= 2
    return new
