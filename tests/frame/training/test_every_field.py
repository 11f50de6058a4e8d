"""A run goes on with all that training changes: a state in which nothing has its initial value comes back whole."""

from __future__ import annotations

import copy
import dataclasses
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor

from nmt.models.tensors import model_tensors
from nmt.training.resume import restore_newest
from nmt.training.trainer import Trainer
from nmt.training.training_state import Learner, Progress
from nmt.training.window import Window

OVERRIDES = [
    "train.precision=fp16",
    "train.ema=0.9",
    "train.max_updates=3",
    "model.dropout=0.1",
    "model.output.name=adaptive",  # has a buffer
    "model.embedding.share=none",
    "plugins=[hinted]",
    "criterion.name=hinted",  # has parameters and a buffer
]


@pytest.fixture(autouse=True)
def hinted(plugin) -> None:
    plugin("hinted")


def leaves(value: Any, path: str = "") -> dict[str, Any]:
    """Everything in a tree of dicts, lists and dataclasses, by its path."""
    if dataclasses.is_dataclass(value):
        value = dataclasses.asdict(value)
    if isinstance(value, dict | list | tuple):
        children = value.items() if isinstance(value, dict) else enumerate(value)
        return {name: leaf for key, child in children for name, leaf in leaves(child, f"{path}.{key}").items()}
    return {path.removeprefix("."): value}


def state(trainer: Trainer) -> dict[str, Any]:
    """Copies of all that a learner holds, and of the random numbers."""
    learner = trainer.learner
    assert [item.name for item in dataclasses.fields(Learner)] == [
        "parallel", "criterion", "callbacks", "optimizer", "scaler", "average", "progress",
    ], "a new part of the learner: this test must look at it too"  # fmt: skip
    parts = {
        "model": trainer.parallel.tensors(),
        "criterion": {n: p for n, p in model_tensors(learner.criterion).items() if not n.startswith("held.")},
        "optimizer": learner.optimizer.state_dict(),
        "scaler": learner.scaler.state_dict(),
        "average": learner.average.average,
        "progress": learner.progress,
        "random": torch.get_rng_state(),
    }
    return copy.deepcopy(leaves(parts))


def alike(one: Any, other: Any) -> bool:
    if isinstance(one, Tensor) and isinstance(other, Tensor):
        return one.dtype == other.dtype and torch.equal(one, other)
    return type(one) is type(other) and one == other


def change_everything(trainer: Trainer) -> None:
    """Give a value of its own to whatever a few updates left as it was."""
    learner = trainer.learner
    with torch.no_grad():
        of_criterion = [p for p in learner.criterion.parameters() if p.requires_grad]
        for tensor in [*trainer.model.parameters(), *of_criterion, *learner.average.average]:
            tensor += 0.1 * torch.randn_like(tensor)
        for values in learner.optimizer.state.values():
            for tensor in values.values():
                tensor += torch.rand_like(tensor)
    for group in learner.optimizer.param_groups:
        group.update({name: 0.5 * value + 0.1 for name, value in group.items() if type(value) is float})
        group["betas"] = (0.7, 0.8)
    learner.scaler.load_state_dict({name: 2 * value + 3 for name, value in learner.scaler.state_dict().items()})
    learner.progress = Progress(
        update=3, epoch=2, batch=4, ranking=[(2.5, "update-00000003")], best=2.5, without_better=1, validated_at=3,
        skipped=5, skipped_in_a_row=2, seconds=7.5, finished=True,
    )  # fmt: skip
    trainer.window = Window({"nll": 1.5}, {"figure": 2.5}, 11, 12, 13, 14.5, 15.5)
    trainer.log = SimpleNamespace(sync=lambda: None, lines=6)


def test_every_field_comes_back(train, make_trainer, tmp_path: Path) -> None:
    trainer = train(f"run={tmp_path / 'run'}", *OVERRIDES)
    change_everything(trainer)
    trainer._save()
    saved = state(trainer)

    other = make_trainer(f"run={tmp_path / 'run'}", *OVERRIDES)
    initial = state(other)
    switches = {path for path, value in saved.items() if value is None or isinstance(value, bool)}
    numbers = {path for path in saved if path.startswith("optimizer.param_groups.0.params.")}
    same = {path for path, value in saved.items() if path in initial and alike(value, initial[path])}
    assert same <= switches | numbers, "these have their initial value: nothing would show that they come back"

    restore_newest(other.learner, other.store, other.ranks)
    restored = state(other)
    assert restored.keys() == saved.keys()
    assert not [path for path, value in saved.items() if not alike(value, restored[path])]


@pytest.mark.parametrize("precision", ["bf16", "fp16"])
def test_master_weights_moments_and_average_are_float32(precision: str, train, tmp_path: Path) -> None:
    trainer = train(f"run={tmp_path / 'run'}", *OVERRIDES, f"train.precision={precision}")
    found = {path: leaf.dtype for path, leaf in state(trainer).items() if isinstance(leaf, Tensor)}
    floating = {path: dtype for path, dtype in found.items() if dtype.is_floating_point}
    assert set(floating.values()) == {torch.float32}
    assert {path.partition(".")[0] for path in floating} == {"model", "criterion", "optimizer", "average"}
