"""Splitting features into attention heads."""

from __future__ import annotations

from torch import Tensor

from nmt.config import ConfigError
from nmt.models.interfaces import LayerContext


def head_dim(context: LayerContext, num_heads: int, slot: str) -> int:
    """Width of one head.

    Raises:
        ConfigError: the heads do not divide the width.
    """
    if context.embed_dim % num_heads:
        raise ConfigError(
            f"{context.key}.{slot}.num_heads={num_heads} does not divide {context.key}.embed_dim={context.embed_dim}"
        )
    return context.embed_dim // num_heads


def split_heads(x: Tensor, num_heads: int) -> Tensor:
    """(bsz, length, dim) to (bsz, num_heads, length, dim / num_heads)."""
    bsz, length, dim = x.shape
    return x.view(bsz, length, num_heads, dim // num_heads).transpose(1, 2)


def merge_heads(x: Tensor) -> Tensor:
    """(bsz, num_heads, length, head_dim) to (bsz, length, num_heads * head_dim)."""
    return x.transpose(1, 2).flatten(2)
