"""Training that starts from the weights of a checkpoint."""

from __future__ import annotations

import json
import logging
import shutil
from pathlib import Path

import pytest
import torch

from nmt.checkpoints.checkpoint import load_model
from nmt.config import ConfigError
from nmt.models.tensors import model_tensors

SHARED = [
    "model.decoder.self_attention={name: shared, policy: [2]}",
    "model.decoder.cross_attention={name: shared, policy: [2], share: weights}",
]


def test_equal_model_takes_everything(run: Path, make_trainer, tmp_path: Path, caplog) -> None:
    """The weights, not the state of the training."""
    caplog.set_level(logging.INFO)
    trainer = make_trainer(f"run={tmp_path / 'new'}", "train.max_updates=1", f"init_from={run}", "seed=7")
    expected = model_tensors(load_model(run).model)
    for name, tensor in model_tensors(trainer.model).items():
        assert torch.equal(tensor, expected[name]), name
    assert trainer.learner.progress.update == 0
    assert not trainer.learner.optimizer.state
    [line] = [r.message for r in caplog.records if r.message.startswith("weights from")]
    found = f"{len(expected)} tensors taken, 0 converted, 0 left new; 0 of the checkpoint left over"
    assert line == f"weights from {run / 'checkpoints/best'}: {found}"


def test_shared_attention_takes_its_part(run: Path, make_trainer, tmp_path: Path, caplog) -> None:
    caplog.set_level(logging.INFO)
    old = model_tensors(load_model(run).model)
    trainer = make_trainer(f"run={tmp_path / 'new'}", "train.max_updates=1", f"init_from={run}", *SHARED)
    new = model_tensors(trainer.model)
    layer = "decoder.stack.layers.1"
    for kind in ("weight", "bias"):
        for slot, fused, part in (("self_attention", "qkv", 3), ("cross_attention", "kv", 2)):
            values = old[f"{layer}.{slot}.{fused}.{kind}"].chunk(part)[-1]
            assert torch.equal(new[f"{layer}.{slot}.v.{kind}"], values)
    assert all(torch.equal(new[name], old[name]) for name in new.keys() & old.keys())
    [line] = [r.message for r in caplog.records if r.message.startswith("weights from")]
    assert f"{len(new) - 4} tensors taken, 4 converted, 0 left new; 2 of the checkpoint left over" in line
    assert f"({layer}.around_cross.norm.bias, {layer}.around_cross.norm.weight)" in line


@pytest.mark.parametrize(
    ("override", "shown"),
    [
        ("model.decoder.num_heads=4", "model.decoder.num_heads: 2 there, 4 here"),
        ("model.norm.eps=0.1", "model.norm.eps: 1e-05 there, 0.1 here"),
        ("model.decoder.feed_forward.activation=gelu", "model.decoder.feed_forward.activation: relu there, gelu here"),
    ],
)
def test_what_differs_although_it_fits_is_said(
    override: str, shown: str, run: Path, make_trainer, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    make_trainer(f"run={tmp_path / 'new'}", "train.max_updates=1", f"init_from={run}", override)
    found = [record for record in caplog.records if "another one" in record.message]
    expected = f"init_from={run}: its model is another one, and what fits was taken as it is ({shown})"
    assert [(record.levelname, record.message) for record in found] == [("WARNING", expected)]
    [line] = [record.message for record in caplog.records if record.message.startswith("weights from")]
    assert "0 converted, 0 left new; 0 of the checkpoint left over" in line


def test_what_does_not_fit_stays_new(run: Path, make_trainer, tmp_path: Path, caplog) -> None:
    caplog.set_level(logging.INFO)
    overrides = ["model.decoder.layers=3", "model.encoder.layers=1", "model.decoder.ffn_dim=20"]
    fresh = model_tensors(make_trainer(f"run={tmp_path / 'a'}", "train.max_updates=1", *overrides).model)
    trainer = make_trainer(f"run={tmp_path / 'b'}", "train.max_updates=1", *overrides, f"init_from={run}")
    new, old = model_tensors(trainer.model), model_tensors(load_model(run).model)
    for name, tensor in new.items():
        fits = name in old and old[name].shape == tensor.shape
        assert torch.equal(tensor, (old if fits else fresh)[name]), name
    [line] = [r.message for r in caplog.records if r.message.startswith("weights from")]
    assert "0 converted" in line
    assert "left new (decoder.stack.layers.0.feed_forward." in line
    assert "left over (decoder.stack.layers.0.feed_forward." in line


@pytest.mark.parametrize("name", ["multihead", "shared"])
def test_blocks_of_one_begin_with_the_same_loss(name: str, run: Path, make_trainer, tmp_path: Path) -> None:
    policy = ", policy: [1, 1]" if name == "shared" else ""
    slots = [f"model.decoder.{slot}={{name: {name}{policy}}}" for slot in ("self_attention", "cross_attention")]
    trainer = make_trainer(f"run={tmp_path / 'new'}", "train.max_updates=1", f"init_from={run}", *slots)
    model = load_model(run).model
    batch = next(iter(trainer.batches.epoch(1)))
    with torch.no_grad():
        losses = [trainer.criterion(m.eval(), batch).sums["nll"] for m in (model, trainer.model)]
    assert losses[0] == losses[1]


def test_going_on_does_not_read_it_again(run: Path, train, tmp_path: Path) -> None:
    """The first weights may be gone by then; the run knows where it came from."""
    first = shutil.copytree(run, tmp_path / "first")
    overrides = [f"run={tmp_path / 'new'}", f"init_from={first}", "checkpoints.every=1"]
    train(*overrides, "train.max_updates=2")
    shutil.rmtree(first)
    assert train(*overrides, "train.max_updates=3").learner.progress.update == 3
    entries = json.loads((tmp_path / "new/manifest.json").read_text(encoding="utf-8"))
    assert [entry["init_from"]["path"] for entry in entries] == [str(first)] * 2
    assert f"init_from: {first}" in (tmp_path / "new/config.yaml").read_text(encoding="utf-8")


def test_mistakes(run: Path, make_trainer, make_corpus, tmp_path: Path) -> None:
    def message(*overrides: str) -> str:
        with pytest.raises(ConfigError) as caught:
            make_trainer(f"run={tmp_path / 'new'}", "train.max_updates=1", *overrides)
        return str(caught.value)

    assert message(f"init_from={tmp_path}/none").startswith(f"init_from={tmp_path}/none: no such folder")
    assert message(f"init_from={tmp_path}").startswith(f"init_from={tmp_path}: neither a checkpoint")
    other = make_corpus(vocab_size=20)
    said = message(f"init_from={run}", f"corpus={other}")
    assert said == f"init_from={run}: was trained with another vocabulary than that of the corpus"
    widths = [f"model.{side}.{key}" for side in ("encoder", "decoder") for key in ("embed_dim=12", "ffn_dim=20")]
    said = message(f"init_from={run}", *widths)
    assert said == f"init_from={run}: no tensor of it fits the model; leave init_from out, or choose another"
    assert not (tmp_path / "new").exists()
