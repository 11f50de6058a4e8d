"""Scaled dot-product attention, in the number format in which it is fastest."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F


def attend(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    *,
    attn_mask: Tensor | None = None,
    is_causal: bool = False,
    dropout: float = 0.0,
) -> Tensor:
    """softmax(q k^T / sqrt(head_dim)) v (Vaswani et al. 2017, arXiv:1706.03762, eq. 1).

    On a CPU in bfloat16 the products run in float32: the backward pass of torch's fused kernel is several times slower
    in bfloat16 there, and sentences are short.

    Args:
        q: (bsz, num_heads, tgt_len, head_dim).
        k: (bsz, num_heads, src_len, head_dim).
        v: (bsz, num_heads, src_len, head_dim).
        attn_mask: broadcastable to (bsz, num_heads, tgt_len, src_len): bool, True = may attend; or of the dtype of
            ``q``, added to the products.
        is_causal: position t sees the keys up to t.
        dropout: of the attention weights.

    Returns:
        (bsz, num_heads, tgt_len, head_dim).
    """
    if q.device.type == "cpu" and (q.dtype is not torch.float64) and (k.dtype, q.dtype) != (torch.float32,) * 2:
        with torch.autocast("cpu", enabled=False):
            full = F.scaled_dot_product_attention(
                q.float(), k.float(), v.float(), attn_mask=attn_mask, is_causal=is_causal, dropout_p=dropout
            )
        return full.to(q.dtype)
    return F.scaled_dot_product_attention(q, k, v, attn_mask=attn_mask, is_causal=is_causal, dropout_p=dropout)
