"""Norms by their formulas, on numbers whose moments are round."""

from __future__ import annotations

import pytest
import torch
from torch.testing import assert_close

from nmt.config import ConfigError
from nmt.registry import build

X = torch.tensor([[1.0, 1.0, 2.5, 2.5], [0.0, 0.0, 0.0, 0.0]], dtype=torch.float64)


def make(name: str, **options):
    return build("norm", {"name": name, **options}, key="model.norm", width=4).double()


def test_layer_norm() -> None:
    """Mean 1.75 and variance 0.5625; with eps 0.4375 the divisor is 1."""
    norm = make("layer_norm", eps=0.4375)
    with torch.no_grad():
        norm.weight.copy_(torch.tensor([1.0, 2.0, 3.0, 4.0]))
        norm.bias.fill_(1.0)
    assert_close(norm(X), torch.tensor([[0.25, -0.5, 3.25, 4.0], [1.0] * 4], dtype=torch.float64))


def test_rms_norm() -> None:
    """Mean square 3.625; with eps 0.375 the divisor is 2, and no mean is taken off."""
    norm = make("rms_norm", eps=0.375)
    with torch.no_grad():
        norm.weight.copy_(torch.tensor([1.0, 2.0, 4.0, 8.0]))
    assert_close(norm(X), torch.tensor([[0.5, 1.0, 5.0, 10.0], [0.0] * 4], dtype=torch.float64))
    assert [name for name, _ in norm.named_parameters()] == ["weight"]


@pytest.mark.parametrize(("name", "eps"), [("layer_norm", 1e-5), ("rms_norm", 1e-6)])
def test_defaults(name: str, eps: float) -> None:
    norm = make(name)
    assert norm.eps == eps
    assert_close(norm(X * 1000)[0].square().mean(), torch.tensor(1.0, dtype=torch.float64))


@pytest.mark.parametrize("name", ["layer_norm", "rms_norm"])
def test_eps_must_be_positive(name: str) -> None:
    with pytest.raises(ConfigError, match=r"^model\.norm\.eps=0\.0 is out of range: it must be at least 1e-30$"):
        make(name, eps=0)
