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
    stack, passes = make(layer_drop), 3400  # 10,200 draws
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


def kept_layers(model, src, prev) -> list[list[bool]]:
    """Which layers of the encoder and of the decoder one training pass ran."""
    model.zero_grad()
    output = model(src, prev)
    (output.hidden * torch.arange(16.0)).sum().backward()
    stacks = (model.encoder, model.decoder.stack)
    return [[any(p.grad is not None for p in layer.parameters()) for layer in stack.layers] for stack in stacks]


SRC, PREV = torch.tensor([[5, 9, 2]]), torch.tensor([[1, 8]])


def test_encoder_and_decoder_draw_independently(make_model) -> None:
    model = make_model(*(f"model.{side}.stack.layer_drop=0.5" for side in ("encoder", "decoder")))
    kept = torch.tensor([kept_layers(model, SRC, PREV) for _ in range(200)])  # (passes, 2, layers)
    # Where the decoder reads nothing, with all its layers dropped, the encoder has no gradient either.
    kept = kept[kept[:, 1].any(1)].double()
    for layer in range(2):
        for other in range(2):
            both = torch.stack([kept[:, 0, layer], kept[:, 1, other]])
            assert torch.corrcoef(both)[0, 1].abs() < 4 / sqrt(len(kept))  # four standard deviations


def test_optimiser_leaves_dropped_layers_alone(make_model) -> None:
    """Weight decay and momentum would move a layer whose gradient is zero; none is left where it did not run."""
    model = make_model("model.encoder.stack.layer_drop=0.5")
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.1, weight_decay=0.5)
    seen = set()
    for _ in range(12):
        before = [[p.clone() for p in layer.parameters()] for layer in model.encoder.layers]
        kept = kept_layers(model, SRC, PREV)[0]
        optimizer.step()
        for layer, old, ran in zip(model.encoder.layers, before, kept):
            moved = [not torch.equal(p, q) for p, q in zip(layer.parameters(), old)]
            assert all(moved) if ran else not any(moved)
        seen.add(tuple(kept))
    assert len(seen) > 2


@pytest.mark.parametrize("norm_position", ["pre", "post"])
def test_whole_model_without_one_layer_equals_the_model_that_never_had_it(norm_position: str, make_model) -> None:
    """Post-norm too, where the norms of a layer go with it."""
    given = [f"model.{side}.layer.norm_position={norm_position}" for side in ("encoder", "decoder")]
    model = make_model(*given, "model.encoder.stack.layer_drop=0.5")
    short = make_model(*given, "model.encoder.layers=1")
    short.load_state_dict(
        {
            name.replace("encoder.layers.1.", "encoder.layers.0."): tensor
            for name, tensor in model.state_dict().items()
            if not name.startswith("encoder.layers.0.")
        }
    )
    for part in model.modules():
        if hasattr(part, "p"):
            part.p = 0.0  # ordinary dropout
    short.eval()
    for _ in range(20):
        state = torch.get_rng_state()
        if kept_layers(model, SRC, PREV)[0] == [False, True]:
            torch.set_rng_state(state)
            assert torch.equal(model(SRC, PREV).hidden, short(SRC, PREV).hidden)
            return
    pytest.fail("the first layer alone was never dropped")


def test_a_shallower_stack_drops_no_layers() -> None:
    """What a pruned model is configured with: the rate belonged to the depth that it was pruned from."""
    stack = type(make())
    node = {"name": "sequential", "layer_drop": 0.4}
    assert stack.select_layers(node, [0, 2]) == {"name": "sequential", "layer_drop": 0.0}
    assert node["layer_drop"] == 0.4


@pytest.mark.parametrize(("value", "bound"), [(-0.1, "at least 0"), (1.1, "at most 1")])
def test_layer_drop_is_a_probability(value: float, bound: str) -> None:
    with pytest.raises(ConfigError, match=rf"^model\.encoder\.stack\.layer_drop={value} is out of range: .* {bound}$"):
        make(value)
