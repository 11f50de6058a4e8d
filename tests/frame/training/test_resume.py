"""Stopping and going on: bit for bit what an uninterrupted run computes, wherever and however it stopped."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file
from torch.testing import assert_close

from nmt.config import ConfigError
from nmt.training.trainer import Trainer

UPDATES = 24
"""Of a whole run: between two and three epochs of the digits."""

NOISE = ["model.dropout=0.3", "model.attention_dropout=0.2", "model.activation_dropout=0.2"]
VARIANTS = {
    "plain": ["model.dropout=0"],
    "dropout": NOISE,
    "layer drop": [*NOISE, "model.encoder.stack.layer_drop=0.4", "model.decoder.stack.layer_drop=0.4"],
    "ema": [*NOISE, "train.ema=0.8"],
    "accumulate": [*NOISE, "train.accumulate=3"],
    "adamw": ["optimizer=adamw", "schedule.warmup_updates=10"],
    "random segmentation": [*NOISE, "subword.alpha=0.3"],
    "bf16": [*NOISE, "train.precision=bf16"],
    "fp16": [*NOISE, "train.precision=fp16"],
}


@pytest.fixture(scope="module")
def whole(train, tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """``whole("ema")``: the uninterrupted run of a variant, trained once."""
    runs: dict[str, Path] = {}

    def get(variant: str) -> Path:
        if variant not in runs:
            runs[variant] = tmp_path_factory.mktemp("whole") / "run"
            train(f"run={runs[variant]}", f"train.max_updates={UPDATES}", *VARIANTS[variant])
        return runs[variant]

    return get


def test_figures_of_several_updates_go_on(train, tmp_path: Path, read_metrics) -> None:
    """A line of the log that covers updates of two starts is the one of a single start."""
    overrides = ["train.log_every=4", *NOISE]
    for end in (6, 9, 16):
        train(f"run={tmp_path / 'parts'}", f"train.max_updates={end}", *overrides)
    train(f"run={tmp_path / 'whole'}", "train.max_updates=16", *overrides)
    names = ("update", "loss", "nll", "ppl", "grad_norm", "tokens", "target_padding")
    lines = [[[line[name] for name in names] for line in read_metrics(tmp_path / run)] for run in ("parts", "whole")]
    assert lines[0] == lines[1]
    assert [line[0] for line in lines[0]] == [4, 8, 11, 12, 16]  # update 11 ends the epoch


def assert_same(got: Path, expected: Path, read_metrics) -> None:
    """Same losses at every update, same final weights and optimiser, and no update twice."""
    columns = [
        [(line["update"], line["loss"], line["grad_norm"], line["lr"]) for line in read_metrics(run)]
        for run in (got, expected)
    ]
    assert [row[0] for row in columns[0]] == list(range(1, UPDATES + 1))
    assert columns[0] == columns[1]
    for name in ("model.safetensors", "training.safetensors"):
        tensors = [load_file(run / "checkpoints" / "last" / name) for run in (got, expected)]
        assert_close(tensors[0], tensors[1], rtol=0, atol=0)


@pytest.mark.parametrize("variant", VARIANTS)
def test_longer_and_longer(variant: str, whole, train, tmp_path: Path, read_metrics) -> None:
    """The same command with a later end, twice: from the middle of the first and of the second epoch."""
    for end in (5, 17, UPDATES):
        train(f"run={tmp_path / 'run'}", f"train.max_updates={end}", *VARIANTS[variant])
    assert_same(tmp_path / "run", whole(variant), read_metrics)
    entries = json.loads((tmp_path / "run" / "manifest.json").read_text(encoding="utf-8"))
    assert [entry["update"] for entry in entries] == [0, 5, 17]


def interrupt(trainer: Trainer, update: int, action: Callable[[], Any]) -> None:
    """Do something right after an update."""
    plain = trainer._update

    def run(group: Any) -> Any:
        result = plain(group)
        if trainer.learner.progress.update == update:
            action()
        return result

    trainer._update = run  # type: ignore[method-assign]


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_signal_saves_and_stops(number: int, whole, make_trainer, train, tmp_path: Path, read_metrics) -> None:
    overrides = [f"run={tmp_path / 'run'}", f"train.max_updates={UPDATES}", *VARIANTS["ema"]]
    before = signal.getsignal(number)
    trainer = make_trainer(*overrides)
    interrupt(trainer, 7, lambda: os.kill(os.getpid(), number))
    with pytest.raises(KeyboardInterrupt):
        trainer.fit()
    assert signal.getsignal(number) is before
    assert (tmp_path / "run" / "checkpoints" / "last").resolve().name == "update-00000007"
    train(*overrides)
    assert_same(tmp_path / "run", whole("ema"), read_metrics)


def test_crash_goes_on_from_the_last_save(whole, make_trainer, train, tmp_path: Path, read_metrics) -> None:
    overrides = [f"run={tmp_path / 'run'}", f"train.max_updates={UPDATES}", "checkpoints.every=5", *VARIANTS["dropout"]]
    overrides.append("validate.every=100")  # else the end of the epoch, update 11, is saved too

    def fail() -> None:
        raise RuntimeError("power cut")

    trainer = make_trainer(*overrides)
    interrupt(trainer, 13, fail)
    with pytest.raises(RuntimeError, match="power cut"):
        trainer.fit()
    assert [line["update"] for line in read_metrics(tmp_path / "run")] == [*range(1, 13)]
    train(*overrides)
    assert_same(tmp_path / "run", whole("dropout"), read_metrics)
    entries = json.loads((tmp_path / "run" / "manifest.json").read_text(encoding="utf-8"))
    assert [entry["update"] for entry in entries] == [0, 10]


@pytest.mark.parametrize("every", [1, 4])
def test_saving_and_validating_change_nothing(every: int, whole, train, tmp_path: Path, read_metrics) -> None:
    often = [f"checkpoints.every={every}", f"validate.every={every}", "checkpoints.average=3"]
    train(f"run={tmp_path / 'run'}", f"train.max_updates={UPDATES}", *often, *VARIANTS["ema"])
    assert_same(tmp_path / "run", whole("ema"), read_metrics)


def test_workers_change_nothing(whole, train, tmp_path: Path, read_metrics) -> None:
    """Batches prepared ahead by a process of their own, also for random segmentation."""
    overrides = ["batch.workers=1", *VARIANTS["random segmentation"]]
    train(f"run={tmp_path / 'run'}", f"train.max_updates={UPDATES}", *overrides)
    assert_same(tmp_path / "run", whole("random segmentation"), read_metrics)


# --- what is refused, and what is over --------------------------------------------------------------------------------


def test_another_configuration_is_refused(run: Path, make_trainer) -> None:
    before = {p: p.stat().st_mtime_ns for p in run.rglob("*")}
    with pytest.raises(
        ConfigError, match=r"\(checkpoints\.every: 3 there, None now; .*; model\.dropout: 0\.1 there, 0\.5"
    ):
        make_trainer(f"run={run}", "train.max_updates=12", "model.dropout=0.5")
    assert {p: p.stat().st_mtime_ns for p in run.rglob("*")} == before


def test_a_schedule_with_an_end_cannot_be_extended(train, make_trainer, tmp_path: Path) -> None:
    overrides = [f"run={tmp_path / 'run'}", "schedule=linear"]
    train(*overrides, "train.max_updates=2")
    with pytest.raises(ConfigError, match=r"train\.max_updates: 2 there, 3 now"):
        make_trainer(*overrides, "train.max_updates=3")


def test_finished_run_says_so(train, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    overrides = [f"run={tmp_path / 'run'}", "train.max_updates=2", "checkpoints.average=2"]
    train(*overrides)
    model = tmp_path / "run" / "checkpoints" / "last" / "model.safetensors"
    before, metrics = model.stat().st_mtime_ns, (tmp_path / "run" / "metrics.jsonl").read_bytes()
    caplog.clear()
    with caplog.at_level("INFO"):
        train(*overrides)
    assert caplog.messages == [f"{tmp_path / 'run'}: already finished after 2 updates"]
    assert model.stat().st_mtime_ns == before
    assert (tmp_path / "run" / "metrics.jsonl").read_bytes() == metrics


# --- as a process -----------------------------------------------------------------------------------------------------


def command(digits: Path, run: Path, *overrides: str) -> list[str]:
    small = ["model=tiny", "batch.max_tokens=128", "batch.max_length=32", "validate.metric=loss", "device=cpu"]
    base = ["validate.translate=false", "train.log_every=1", "train.max_epochs=40", f"corpus={digits}", f"run={run}"]
    return [sys.executable, "-m", "nmt.commands.train", *small, *base, *overrides]


def test_terminated_process_saves_and_the_same_command_goes_on(digits: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    process = subprocess.Popen(
        command(digits, run, "batch.workers=1"),
        start_new_session=True,
        cwd=tmp_path,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    metrics, deadline = run / "metrics.jsonl", time.monotonic() + 120
    while not (metrics.exists() and metrics.read_text().count("\n") >= 3):
        assert process.poll() is None, process.communicate()[1]
        assert time.monotonic() < deadline, "no update within two minutes"
        time.sleep(0.05)
    os.killpg(process.pid, signal.SIGTERM)  # as batch systems do: the workers get it too
    _, said = process.communicate(timeout=120)
    assert process.returncode == 130, said
    assert "the same command goes on" in said
    assert "Traceback" not in said
    done = int((run / "checkpoints" / "last").resolve().name.removeprefix("update-"))
    assert [json.loads(line)["update"] for line in metrics.read_text().splitlines()][-1] == done >= 3
