"""SIGKILL at random moments of a real ``nmt-train``: the same command again, and nothing is lost."""

from __future__ import annotations

import json
import multiprocessing
import random
import sys
import time
from multiprocessing.context import ForkServerContext, ForkServerProcess
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file
from torch.testing import assert_close

from nmt.commands.train import main

KILLS = 50
LONGEST_SECONDS = 0.6
"""Of a start that is killed, after its first sign of life."""
TRAINING = [
    "model=tiny",
    *(
        f"model.{side}.{key}"
        for side in ("encoder", "decoder")
        for key in ("embed_dim=16", "ffn_dim=24", "num_heads=2")
    ),
    *("model.embedding.max_positions=64", "model.dropout=0.2", "train.ema=0.9", "train.accumulate=2", "threads=1"),
    *(
        "batch.max_length=32",
        "batch.max_tokens=128",
        "train.log_every=1",
        "train.max_updates=120",
        "train.patience=999",
    ),
    *("validate.metric=loss", "validate.translate=false", "validate.every=7", "device=cpu"),
    *("checkpoints.every=3", "checkpoints.keep_last=3", "checkpoints.average=3"),
]
TIMES = ("seconds", "tokens_per_second", "updates_per_second", "peak_mib")


@pytest.fixture(scope="module")
def forks() -> ForkServerContext:
    """Starts processes that have imported everything, but done nothing yet: a start takes no seconds of imports."""
    context = multiprocessing.get_context("forkserver")
    modules = ["nmt.training.trainer", "torch.utils.tensorboard", "torch._dynamo"]  # torch imports the last one lazily
    context.set_forkserver_preload(["nmt.commands.train", "pytest", *modules])
    return context


def start(forks: ForkServerContext, corpus: Path, run: Path, patch: pytest.MonkeyPatch) -> ForkServerProcess:
    """``nmt-train`` with its command line."""
    patch.setattr(sys, "argv", ["nmt-train", *TRAINING, f"corpus={corpus}", f"run={run}"])
    process = forks.Process(target=main)
    process.start()
    return process


def kill_somewhen(process: ForkServerProcess, run: Path, rng: random.Random) -> str:
    """Wait for a random moment, half of the times one within a save, and kill; what moment it was."""
    moment, saving = rng.uniform(0, LONGEST_SECONDS), rng.random() < 0.5
    entries = len(json.loads((run / "manifest.json").read_text())) if (run / "manifest.json").exists() else 0
    anyhow = rng.random() < 0.1  # else not before training has begun
    while process.is_alive() and not anyhow:
        if (run / "manifest.json").exists() and len(json.loads((run / "manifest.json").read_text())) > entries:
            break
        time.sleep(0.005)
    process.join(moment)
    while saving and process.is_alive() and not list((run / "checkpoints").glob(".*.tmp")):
        pass
    process.join(rng.uniform(0, 0.01) if saving else 0)
    process.kill()
    process.join()
    halves = [p.name for p in (run / "checkpoints").glob(".*.tmp")]
    return f"{moment:.3f} s, exit {process.exitcode}, half-written: {halves}"


def figures(run: Path) -> list[dict[str, Any]]:
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text(encoding="utf-8").splitlines()]
    return [{key: value for key, value in line.items() if key not in TIMES} for line in lines]


def assert_same(run: Path, whole: Path) -> None:
    assert figures(run) == figures(whole)
    assert not list(run.rglob("damaged-*"))
    assert not list(run.rglob(".*.tmp"))
    names = [sorted(p.name for p in (folder / "checkpoints").iterdir()) for folder in (run, whole)]
    assert names[0] == names[1]
    for link, file in (("last", "model"), ("last", "training"), ("best", "model")):
        folders = [(folder / "checkpoints" / link).resolve() for folder in (run, whole)]
        assert folders[0].name == folders[1].name
        tensors = [load_file(folder / f"{file}.safetensors") for folder in folders]
        assert_close(tensors[0], tensors[1], rtol=0, atol=0)
    states = [json.loads((f / "checkpoints" / "last" / "training.json").read_text()) for f in (run, whole)]
    for state in states:
        state["progress"].pop("seconds")
        [window] = state["progress"]["windows"]
        window.pop("seconds")
    assert states[0]["progress"] == states[1]["progress"]


def newest(run: Path) -> int:
    """The update that the run's `last` stands for; it must be readable at any moment."""
    last = run / "checkpoints" / "last"
    if not last.is_symlink():
        return 0
    load_file(last / "model.safetensors")
    return int(last.resolve().name.removeprefix("update-"))


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_killed_at_random_moments(
    forks: ForkServerContext, digits: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole, seed = tmp_path / "whole", 20240
    process = start(forks, digits, whole, monkeypatch)
    process.join()
    assert process.exitcode == 0
    rng, kills, within, runs = random.Random(seed), 0, 0, 0
    while kills < KILLS:
        run, before = tmp_path / f"run{runs}", 0
        runs += 1
        while True:
            process = start(forks, digits, run, monkeypatch)
            moment = kill_somewhen(process, run, rng) if kills < KILLS else str(process.join())
            if process.exitcode == 0:
                assert_same(run, whole)
                break
            kills += 1
            within += "half-written: []" not in moment
            done = newest(run)
            print(f"seed {seed}, run {runs}, kill {kills} at {moment}; saved: update {done}")
            assert process.exitcode == -9, moment
            assert done >= before, moment
            before = done
    assert within >= KILLS // 10, "hardly a kill came within a save"
