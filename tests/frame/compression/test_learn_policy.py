"""From a trained model to one that shares: measure, choose, write, train on."""

from __future__ import annotations

import json
import shlex
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from omegaconf import OmegaConf

from nmt.checkpoints.checkpoint import load_model
from nmt.checkpoints.differences import flatten
from nmt.compression.learn_policy import learn_policy
from nmt.compression.retrain import train_command
from nmt.compression.similarity_options import SimilarityOptions
from nmt.config import ConfigError, compose, parse_options
from nmt.registry import find
from nmt.training.options import TrainOptions
from nmt.training.trainer import Trainer


@pytest.fixture(scope="module")
def baseline(train, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model of 2 + 3 layers after a few updates."""
    folder = tmp_path_factory.mktemp("runs") / "baseline"
    train(f"run={folder}", "train.max_updates=4", "model.decoder.layers=3", "optimizer.lr=2e-3")
    return folder


@pytest.fixture
def measure(composed) -> Callable[..., str]:
    """``measure("out=x", ...)``: the report."""
    return lambda *overrides: learn_policy(
        parse_options(SimilarityOptions, composed("similarity", ["device=cpu", *overrides]))
    )


def shared_keys(report: str) -> list[str]:
    """The overrides of the printed command that set attention."""
    words = shlex.split(report.splitlines()[-1])
    assert words[0] == "nmt-train"
    return [word for word in words if word.startswith("model.") and "attention" in word]


def test_train_measure_and_train_on(measure, baseline: Path, digits: Path, train, tmp_path: Path, read_metrics) -> None:
    """Layers that learned little are alike: everything is shared. The printed command starts from the old weights."""
    out = tmp_path / "results" / "similarity"
    report = measure(
        f"checkpoint={baseline}", f"corpus={digits}", f"out={out}", "theta_encoder=0.1", f"run={tmp_path}/run"
    )
    assert report.startswith("model.encoder.self_attention: self-attention of the encoder, mean similarity over ")
    assert "policy above 0.5: [3]" in report
    assert shared_keys(report) == [
        "model.encoder.self_attention.name=shared",
        "model.encoder.self_attention.policy=[2]",
        "model.decoder.self_attention.name=shared",
        "model.decoder.self_attention.policy=[3]",
        "model.decoder.cross_attention.name=shared",
        "model.decoder.cross_attention.policy=[3]",
    ]
    results = json.loads((out / "similarity.json").read_text(encoding="utf-8"))
    assert {"command", "versions", "git", "time", "checkpoint", "corpus", "split"} <= results.keys()
    assert results["train_command"] == report.splitlines()[-1]
    assert results["sentences"] == 20
    for key, slot in results["slots"].items():
        matrix = torch.tensor(slot["similarity"])
        assert slot["policy"] == [2 if "encoder" in key else 3]
        assert torch.equal(matrix, matrix.t())
        assert matrix.diagonal().tolist() == [1.0] * len(matrix)
    assert (out / "similarity.png").read_bytes().startswith(b"\x89PNG")

    words = shlex.split(results["train_command"])[1:]
    config = compose("train", words)
    before = flatten(OmegaConf.to_container(load_model(baseline).config, resolve=True))
    after = flatten(OmegaConf.to_container(config, resolve=True))
    different = {k for k in before.keys() | after.keys() if before.get(k) != after.get(k)}
    assert {k.split(".")[0] for k in different} == {"run", "init_from", "checkpoint", "model"}
    assert all("attention" in k for k in different if k.startswith("model"))

    config = compose("train", [*words, "train.max_updates=6"])
    trainer = Trainer(parse_options(TrainOptions, config), config)
    trainer.fit()
    lines = read_metrics(tmp_path / "run")
    assert len(lines) == 6
    assert lines[0]["loss"] < read_metrics(baseline)[0]["loss"]
    again = measure(f"checkpoint={tmp_path}/run", f"corpus={digits}", f"out={tmp_path}/again")
    assert "policy above 0.5: [3]" in again


def test_policy_file_is_a_preset(measure, baseline: Path, digits: Path, tmp_path: Path) -> None:
    measure(f"checkpoint={baseline}", f"corpus={digits}", f"out={tmp_path}/results/similarity")
    command = [sys.executable, "-m", "nmt.commands.train", "--config-dir", "results", "+similarity=policy"]
    command += ["corpus=x", "run=y", "--cfg", "job", "--package", "model.decoder"]
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, check=False, timeout=120)
    assert done.returncode == 0, done.stderr
    decoder = OmegaConf.create(done.stdout)
    assert decoder.self_attention == {"name": "shared", "policy": [3]}
    assert decoder.cross_attention == {"name": "shared", "policy": [3]}


def test_thresholds_of_one_share_nothing(measure, baseline: Path, digits: Path, tmp_path: Path) -> None:
    given = [f"checkpoint={baseline}", f"corpus={digits}", f"out={tmp_path}/x", "theta_self=1", "theta_cross=1"]
    assert measure(*given).endswith("No layers are alike enough to share.")
    assert "model: {}" in (tmp_path / "x/policy.yaml").read_text(encoding="utf-8")
    measure(*given, "max_sentences=3")  # results of its own are replaced
    assert json.loads((tmp_path / "x/similarity.json").read_text(encoding="utf-8"))["sentences"] == 3


def test_attention_without_weights_is_passed_over(measure, train, digits: Path, tmp_path: Path, monkeypatch) -> None:
    """Stands for averages and recurrences: components whose ``weights`` are None."""
    train(f"run={tmp_path}/run", "train.max_updates=1")
    given = [f"checkpoint={tmp_path}/run", f"corpus={digits}"]
    for slot in ("self_attention", "cross_attention"):
        monkeypatch.setattr(find(slot, "multihead", "k").factory, "weights", lambda *_: None)
        if slot == "self_attention":
            report = measure(*given, f"out={tmp_path}/x")
            assert "model.decoder.self_attention.name=multihead has no attention weights to compare" in report
            assert all("cross_attention" in key for key in shared_keys(report))
    with pytest.raises(ConfigError) as caught:
        measure(*given, f"out={tmp_path}/y")
    assert str(caught.value) == (
        f"checkpoint={tmp_path}/run: there is nothing to compare: no attention of it has weights "
        "(model.encoder.self_attention.name=multihead, model.decoder.self_attention.name=multihead, "
        "model.decoder.cross_attention.name=multihead)"
    )
    assert not (tmp_path / "y").exists()


def test_mistakes(measure, baseline: Path, digits: Path, make_corpus, tmp_path: Path) -> None:
    def message(*overrides: str) -> str:
        given = [f"checkpoint={baseline}", f"corpus={digits}", f"out={tmp_path}/x"]
        with pytest.raises(ConfigError) as caught:
            measure(*given, *overrides)
        return str(caught.value)

    other = make_corpus(vocab_size=20)
    assert message(f"corpus={other}") == (
        f"corpus={other} was prepared with another vocabulary than checkpoint={baseline}"
    )
    assert message(f"out={baseline}").endswith("holds no results of nmt-similarity; choose another folder")
    assert message("split=tset").startswith("split=tset: ")
    assert message("theta_self=1.5") == "theta_self=1.5 is out of range: it must be at most 1"


def test_command_line_keeps_what_was_chosen(tmp_path: Path) -> None:
    """Presets, lists, null and texts that need quotes survive the way through the shell."""
    chosen = ["model=iwslt", "corpus=[data/a,data/b]", "mix=[1.0,2.0]", "run=runs/a", "optimizer=adamw", "seed=5"]
    chosen += ["schedule=linear", "schedule.warmup_updates=7", "train.max_epochs=3", "batch.max_length=null"]
    chosen += ["plugins=[some.module]", "model.decoder.self_attention={name: average, gate: false}"]
    config = compose("train", chosen)
    changes = {"model.decoder.cross_attention.name": "shared", "model.decoder.cross_attention.policy": [2, 4]}
    line = train_command(config, changes, corpus=["data/a", "data/b"], run="runs/it's", init_from="runs/a b")
    words = shlex.split(line)
    got = compose("train", words[1:])
    OmegaConf.update(config, "run", "runs/it's")
    OmegaConf.update(config, "init_from", "runs/a b")
    config.model.decoder.cross_attention = {"name": "shared", "policy": [2, 4]}
    assert OmegaConf.to_container(got) == OmegaConf.to_container(config)
    assert "model=iwslt" in words
    assert len(words) < 25


def test_the_command_quotes_what_needs_it() -> None:
    places: dict[str, Any] = {"corpus": ["a,b", "1.10"], "run": "'x'", "init_from": "null"}
    words = shlex.split(train_command(compose("train", ["corpus=a", "run=b"]), {}, **places))[1:]
    config = compose("train", words)
    assert {key: config[key] for key in places} == places
