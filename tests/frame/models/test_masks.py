"""Masks: polarity and shape."""

from __future__ import annotations

import torch

from nmt.models.masks import SelfMask, causal_mask, memory_mask

PADDING = torch.tensor([[False, False, True], [False, True, True]])
ALLOWED = [[[[True, True, False]]], [[[True, False, False]]]]


def test_padding_becomes_what_may_be_attended() -> None:
    assert memory_mask(PADDING).tolist() == ALLOWED
    assert SelfMask(causal=False, padding_mask=PADDING).attn_mask.tolist() == ALLOWED
    assert memory_mask(None) is None
    assert SelfMask(causal=True).attn_mask is None


def test_causal_mask() -> None:
    assert causal_mask(3, torch.device("cpu")).int().tolist() == [[1, 0, 0], [1, 1, 0], [1, 1, 1]]
