"""The simpler simple recurrent unit against a loop over positions."""

from __future__ import annotations

import pytest
import torch
from nmt.modules.self_attention.ssru import linear_recurrence
from torch import Tensor
from torch.testing import assert_close

from nmt.models.interfaces import ForwardPass
from nmt.models.masks import SelfMask
from nmt.models.state import num_bytes
from nmt.registry import build

CAUSAL = SelfMask(causal=True)


def make(make_context, dtype=torch.float64):
    node = {"name": "ssru"}
    part = build("self_attention", node, key="model.decoder.self_attention", context=make_context()).to(dtype)
    torch.nn.init.normal_(part.gate_bias)
    return part


def loop(decay: Tensor, update: Tensor) -> Tensor:
    cell, cells = torch.zeros_like(update[:, 0]), []
    for t in range(update.size(1)):
        cell = decay[:, t] * cell + update[:, t]
        cells.append(cell)
    return torch.stack(cells, dim=1)


def by_hand(part, x: Tensor) -> Tensor:
    w_f, w = part.project.weight.chunk(2)
    f = torch.sigmoid(x @ w_f.t() + part.gate_bias)
    return torch.relu(loop(f, (1 - f) * (x @ w.t())))


@pytest.mark.parametrize("length", [1, 2, 3, 8, 13])
def test_outputs_and_gradients_equal_the_loop(length: int, make_context) -> None:
    part = make(make_context)
    x = torch.randn(2, length, 8, dtype=torch.float64, requires_grad=True)
    got, expected = part(x, CAUSAL, ForwardPass()), by_hand(part, x)
    assert_close(got, expected, rtol=0, atol=1e-12)
    weights, inputs = torch.randn_like(got), [x, *part.parameters()]
    for a, b in zip(*(torch.autograd.grad((y * weights).sum(), inputs) for y in (got, expected))):
        assert_close(a, b, rtol=0, atol=1e-12)


def test_gradients_by_differences() -> None:
    decay = torch.rand(2, 5, 3, dtype=torch.float64, requires_grad=True)
    update = torch.randn(2, 5, 3, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(linear_recurrence, (decay, update))
    assert torch.autograd.gradgradcheck(linear_recurrence, (decay, update))


@pytest.mark.parametrize("size", [0.0, 1e-6, 0.5, 1.0])
def test_long_sequences_stay_exact(size: float) -> None:
    decay = torch.full((1, 4096, 4), size).mul(torch.rand(1, 4096, 4).round().clamp(min=0.9)).requires_grad_()
    update = torch.randn(1, 4096, 4)
    got = linear_recurrence(decay, update)
    assert_close(got.double(), loop(decay.double(), update.double()), rtol=1e-4, atol=1e-3)
    got.sum().backward()
    assert decay.grad.isfinite().all()


def test_long_sequences_in_bfloat16(make_context) -> None:
    part, x = make(make_context, torch.bfloat16), torch.randn(1, 4096, 8).bfloat16()
    got = part(x, CAUSAL, ForwardPass())
    assert got.dtype == torch.bfloat16
    assert_close(got.double(), by_hand(part.double(), x.double()), rtol=0.05, atol=0.05)


def test_state_does_not_grow(make_context) -> None:
    part = make(make_context)
    for dtype, size in ((torch.bfloat16, 4), (torch.float32, 4), (torch.float64, 8)):
        like = torch.zeros(1, dtype=dtype)
        assert {num_bytes(part.init_state(3, length, like)) for length in (1, 9, 4096)} == {3 * 8 * size}
