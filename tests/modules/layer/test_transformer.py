"""The Transformer layer: order of norm, function and residual."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.testing import assert_close

from nmt.config import ConfigError
from nmt.models.interfaces import EncoderOut, FeedForward, ForwardPass
from nmt.models.masks import SelfMask
from nmt.registry import build


class Times(FeedForward):
    """Stands in for every part: multiplies by a constant."""

    def __init__(self, factor: float) -> None:
        super().__init__()
        self.factor = factor

    def forward(self, x, *_):
        return x * self.factor


class PlusOne(nn.Module):
    """Stands in for a norm."""

    def forward(self, x):
        return x + 1


def make(make_context, norm_position: str, *, decoder: bool = True, **context):
    """A layer whose parts multiply by 2, 3 and 5, and whose norms add 1."""
    context = make_context(memory_dim=6 if decoder else None, make_norm=lambda width: PlusOne(), **context)
    parts = {"self_attention": Times(2.0), "cross_attention": Times(3.0), "feed_forward": Times(5.0)}
    node = {"name": "transformer", "norm_position": norm_position}
    return build("layer", node, key="model.decoder.layer", context=context, make_part=parts.__getitem__)


@pytest.mark.parametrize(
    ("norm_position", "decoder", "expected"),
    [
        # x + 2 (x + 1) = 5, then x + 3 (x + 1) = 23, then x + 5 (x + 1) = 143
        ("pre", True, 143.0),
        ("pre", False, 35.0),
        # (1 + 2) x + 1 = 4, then (1 + 3) x + 1 = 17, then (1 + 5) x + 1 = 103
        ("post", True, 103.0),
        ("post", False, 25.0),
    ],
)
def test_order_of_norm_and_residual(norm_position: str, decoder: bool, expected: float, make_context) -> None:
    layer = make(make_context, norm_position, decoder=decoder)
    memory = EncoderOut(torch.zeros(1, 2, 6), None) if decoder else None
    got = layer(torch.ones(1, 3, 8), SelfMask(causal=decoder), ForwardPass(), memory)
    assert_close(got, torch.full((1, 3, 8), expected))
    assert layer.normalised == (norm_position == "post")


@pytest.mark.parametrize(("norm_position", "left", "whole"), [("pre", 1.0, 35.0), ("post", 3.0, 25.0)])
def test_dropout_falls_on_the_branch_alone(norm_position: str, left: float, whole: float, make_context) -> None:
    """With all but everything dropped, x stays, and in post-norm the two norms on it."""
    layer = make(make_context, norm_position, decoder=False, dropout=0.99)
    got = layer(torch.ones(1, 500, 8), SelfMask(causal=False), ForwardPass())
    assert (got == left).float().mean() > 0.9
    layer.eval()
    assert_close(layer(torch.ones(1, 1, 8), SelfMask(causal=False), ForwardPass()), torch.full((1, 1, 8), whole))


def test_encoder_layers_have_no_memory(make_context) -> None:
    assert make(make_context, "pre", decoder=False).init_memory(None) == {}


def test_wrong_norm_position(make_context) -> None:
    with pytest.raises(
        ConfigError, match=r"^model\.decoder\.layer\.norm_position: Invalid value 'mid', expected one of"
    ):
        make(make_context, "mid")
