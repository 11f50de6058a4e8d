"""Callbacks act where they say, and a training that has any goes on bit for bit."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch.testing import assert_close

from nmt.checkpoints.checkpoint import load_model
from nmt.config import ConfigError
from nmt.models.tensors import model_tensors
from nmt.registry import slots
from nmt.training.trainer import Trainer

SHORT = ["model.dropout=0.1", "train.ema=0.8", "validate.every=2", "optimizer.lr=0.01"]
PRUNED = ["plugins=[pruned]", "callbacks=[{name: pruned, sparsity: 0.5, until: 4}]"]
BUILT_IN = {"freeze": "{name: freeze, parameters: [encoder.*], until: 3}"}


@pytest.fixture(autouse=True)
def pruned(plugin) -> None:
    plugin("pruned")


def parts(trainer: Trainer) -> dict[str, Any]:
    tensors = {f"model.{name}": t for name, t in trainer.parallel.tensors().items()}
    tensors |= {f"callbacks.{name}": t for name, t in model_tensors(trainer.callbacks).items()}
    tensors |= {f"average.{i}": t for i, t in enumerate(trainer.learner.average.average)}
    return {name: tensor.clone() for name, tensor in tensors.items()}


def test_every_callback_is_tried_here() -> None:
    assert BUILT_IN.keys() == slots()["callback"].components.keys() - {"pruned"}


@pytest.mark.parametrize(
    "nodes",
    [
        *BUILT_IN.values(),
        "{name: pruned, sparsity: 0.5, until: 5}",
        "{name: pruned, rewind: 4}",
        "{name: pruned, pull: 0.1}, {name: freeze, parameters: [decoder.*]}",
    ],
)
def test_a_training_with_callbacks_goes_on_bit_for_bit(nodes: str, train, read_metrics, tmp_path: Path) -> None:
    given = [*SHORT, "plugins=[pruned]", f"callbacks=[{nodes}]"]
    plain = parts(train(f"run={tmp_path / 'plain'}", "train.max_updates=6", *SHORT))
    whole = parts(train(f"run={tmp_path / 'whole'}", "train.max_updates=6", *given))
    for updates in (2, 3, 6):
        resumed = parts(train(f"run={tmp_path / 'parts'}", f"train.max_updates={updates}", *given))
    assert_close(resumed, whole, rtol=0, atol=0)
    assert any(not torch.equal(tensor, whole[name]) for name, tensor in plain.items()), "the callback did nothing"
    losses = [[line["loss"] for line in read_metrics(tmp_path / run, "valid")] for run in ("whole", "parts")]
    assert losses[1][-1] == losses[0][-1]


def test_constraints_hold_for_the_weights_and_for_what_is_saved(train, tmp_path: Path) -> None:
    """The moving average of a weight that became zero is zero, not only small."""
    trainer = train(f"run={tmp_path / 'run'}", "train.max_updates=6", *SHORT, *PRUNED)
    saved = load_model(tmp_path / "run" / "checkpoints" / "last", plugins=["pruned"]).model
    callback = trainer.callbacks[0]
    for index, name in enumerate(callback.names):
        mask = callback.get_buffer(f"mask{index}")
        assert int((~mask).sum()) == round(0.5 * mask.numel())
        for model in (trainer.model, saved):
            assert torch.equal(model.get_parameter(name) != 0, mask)
    assert model_tensors(saved).keys() == trainer.parallel.tensors().keys()


def test_updates_are_counted_from_one(make_trainer, tmp_path: Path) -> None:
    """The cubic schedule of the plug-in, by hand."""
    trainer = make_trainer(f"run={tmp_path / 'run'}", "train.max_updates=6", *SHORT, *PRUNED)
    shares = []
    for update, batch in enumerate(list(trainer.batches.epoch(1))[:5]):
        trainer.learner.progress.update = update
        trainer.updater([batch], 0.01, rounds=1)
        masks = [buffer for name, buffer in trainer.callbacks.named_buffers() if ".mask" in name]
        shares.append(1 - sum(int(m.sum()) for m in masks) / sum(m.numel() for m in masks))
    expected = [0.5 * (1 - (1 - step / 4) ** 3) for step in (1, 2, 3, 4)] + [0.5]
    assert shares == pytest.approx(expected, abs=2e-3)


def test_terms_are_part_of_the_loss_a_token(make_trainer, tmp_path: Path) -> None:
    """Their gradient is added to that of the mean loss a token, over batches of different sizes."""
    nodes = "callbacks=[{name: pruned, sparsity: 0, pull: 0.1}]"
    one, other = (
        make_trainer(f"run={tmp_path / name}", "train.max_updates=2", "model.dropout=0", "plugins=[pruned]", *more)
        for name, more in (("with", [nodes]), ("without", []))
    )
    batches = list(one.batches.epoch(1))[:2]
    for trainer in (one, other):
        trainer.model.train()
        for batch in batches:
            _, figures = trainer.updater._backward(batch, sum(b.num_tokens for b in batches))
        assert ("pull" in figures) == (trainer is one)
    for name in one.callbacks[0].names:
        weight, gradient = one.model.get_parameter(name), other.model.get_parameter(name).grad
        assert_close(weight.grad, gradient + 0.2 * weight.detach(), rtol=1e-4, atol=1e-6)


def test_frozen_weights_stay_and_then_learn(make_trainer, tmp_path: Path) -> None:
    nodes = f"callbacks=[{BUILT_IN['freeze']}]"
    trainer = make_trainer(f"run={tmp_path / 'run'}", "train.max_updates=4", nodes)
    before = parts(trainer)
    for update, batch in enumerate(list(trainer.batches.epoch(1))[:4]):
        trainer.learner.progress.update = update
        trainer.updater([batch], 0.01, rounds=1)
        moved = {n for n, t in parts(trainer).items() if n.startswith("model.") and not torch.equal(t, before[n])}
        assert any(name.startswith("model.decoder.") for name in moved)
        assert any(name.startswith("model.encoder.") for name in moved) == (update == 3)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ("[{name: freze}]", r"^callbacks\.0\.name='freze' is not a registered callback; .*'freeze'"),
        ("[{name: freeze}]", r"^callbacks: freeze needs parameters="),
        ("[{name: freeze, parameters: [encode.*]}]", r"^callbacks: freeze\.parameters=encode\.\* names no parameter"),
        ("[{name: freeze, parameters: ['*']}]", r"^callbacks: freeze\.parameters names all of the model"),
        ("[{name: freeze, until: 0}]", r"^callbacks\.0\.until=0 is out of range"),
        ("[freeze]", r"^callbacks\.0=freeze must be a group of keys"),
    ],
)
def test_mistakes_are_named(given: str, message: str, make_trainer, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=message):
        make_trainer(f"run={tmp_path / 'run'}", "train.max_updates=1", f"callbacks={given}")


@pytest.mark.parametrize("parallel", ["shard", "experts"])
def test_what_needs_the_whole_model_says_so(parallel: str, make_trainer, tmp_path: Path) -> None:
    given = [f"callbacks=[{BUILT_IN['freeze']}]", f"train.parallel={parallel}"]
    with pytest.raises(ConfigError, match=rf"^callbacks\.0\.name=freeze needs the whole model .*parallel={parallel}; "):
        make_trainer(f"run={tmp_path / 'run'}", "train.max_updates=1", *given)
