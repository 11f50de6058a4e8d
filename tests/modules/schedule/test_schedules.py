"""Learning rates by hand."""

from __future__ import annotations

import math
from typing import Any

import pytest

from nmt.config import ConfigError
from nmt.registry import build, discover, slots
from nmt.training.interfaces import Schedule

discover()


def make(name: str, total: int | None = 20, **options: Any) -> Schedule:
    return build("schedule", {"name": name, **options}, key="schedule", total_updates=total)


RISE = {1: 0.25, 2: 0.5, 3: 0.75, 4: 1.0}  # with 4 updates of warm-up


@pytest.mark.parametrize(
    ("name", "options", "expected"),
    [
        ("inverse_sqrt", {}, {**RISE, 16: 0.5, 64: 0.25, 400: 0.1}),
        ("linear", {}, {**RISE, 8: 0.75, 12: 0.5, 20: 0.0, 30: 0.0}),
        ("linear", {"final_factor": 0.2}, {**RISE, 8: 0.8, 12: 0.6, 20: 0.2, 30: 0.2}),
        ("cosine", {}, {**RISE, 8: (1 + math.sqrt(0.5)) / 2, 12: 0.5, 20: 0.0, 30: 0.0}),
        ("cosine", {"final_factor": 0.5}, {**RISE, 12: 0.75, 20: 0.5}),
    ],
)
def test_factors_by_hand(name: str, options: dict[str, float], expected: dict[int, float]) -> None:
    schedule = make(name, warmup_updates=4, **options)
    assert {update: schedule.factor(update) for update in expected} == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize("name", slots()["schedule"].components)
def test_without_warm_up_it_starts_at_the_peak(name: str) -> None:
    factors = [make(name, warmup_updates=0).factor(update) for update in range(1, 25)]
    assert factors[0] == 1.0
    assert factors == sorted(factors, reverse=True)


@pytest.mark.parametrize("name", ["linear", "cosine"])
def test_an_end_is_needed(name: str) -> None:
    with pytest.raises(ConfigError, match=r"needs an end: give train\.max_updates or train\.max_epochs"):
        make(name, total=None)
    assert make(name).uses_total


def test_inverse_sqrt_needs_no_end() -> None:
    schedule = make("inverse_sqrt", total=None)
    assert not schedule.uses_total
    assert schedule.factor(4000) == 1.0
