"""The moving average, by hand."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from nmt.training.ema import MovingAverage


def model_of(value: float) -> nn.Module:
    model = nn.Linear(1, 1, bias=False)
    nn.init.constant_(model.weight, value)
    return model


def test_decay_grows_up_to_its_limit() -> None:
    """Decays min(0.5, (1 + n) / (10 + n)) of updates 1 to 20: 2/11, 3/12, 4/13, ..., and 0.5 from update 8 on."""
    model = model_of(0.0)
    average = MovingAverage(model.parameters(), 0.5)
    expected = 0.0
    for update in range(1, 21):
        nn.init.constant_(model.weight, float(update))
        average.update(update)
        decay = min(0.5, (1 + update) / (10 + update))
        expected = decay * expected + (1 - decay) * update
    assert average.average[0].item() == pytest.approx(expected)
    first = MovingAverage(model_of(0.0).parameters(), 0.5)
    first.parameters[0].fill_(11.0)
    first.update(1)
    assert first.average[0].item() == pytest.approx(9.0)  # 2/11 of 0 + 9/11 of 11


def test_applied_swaps_the_weights_and_gives_them_back() -> None:
    model = model_of(4.0)
    average = MovingAverage(model.parameters(), 0.9)
    average.average[0].fill_(1.0)
    with average.applied():
        assert model.weight.item() == 1.0
    assert model.weight.item() == 4.0
    assert average.average[0].item() == 1.0

    def fail() -> None:
        with average.applied():
            raise RuntimeError("inside")

    with pytest.raises(RuntimeError, match="inside"):
        fail()
    assert model.weight.item() == 4.0


def test_off_it_keeps_nothing() -> None:
    model = model_of(4.0)
    average = MovingAverage(model.parameters(), 0.0)
    average.update(1)
    assert average.average == []
    with average.applied():
        assert model.weight.item() == 4.0


def test_average_is_no_alias_of_the_weights() -> None:
    model = model_of(4.0)
    average = MovingAverage(model.parameters(), 0.9)
    with torch.no_grad():
        model.weight.fill_(5.0)
    assert average.average[0].item() == 4.0
