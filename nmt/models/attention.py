"""Scaled dot-product attention, in the number format in which it is fastest."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from nmt.models.masks import causal_mask

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
            return weighted_sum(attention_weights(q, k, attn_mask=attn_mask), v)
    elif _wants_float32(q, k):
        with torch.autocast("cpu", enabled=False):
            full = F.scaled_dot_product_attention(
                q.float(), k.float(), v.float(), attn_mask=attn_mask, is_causal=is_causal, dropout_p=dropout
            )
        return full.to(q.dtype)
    return F.scaled_dot_product_attention(q, k, v, attn_mask=attn_mask, is_causal=is_causal, dropout_p=dropout)


def attention_weights(q: Tensor, k: Tensor, *, attn_mask: Tensor | None = None, is_causal: bool = False) -> Tensor:
    """softmax(q k^T / sqrt(head_dim)): the weights of ``attend``, which torch's fused kernels do not return.

    Args:
        q: (bsz, num_heads, tgt_len, head_dim).
        k: (bsz, num_heads, src_len, head_dim).
        attn_mask: as in ``attend``.
        is_causal: as in ``attend``.

    Returns:
        (bsz, num_heads, tgt_len, src_len), for ``weighted_sum``. The softmax runs in float32 at least.
    """
    if q.device.type == "cpu" and not torch.is_inference_mode_enabled() and _wants_float32(q, k):
        with torch.autocast("cpu", enabled=False):
            return _weights(q.float(), k.float(), attn_mask, is_causal)
    return _weights(q, k, attn_mask, is_causal)


def weighted_sum(weights: Tensor, v: Tensor) -> Tensor:
    """Attention once its weights are there.

    Args:
        weights: (bsz, num_heads, tgt_len, src_len), see ``attention_weights``.
        v: (bsz, num_heads, src_len, head_dim).

    Returns:
        (bsz, num_heads, tgt_len, head_dim), of the dtype of ``v``.
    """
    bsz, num_heads, tgt_len, _ = weights.shape
    flat, values = weights.flatten(0, 1), v.flatten(0, 1)
    if flat.dtype is v.dtype:
        summed = torch.bmm(flat, values)
    else:
        with torch.autocast(v.device.type, enabled=False):
            summed = torch.bmm(flat, values.to(flat.dtype)).to(v.dtype)
    return summed.view(bsz, num_heads, tgt_len, -1)


def _wants_float32(q: Tensor, k: Tensor) -> bool:
    """Whether training runs in float32 though the inputs do not."""
    return q.device.type == "cpu" and q.dtype is not torch.float64 and (k.dtype, q.dtype) != (torch.float32,) * 2


def _weights(q: Tensor, k: Tensor, attn_mask: Tensor | None, is_causal: bool) -> Tensor:
    bsz, num_heads, tgt_len, head_dim = q.shape
    # Flattened here: torch.matmul would copy keys and values, which are a part of a larger state.
    scores = torch.bmm(q.flatten(0, 1) * head_dim**-0.5, k.flatten(0, 1).transpose(1, 2))
    scores = scores.view(bsz, num_heads, tgt_len, -1)
    if is_causal:
        scores = scores.masked_fill_(~causal_mask(tgt_len, q.device), -torch.inf)
    scores = mask_scores(scores, attn_mask)
    full = scores if scores.dtype is torch.float64 else scores.float()
    return torch.softmax(full, dim=-1).to(q.dtype)


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
