"""Adam and AdamW: by hand for two updates, and against torch's plain loop."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import nn
from torch.testing import assert_close

from nmt.config import ConfigError
from nmt.registry import build

GRADIENTS = [0.5, -2.0]


def make(name: str, parameters: list[nn.Parameter], **options: Any) -> torch.optim.Optimizer:
    return build("optimizer", {"name": name, **options}, key="optimizer", parameters=parameters)


def run(optimizer: torch.optim.Optimizer, parameter: nn.Parameter, gradients: list[float]) -> float:
    for gradient in gradients:
        parameter.grad = torch.full_like(parameter, gradient)
        optimizer.step()
    return parameter.flatten()[0].item()


def adam_by_hand(x: float, *, lr: float, beta1: float, beta2: float, eps: float, decoupled: float = 0.0) -> float:
    """Algorithm 1 of arXiv:1412.6980; ``decoupled`` is the decay of arXiv:1711.05101, algorithm 2."""
    m = v = 0.0
    for t, gradient in enumerate(GRADIENTS, start=1):
        m = beta1 * m + (1 - beta1) * gradient
        v = beta2 * v + (1 - beta2) * gradient**2
        x -= lr * decoupled * x
        x -= lr * (m / (1 - beta1**t)) / (math.sqrt(v / (1 - beta2**t)) + eps)
    return x


def test_adam_by_hand() -> None:
    values = {"lr": 0.1, "beta1": 0.8, "beta2": 0.9, "eps": 0.01}
    parameter = nn.Parameter(torch.tensor([1.0]))
    assert run(make("adam", [parameter], **values), parameter, GRADIENTS) == pytest.approx(adam_by_hand(1.0, **values))


@pytest.mark.parametrize(("shape", "decoupled"), [((1, 1), 0.3), ((1,), 0.0)])
def test_adamw_decays_matrices_only(shape: tuple[int, ...], decoupled: float) -> None:
    values = {"lr": 0.1, "beta1": 0.8, "beta2": 0.9, "eps": 0.01}
    parameter = nn.Parameter(torch.ones(shape))
    optimizer = make("adamw", [parameter], weight_decay=0.3, **values)
    assert run(optimizer, parameter, GRADIENTS) == pytest.approx(adam_by_hand(1.0, **values, decoupled=decoupled))


@pytest.mark.parametrize(("name", "reference"), [("adam", torch.optim.Adam), ("adamw", torch.optim.AdamW)])
def test_equals_torchs_plain_loop(name: str, reference: type[torch.optim.Optimizer]) -> None:
    start = [torch.randn(3, 4), torch.randn(2, 2)]
    ours, theirs = ([nn.Parameter(t.clone()) for t in start] for _ in range(2))
    mine = make(name, ours, lr=0.01, weight_decay=0.1)
    plain = reference(theirs, lr=0.01, betas=(0.9, 0.98), eps=1e-9, weight_decay=0.1, foreach=False)
    for _ in range(20):
        for a, b in zip(ours, theirs):
            a.grad = torch.randn_like(a)
            b.grad = a.grad.clone()
        mine.step()
        plain.step()
    assert_close(ours, theirs, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    ("option", "value"), [("lr", 0), ("beta1", 1), ("beta2", -0.1), ("eps", 0), ("weight_decay", -1)]
)
@pytest.mark.parametrize("name", ["adam", "adamw"])
def test_ranges(name: str, option: str, value: float) -> None:
    with pytest.raises(ConfigError, match=rf"^optimizer\.{option}={float(value)} is out of range"):
        make(name, [nn.Parameter(torch.zeros(1))], **{option: value})
