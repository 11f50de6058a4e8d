"""A training runs at both ends of the ranges of its numbers."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from nmt.overrides import hints_of, without_none
from nmt.registry import discover, slots
from nmt.training.options import TrainOptions

discover()

APART = {
    "train.max_updates": "ends the training",
    "train.max_epochs": "ends the training",
    "batch.max_tokens": "leaves out all pairs",
    "batch.max_length": "leaves out all pairs, or does not fit the positions",
    "batch.workers": "starts processes",
    "threads": "starts threads",
    "validate.beam": "takes time",
}


def numbers(schema: type, prefix: str) -> Iterator[tuple[str, Any]]:
    """Key and limits of every option that is one number."""
    for item in dataclasses.fields(schema):
        hint, _ = without_none(hints_of(schema)[item.name])
        if dataclasses.is_dataclass(hint):
            yield from numbers(hint, f"{prefix}{item.name}.")  # type: ignore[arg-type]
        elif hint in (int, float) and f"{prefix}{item.name}" not in APART:
            yield f"{prefix}{item.name}", item.metadata


def at_end(end: str, optimizer: str, schedule: str) -> list[str]:
    words = [f"optimizer={optimizer}", f"schedule={schedule}"]
    found = list(numbers(TrainOptions, ""))
    for slot, name in {"optimizer": optimizer, "schedule": schedule, "criterion": "cross_entropy"}.items():
        found += numbers(slots()[slot].components[name].options, f"{slot}.")
    for key, limits in found:
        low, high = limits["minimum"], limits["maximum"]
        low = 1e-9 if low is None else low
        high = math.nextafter(limits["below"], 0) if high is None else high
        words.append(f"{key}={low if end == 'low' else high}")
    return words


@pytest.mark.parametrize(("optimizer", "schedule"), [("adam", "inverse_sqrt"), ("adamw", "cosine")])
@pytest.mark.parametrize("end", ["low", "high"])
def test_a_training_at_the_ends(end: str, optimizer: str, schedule: str, train, read_metrics, tmp_path: Path) -> None:
    words = at_end(end, optimizer, schedule)
    assert len(words) > 20
    train(*words, f"run={tmp_path}/run", "train.max_updates=2", "validate.beam=1")
    losses = [line["loss"] for line in read_metrics(tmp_path / "run", "valid")]
    assert losses
    assert all(map(math.isfinite, losses))
