"""Multi-head self-attention against the formula, written out."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor
from torch.testing import assert_close

from nmt.config import ConfigError
from nmt.models.interfaces import ForwardPass
from nmt.models.masks import SelfMask
from nmt.registry import build


def make(make_context, **options):
    context = make_context(**options.pop("context", {}))
    node = {"name": "multihead", **options}
    return build("self_attention", node, key="model.decoder.self_attention", context=context).double()


def by_hand(part, x: Tensor, allowed: Tensor) -> Tensor:
    """Eq. 1 and section 3.2.2 of arXiv:1706.03762, a head and a query at a time; ``allowed`` is (length, length)."""
    width = x.size(-1) // part.num_heads
    q, k, v = (x @ w.t() + b for w, b in zip(part.qkv.weight.chunk(3), part.qkv.bias.chunk(3)))
    out = torch.zeros_like(x)
    for head in range(part.num_heads):
        columns = slice(head * width, (head + 1) * width)
        for t in range(len(x)):
            keys = allowed[t].nonzero().squeeze(1)
            weights = torch.softmax(q[t, columns] @ k[keys, columns].t() / math.sqrt(width), dim=0)
            out[t, columns] = weights @ v[keys, columns]
    return out @ part.out.weight.t() + part.out.bias


@pytest.mark.parametrize("num_heads", [1, 2, 4])
@pytest.mark.parametrize("causal", [True, False])
def test_formula(num_heads: int, causal: bool, make_context) -> None:
    part = make(make_context, num_heads=num_heads)
    torch.nn.init.normal_(part.qkv.bias)
    x = torch.randn(2, 5, 8, dtype=torch.float64)
    padding = None if causal else torch.tensor([[False] * 5, [False, False, False, True, True]])
    got = part(x, SelfMask(causal, padding), ForwardPass())
    for row in range(2):
        allowed = torch.ones(5, 5).tril() if causal else torch.ones(5, 5)
        if padding is not None:
            allowed = allowed * ~padding[row]
        assert_close(got[row], by_hand(part, x[row], allowed), rtol=0, atol=1e-12)


def test_two_positions_by_hand(make_context) -> None:
    """One head of one feature; q = x, k = 2x, v = 3x: weights of the second are softmax(1 * 2 * [1, 2])."""
    part = make(make_context, context={"embed_dim": 1, "num_heads": 1}, bias=False)
    with torch.no_grad():
        part.qkv.weight.copy_(torch.tensor([[1.0], [2.0], [3.0]]))
        part.out.weight.fill_(1.0)
    got = part(torch.tensor([[[1.0], [2.0]]], dtype=torch.float64), SelfMask(causal=True), ForwardPass())
    second = (math.exp(4) * 3 + math.exp(8) * 6) / (math.exp(4) + math.exp(8))
    assert_close(got, torch.tensor([[[3.0], [second]]], dtype=torch.float64))


def test_options(make_context) -> None:
    part = make(make_context, bias=False)
    assert (part.num_heads, part.head_dim) == (2, 4)  # of the stack
    assert [tuple(p.shape) for p in part.parameters()] == [(24, 8), (8, 8)]


def test_heads_must_divide_the_width(make_context) -> None:
    with pytest.raises(ConfigError) as caught:
        make(make_context, num_heads=3)
    assert str(caught.value) == "model.decoder.self_attention.num_heads=3 does not divide model.decoder.embed_dim=8"


def test_dropout_of_the_weights_only_while_training(make_context) -> None:
    part = make(make_context, context={"attention_dropout": 0.9})
    x, mask = torch.randn(1, 6, 8, dtype=torch.float64), SelfMask(causal=True)
    assert not torch.equal(part(x, mask, ForwardPass()), part(x, mask, ForwardPass()))
    part.eval()
    assert_close(part(x, mask, ForwardPass())[0], by_hand(part, x[0], torch.ones(6, 6).tril()))
