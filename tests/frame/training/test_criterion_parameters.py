"""A criterion's own parameters are trained, kept and resumed; what it only uses stays as it is."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from torch.testing import assert_close

from nmt.checkpoints.checkpoint import load_model
from nmt.config import DataError
from nmt.models.frozen import Frozen
from nmt.models.mode import evaluating
from nmt.models.tensors import model_tensors
from nmt.parallel.ranks import Ranks
from nmt.parallel.replicas import NORMALISER, Replicas
from nmt.training.resume import restore_newest
from nmt.training.trainer import Trainer

HINTED = ["plugins=[hinted]", "criterion.name=hinted", "train.ema=0.9", "model.dropout=0.1", "validate.every=2"]


@pytest.fixture(autouse=True)
def hinted(plugin) -> None:
    plugin("hinted")


def parts(trainer: Trainer) -> dict[str, Any]:
    tensors = {f"model.{name}": tensor for name, tensor in trainer.parallel.tensors().items()}
    tensors |= {f"criterion.{name}": tensor for name, tensor in model_tensors(trainer.criterion).items()}
    return {name: tensor.clone() for name, tensor in tensors.items()}


def test_they_are_trained_and_resumed_bit_for_bit(make_trainer, train, tmp_path: Path) -> None:
    fresh = parts(make_trainer(f"run={tmp_path / 'fresh'}", "train.max_updates=6", *HINTED))
    whole = parts(train(f"run={tmp_path / 'whole'}", "train.max_updates=6", *HINTED))
    train(f"run={tmp_path / 'parts'}", "train.max_updates=3", *HINTED)
    resumed = parts(train(f"run={tmp_path / 'parts'}", "train.max_updates=6", *HINTED))
    assert_close(resumed, whole, rtol=0, atol=0)
    assert whole["criterion.passes"] == 6
    changed = {name for name, tensor in whole.items() if not torch.equal(tensor, fresh[name])}
    assert {"criterion.project.weight", "criterion.project.bias"} <= changed
    assert not changed & {"criterion.held.1.weight", "criterion.held.1.bias"}


def test_gradients_do_not_add_up_over_updates(make_trainer, tmp_path: Path) -> None:
    trainer = make_trainer(f"run={tmp_path / 'run'}", "train.max_updates=6", *HINTED)
    for batch in list(trainer.batches.epoch(1))[:2]:
        trainer.updater([batch], 0.0, rounds=1)
        assert all(parameter.grad is None for parameter in trainer.criterion.parameters())


def test_the_model_that_is_saved_has_none_of_them(train, tmp_path: Path) -> None:
    trainer = train(f"run={tmp_path / 'run'}", "train.max_updates=3", *HINTED)
    saved = load_model(tmp_path / "run", plugins=["hinted"]).model
    assert model_tensors(saved).keys() == trainer.parallel.tensors().keys()


def test_state_of_another_criterion_is_refused(train, make_trainer, tmp_path: Path) -> None:
    run = f"run={tmp_path / 'run'}"
    train(run, "train.max_updates=3", *HINTED)
    other = make_trainer(run, "train.max_updates=3", *HINTED)
    other.learner.criterion.project = nn.Linear(3, 3)
    with pytest.raises(
        DataError, match=r"training\.safetensors: criterion\.project\.weight has shape \(\d+, \d+\), the model"
    ):
        restore_newest(other.learner, other.store, other.ranks)


def test_modes_come_back_as_they_were(train, tmp_path: Path) -> None:
    """A part that is kept in evaluation mode within one that is trained stays there."""
    criterion = train(f"run={tmp_path / 'run'}", "train.max_updates=3", *HINTED).criterion
    assert criterion.training
    assert criterion.dropout.training
    assert not any(part.training for part in criterion.held.modules())
    assert not any(part.training for part in criterion.teacher.module.modules())
    with evaluating(criterion):
        assert not criterion.dropout.training
    assert criterion.dropout.training
    with pytest.raises(RuntimeError), evaluating(criterion):
        criterion.dropout(torch.ones(1).view(2))
    assert criterion.dropout.training


def test_frozen_is_no_part_of_its_holder() -> None:
    holder, module = nn.Module(), nn.Sequential(nn.Linear(2, 2), nn.Dropout(0.5))
    holder.teacher = Frozen(module)
    assert list(holder.parameters()) == []
    assert holder.state_dict() == {}
    holder.train()
    x = torch.ones(1, 2, requires_grad=True)
    assert not holder.teacher(x).requires_grad
    assert torch.equal(holder.teacher(x), module[0](x))


def test_frozen_goes_where_its_input_is() -> None:
    """A criterion is built on the CPU, and the batches may come on a GPU; the meta device stands for one here."""
    frozen = Frozen(nn.Linear(2, 3))
    assert frozen(torch.ones(1, 2)).device.type == "cpu"
    assert frozen(torch.ones(1, 2, device="meta")).device.type == "meta"
    assert frozen.module.weight.device.type == "meta"


class TwoAlike(Ranks):
    """Two processes with the same figures."""

    def __init__(self) -> None:
        super().__init__(0, 2)

    def sum(self, values: Any) -> list[float]:
        return [2 * value for value in values]

    def all_reduce(self, tensor: torch.Tensor) -> None:
        tensor *= 2


def test_their_gradients_are_summed_over_processes() -> None:
    beside = nn.Parameter(torch.zeros(2))
    replicas = Replicas(nn.Linear(1, 1), TwoAlike(), torch.device("cpu"), [beside])  # type: ignore[arg-type]
    beside.grad = torch.tensor([1.0, 2.0])
    assert replicas.parameters[-1] is beside
    assert replicas.reduce(4, False) == (8, False)
    assert torch.equal(beside.grad, torch.tensor([2.0, 4.0]) * NORMALISER / 8)
    replicas.zero_grad()
    assert beside.grad is None
