"""Dropout with cheap random numbers: rate, scale, independence, and a backward pass with the same mask."""

from __future__ import annotations

from math import sqrt

import pytest
import torch
from torch.testing import assert_close

from nmt.models.dropout import LEVELS, Dropout

COUNT = 200_000


@pytest.mark.parametrize("p", [0.01, 0.1, 0.3, 0.5, 0.9])
def test_rate_and_scale(p: float) -> None:
    got = Dropout(p)(torch.ones(COUNT))
    kept = got != 0
    assert abs(kept.double().mean().item() - (1 - p)) < 4 * sqrt(p * (1 - p) / COUNT)
    assert_close(got[kept], torch.full_like(got[kept], 1 / (1 - p)), rtol=2e-4, atol=0)  # p is rounded to 2^-16


def test_expectation_is_exact_for_the_rounded_rate() -> None:
    """Scale x keep rate is 1 to the last bit of the rate that is drawn: 13,107 of 65,536 at p = 0.2."""
    scale = Dropout(0.2)(torch.ones(100, dtype=torch.float64)).max().item()
    assert scale * (LEVELS - 13107) / LEVELS == pytest.approx(1, abs=1e-15)


def test_each_value_is_drawn_by_itself() -> None:
    """One random number serves four neighbours: they must not fall together."""
    kept = (Dropout(0.5)(torch.ones(COUNT, 4)) != 0).double()
    correlation = torch.corrcoef(kept.t()) - torch.eye(4)
    assert correlation.abs().max() < 5 / sqrt(COUNT)
    assert (kept.mean(0) - 0.5).abs().max() < 4 * 0.5 / sqrt(COUNT)


@pytest.mark.parametrize("shape", [(1,), (3,), (2, 3, 5), (0, 4)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16], ids=str)
def test_shape_and_dtype(shape: tuple[int, ...], dtype: torch.dtype) -> None:
    got = Dropout(0.5)(torch.ones(shape, dtype=dtype))
    assert (got.shape, got.dtype) == (shape, dtype)


def test_other_strides() -> None:
    x = torch.arange(1.0, 13.0).view(3, 4).t()
    got = Dropout(0.5)(x)
    assert_close(got[got != 0], 2 * x[got != 0])


def test_backward_uses_the_same_mask() -> None:
    x = torch.randn(1000, requires_grad=True)
    got = Dropout(0.3)(x)
    got.backward(torch.full_like(x, 3.0))
    assert_close(x.grad, torch.where(got != 0, 3 * got / x, 0.0).detach(), rtol=1e-4, atol=1e-6)


def test_same_seed_same_mask() -> None:
    runs = []
    for seed in (1, 1, 2):
        torch.manual_seed(seed)
        runs.append(Dropout(0.5)(torch.ones(64)))
    assert torch.equal(runs[0], runs[1])
    assert not torch.equal(runs[0], runs[2])


@pytest.mark.parametrize("off", ["eval", "p=0"])
def test_off_it_returns_its_input_and_draws_nothing(off: str) -> None:
    module = Dropout(0.0) if off == "p=0" else Dropout(0.5).eval()
    x, before = torch.randn(3), torch.get_rng_state()
    assert module(x) is x
    assert torch.equal(torch.get_rng_state(), before)


def test_nearly_one_is_finite() -> None:
    assert Dropout(1 - 1e-9)(torch.ones(1000)).isfinite().all()


def test_shows_its_rate() -> None:
    assert repr(Dropout(0.1)) == "Dropout(p=0.1)"
