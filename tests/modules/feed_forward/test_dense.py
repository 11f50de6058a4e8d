"""The dense feed-forward network: every activation by hand, in plain Python."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
from torch.testing import assert_close

from nmt.models.interfaces import ForwardPass
from nmt.registry import build


def sigmoid(x: float) -> float:
    return 1 / (1 + math.exp(-x))


def gelu(x: float) -> float:
    return x * 0.5 * (1 + math.erf(x / math.sqrt(2)))


def silu(x: float) -> float:
    return x * sigmoid(x)


def relu(x: float) -> float:
    return max(0.0, x)


def make(make_context, **options):
    context = make_context(embed_dim=1, ffn_dim=2, num_heads=1, **options.pop("context", {}))
    return build("feed_forward", {"name": "dense", **options}, key="k", context=context).double()


def apply(part, x: float) -> float:
    return part(torch.tensor([[[x]]], dtype=torch.float64), ForwardPass()).item()


@pytest.mark.parametrize(("name", "function"), [("relu", relu), ("gelu", gelu), ("silu", silu)])
@pytest.mark.parametrize("x", [-1.5, 0.0, 2.0])
def test_plain(name: str, function: Callable[[float], float], x: float, make_context) -> None:
    """W1 = [1, -2], b1 = [0.5, 0], W2 = [3, 5], b2 = 7."""
    part = make(make_context, activation=name)
    with torch.no_grad():
        part.inner.weight.copy_(torch.tensor([[1.0], [-2.0]]))
        part.inner.bias.copy_(torch.tensor([0.5, 0.0]))
        part.outer.weight.copy_(torch.tensor([[3.0, 5.0]]))
        part.outer.bias.fill_(7.0)
    assert apply(part, x) == pytest.approx(3 * function(x + 0.5) + 5 * function(-2 * x) + 7, rel=1e-12)


@pytest.mark.parametrize(("name", "function"), [("glu", sigmoid), ("reglu", relu), ("geglu", gelu), ("swiglu", silu)])
@pytest.mark.parametrize("x", [-1.5, 0.0, 2.0])
def test_gated(name: str, function: Callable[[float], float], x: float, make_context) -> None:
    """(f(xW) * xV) W2 of Shazeer 2020, with W = [1, -2], V = [3, 4], W2 = [1, 1] and no biases."""
    part = make(make_context, activation=name, bias=False)
    with torch.no_grad():
        part.inner.weight.copy_(torch.tensor([[1.0], [-2.0], [3.0], [4.0]]))
        part.outer.weight.fill_(1.0)
    assert apply(part, x) == pytest.approx(function(x) * 3 * x + function(-2 * x) * 4 * x, rel=1e-12)


def test_width_and_biases(make_context) -> None:
    shapes = [tuple(p.shape) for p in make(make_context, activation="swiglu", ffn_dim=5).parameters()]
    assert shapes == [(10, 1), (10,), (1, 5), (1,)]
    assert [tuple(p.shape) for p in make(make_context, bias=False).parameters()] == [(2, 1), (1, 2)]


def test_dropout_follows_the_activation(make_context) -> None:
    """Kept values are doubled: every output is one of the four sums of two terms, and all four occur."""
    part = make(make_context, bias=False, context={"activation_dropout": 0.5})
    with torch.no_grad():
        part.inner.weight.copy_(torch.tensor([[1.0], [10.0]]))
        part.outer.weight.fill_(1.0)
    got = part(torch.ones(1, 200, 1, dtype=torch.float64), ForwardPass())
    assert set(got.flatten().tolist()) == {0.0, 2.0, 20.0, 22.0}
    part.eval()
    assert apply(part, 1.0) == 11.0


def test_none_is_the_identity_and_layers_leave_it_out(make_context, make_model) -> None:
    part = build("feed_forward", {"name": "none"}, key="k", context=make_context())
    x = torch.randn(2, 3, 8)
    assert_close(part(x, ForwardPass()), x, rtol=0, atol=0)
    layer = make_model("model.decoder.feed_forward.name=none").decoder.stack.layers[0]
    assert layer.feed_forward is None
    assert layer.around_feed_forward is None  # neither norm nor residual is left of it
