"""Attention from decoder to encoder against the formula, written out."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor
from torch.testing import assert_close

from nmt.config import ConfigError
from nmt.models.interfaces import EncoderOut, ForwardPass
from nmt.models.masks import memory_mask
from nmt.models.state import Step
from nmt.registry import build

STATES = torch.randn(2, 4, 6, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
PADDING = torch.tensor([[False] * 4, [False, False, True, True]])


@pytest.fixture
def part(make_context):
    return build("cross_attention", {"name": "multihead"}, key="k", context=make_context()).double()


def by_hand(part, x: Tensor, states: Tensor) -> Tensor:
    """Eq. 1 and section 3.2.2 of arXiv:1706.03762, a head at a time; no padding in ``states``."""
    q, (wk, wv) = x @ part.q.weight.t(), part.kv.weight.chunk(2)
    heads = []
    for q_, k_, v_ in zip(q.chunk(2, dim=1), (states @ wk.t()).chunk(2, dim=1), (states @ wv.t()).chunk(2, dim=1)):
        heads.append(torch.softmax(q_ @ k_.t() / math.sqrt(4), dim=1) @ v_)
    return torch.cat(heads, dim=1) @ part.out.weight.t()


@pytest.mark.parametrize("padding", [None, PADDING])
def test_formula(part, padding: Tensor | None) -> None:
    x = torch.randn(2, 3, 8, dtype=torch.float64)
    got = part(x, EncoderOut(STATES, padding), ForwardPass())
    for row, length in enumerate([4, 4 if padding is None else 2]):
        assert_close(got[row], by_hand(part, x[row], STATES[row, :length]), rtol=0, atol=1e-12)


def test_hypotheses_of_a_sentence_read_its_keys_once(part) -> None:
    """Three hypotheses a sentence, two tokens each, against each of them alone."""
    memory = part.init_memory(EncoderOut(STATES, PADDING))
    assert [tuple(t.shape) for t in memory.values()] == [(2, 2, 4, 4)] * 2
    x = torch.randn(6, 2, 8, dtype=torch.float64)
    got = part.step(x, memory, Step(torch.arange(2), 2, 3, None, memory_mask(PADDING)), ForwardPass())
    for row in range(6):
        length = 4 if row < 3 else 2
        assert_close(got[row], by_hand(part, x[row], STATES[row // 3, :length]), rtol=0, atol=1e-12)


def test_heads_must_divide_the_width(make_context) -> None:
    with pytest.raises(ConfigError) as caught:
        build("cross_attention", {"name": "multihead", "num_heads": 5}, key="k", context=make_context())
    assert str(caught.value) == "model.decoder.cross_attention.num_heads=5 does not divide model.decoder.embed_dim=8"
