"""Layers in sequence, and LayerDrop."""

from __future__ import annotations

from math import sqrt

import pytest
import torch
from torch import nn

from nmt.config import ConfigError
from nmt.models.interfaces import ForwardPass
from nmt.models.masks import SelfMask
from nmt.registry import build

MASK = SelfMask(causal=False)


class Plus(nn.Module):
    """Stands in for a layer: adds a learned number."""

    def __init__(self, value: float, normalised: bool = False) -> None:
        super().__init__()
        self.value = nn.Parameter(torch.tensor(value))
        self.normalised = normalised
        self.follows = False

    def forward(self, x, mask, memo, encoder_out=None):
        return x + self.value


class Double(nn.Module):
    """Stands in for the norm."""

    def forward(self, x):
        return 2 * x


def make(layer_drop: float = 0.0, depth: int = 3, normalised: bool = False):
    layers = [Plus(10.0**i, normalised) for i in range(depth)]
    node = {"name": "sequential", "layer_drop": layer_drop}
    return build("stack", node, key="model.encoder.stack", layers=layers, make_norm=Double)


def run(stack, x=None):
    return stack(torch.zeros(1) if x is None else x, MASK, ForwardPass())


@pytest.mark.parametrize(("normalised", "expected"), [(False, 222.0), (True, 111.0)])
def test_ends_with_a_norm_unless_the_layers_do(normalised: bool, expected: float) -> None:
    assert run(make(normalised=normalised)).item() == expected


def test_without_layers_it_is_the_norm() -> None:
    assert run(make(depth=0), torch.tensor([3.0])).item() == 6.0


def test_no_layer_drop_draws_no_random_numbers() -> None:
    before = torch.get_rng_state()
    run(make())
    assert torch.equal(torch.get_rng_state(), before)


def test_layer_drop_of_all_leaves_the_norm_of_the_input() -> None:
    assert run(make(1.0), torch.tensor([3.0])).item() == 6.0


def test_layer_drop_is_for_training_only() -> None:
    before = torch.get_rng_state()
    assert run(make(1.0).eval()).item() == 222.0
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize("layer_drop", [0.2, 0.5])
def test_layers_are_kept_independently_at_the_rate(layer_drop: float) -> None:
    stack, passes = make(layer_drop), 2000
    sums = torch.stack([run(stack)[0].detach() / 2 for _ in range(passes)]).long()
    kept = torch.stack([sums // 10**i % 10 for i in range(3)]).double()  # digits tell which layers ran
    bound = 4 * sqrt(layer_drop * (1 - layer_drop) / passes)  # four standard deviations
    assert (kept.mean(1) - (1 - layer_drop)).abs().max() < bound
    both = (kept[0] * kept[1]).mean()
    assert both == pytest.approx((1 - layer_drop) ** 2, abs=4 * 0.5 / sqrt(passes))


def test_dropped_layers_get_no_gradient() -> None:
    stack, seen = make(0.5), set()
    for _ in range(20):
        stack.zero_grad()
        out = run(stack)
        ran = f"{int(out.item()) // 2:03d}"[::-1]
        if out.requires_grad:
            out.backward()
        gradients = [layer.value.grad for layer in stack.layers]
        assert [g is not None for g in gradients] == [digit == "1" for digit in ran]
        assert all(g == 2 for g in gradients if g is not None)  # no scaling by the rate
        seen.add(ran)
    assert len(seen) > 3


@pytest.mark.parametrize(("value", "bound"), [(-0.1, "at least 0"), (1.1, "at most 1")])
def test_layer_drop_is_a_probability(value: float, bound: str) -> None:
    with pytest.raises(ConfigError, match=rf"^model\.encoder\.stack\.layer_drop={value} is out of range: .* {bound}$"):
        make(value)
