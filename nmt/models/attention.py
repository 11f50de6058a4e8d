"""Scaled dot-product attention, in the number format in which it is fastest."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

BATCHED_ELEMENTS, BATCHED_QUERIES = 1 << 17, 32
"""On a CPU, a step that decodes a batch (keys of at least so many elements, at most so many queries each) is faster by
two batched products than by torch's fused kernel: 1.5 times in float32 on two threads, 2 to 3 times in bfloat16."""


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

    The products run where they are fastest. On a CPU in bfloat16 the backward pass of torch's fused kernel is several
    times slower than in float32: there training runs in float32. For decoding see ``BATCHED_ELEMENTS``.

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
    if q.device.type == "cpu" and torch.is_inference_mode_enabled():
        few, large = q.size(2) <= BATCHED_QUERIES, k.numel() >= BATCHED_ELEMENTS
        if few and large and not (is_causal or dropout):
            return _attend_batched(q, k, v, attn_mask)
    elif q.device.type == "cpu" and q.dtype is not torch.float64 and (k.dtype, q.dtype) != (torch.float32,) * 2:
        with torch.autocast("cpu", enabled=False):
            full = F.scaled_dot_product_attention(
                q.float(), k.float(), v.float(), attn_mask=attn_mask, is_causal=is_causal, dropout_p=dropout
            )
        return full.to(q.dtype)
    return F.scaled_dot_product_attention(q, k, v, attn_mask=attn_mask, is_causal=is_causal, dropout_p=dropout)


def _attend_batched(q: Tensor, k: Tensor, v: Tensor, attn_mask: Tensor | None) -> Tensor:
    """The formula as it stands, softmax in float32; for evaluation, without dropout."""
    bsz, num_heads, tgt_len, head_dim = q.shape
    # Flattened here: torch.matmul would copy keys and values, which are a part of a larger state.
    q, k, v = q.flatten(0, 1), k.flatten(0, 1), v.flatten(0, 1)
    scores = torch.bmm(q * head_dim**-0.5, k.transpose(1, 2)).view(bsz, num_heads, tgt_len, -1)
    scores = mask_scores(scores, attn_mask)
    if scores.dtype is torch.bfloat16:
        scores = scores.float()
    weights = torch.softmax(scores, dim=-1).to(v.dtype)
    return torch.bmm(weights.flatten(0, 1), v).view(bsz, num_heads, tgt_len, head_dim)


def mask_scores(scores: Tensor, attn_mask: Tensor | None) -> Tensor:
    """Take out what a query may not attend to, in place.

    Args:
        scores: (bsz, num_heads, tgt_len, src_len), before the softmax.
        attn_mask: see ``attend``.
    """
    if attn_mask is None:
        return scores
    if attn_mask.dtype is torch.bool:
        return scores.masked_fill_(~attn_mask, -torch.inf)
    return scores.add_(attn_mask)
