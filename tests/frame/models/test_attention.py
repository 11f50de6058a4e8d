"""Attention against the softmax formula, in every number format."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor
from torch.testing import assert_close

from nmt.models.attention import attend, attention_weights, weighted_sum
from nmt.models.masks import causal_mask, memory_mask

TOLERANCE = {
    torch.float64: {"rtol": 0.0, "atol": 1e-13},
    torch.float32: {"rtol": 0.0, "atol": 1e-6},
    torch.bfloat16: {"rtol": 0.0, "atol": 2e-2},  # the result is rounded to 8 bits
}


def softmax_formula(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None) -> Tensor:
    scores = q @ k.transpose(-1, -2) / math.sqrt(q.size(-1))
    if mask is not None:
        scores = scores.masked_fill(~mask, -math.inf)
    weights = scores.exp() / scores.exp().sum(-1, keepdim=True)
    return weights @ v


MASKS = {
    "none": (None, False),
    "causal": (None, True),
    "padding": (memory_mask(torch.tensor([[False] * 5, [False, False, True, True, True]])), False),
}


@pytest.mark.parametrize("dtype", TOLERANCE, ids=str)
@pytest.mark.parametrize("mask", MASKS)
def test_formula(dtype: torch.dtype, mask: str) -> None:
    attn_mask, is_causal = MASKS[mask]
    q, k, v = (torch.randn(2, 3, 5, 4, dtype=torch.float64).to(dtype) for _ in range(3))
    got = attend(q, k, v, attn_mask=attn_mask, is_causal=is_causal)
    allowed = causal_mask(5, q.device) if is_causal else attn_mask
    assert got.dtype == dtype
    assert_close(got.double(), softmax_formula(q.double(), k.double(), v.double(), allowed), **TOLERANCE[dtype])


@pytest.mark.parametrize("dtype", TOLERANCE, ids=str)
@pytest.mark.parametrize("mask", ["none", "padding"])
@pytest.mark.parametrize("added", [False, True], ids=["bool", "added"])
def test_decoding_a_batch(monkeypatch, dtype: torch.dtype, mask: str, added: bool) -> None:
    """Keys and values as decoding holds them: the first columns of a larger state."""
    monkeypatch.setattr("nmt.models.attention.BATCHED_ELEMENTS", 0)
    allowed = MASKS[mask][0]
    q = torch.randn(2, 3, 4, 4, dtype=torch.float64).to(dtype)
    k, v = (torch.randn(2, 3, 9, 4, dtype=torch.float64).to(dtype)[:, :, :5] for _ in range(2))
    attn_mask = allowed
    if added and allowed is not None:
        attn_mask = torch.zeros(allowed.shape, dtype=dtype).masked_fill(~allowed, -math.inf)
    with torch.inference_mode():
        got = attend(q, k, v, attn_mask=attn_mask)
    assert got.dtype == dtype
    assert_close(got.double(), softmax_formula(q.double(), k.double(), v.double(), allowed), **TOLERANCE[dtype])


@pytest.mark.parametrize("dtype", TOLERANCE, ids=str)
@pytest.mark.parametrize("mask", MASKS)
@pytest.mark.parametrize("inference", [False, True])
def test_weights_and_their_sum(dtype: torch.dtype, mask: str, inference: bool) -> None:
    attn_mask, is_causal = MASKS[mask]
    q, k, v = (torch.randn(2, 3, 5, 4, dtype=torch.float64).to(dtype) for _ in range(3))
    with torch.inference_mode(inference):
        weights = attention_weights(q, k, attn_mask=attn_mask, is_causal=is_causal)
        got = weighted_sum(weights, v)
    allowed = causal_mask(5, q.device) if is_causal else attn_mask
    eye = torch.eye(5, dtype=torch.float64).expand(2, 3, 5, 5)
    assert_close(weights.double(), softmax_formula(q.double(), k.double(), eye, allowed), **TOLERANCE[dtype])
    assert got.dtype == dtype
    assert_close(got.double(), softmax_formula(q.double(), k.double(), v.double(), allowed), **TOLERANCE[dtype])


def test_gradients_in_bfloat16_reach_the_inputs() -> None:
    q, k, v = (torch.randn(1, 2, 4, 8, dtype=torch.float64) for _ in range(3))
    exact = [t.clone().requires_grad_() for t in (q, k, v)]
    rough = [t.bfloat16().requires_grad_() for t in (q, k, v)]
    softmax_formula(*exact, None).sum().backward()
    attend(*rough).sum().backward()
    for a, b in zip(rough, exact):
        assert a.grad.dtype == torch.bfloat16
        assert_close(a.grad.double(), b.grad, rtol=0, atol=0.05)


def test_dropout_keeps_the_mean() -> None:
    q, k = torch.zeros(1, 1, 2000, 2), torch.zeros(1, 1, 10, 2)
    got = attend(q, k, torch.ones(1, 1, 10, 2), dropout=0.5)
    assert got.unique().numel() > 5
    assert got.mean().item() == pytest.approx(1, abs=0.03)
