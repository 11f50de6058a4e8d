"""The commands in a row, each a process of its own: prepare two corpora, train on both, average, translate, score."""

from __future__ import annotations

import json
import os
import random
import re
import subprocess
import sys
from pathlib import Path

import pytest


def nmt(cwd: Path, command: str, *arguments: str) -> str:
    """Run a command; what it prints."""
    done = subprocess.run(
        [sys.executable, "-m", f"nmt.commands.{command}", *arguments],
        capture_output=True, text=True, cwd=cwd, check=False, env={**os.environ, "OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "Traceback" not in done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Raw text of two corpora, a and b."""
    folder, rng = tmp_path_factory.mktemp("chain"), random.Random(1)
    for name, size in {"a": 120, "b": 40, "valid": 8, "test": 10}.items():
        rows = [rng.choices("0123456789", k=rng.randint(2, 8)) for _ in range(size)]
        (folder / f"{name}.in").write_text("".join(" ".join(row) + "\n" for row in rows), encoding="utf-8")
        (folder / f"{name}.out").write_text("".join(" ".join(sorted(row)) + "\n" for row in rows), encoding="utf-8")
    return folder


def test_chain(folder: Path) -> None:
    languages = ["source=in", "target=out", "valid=valid", "test=test"]
    said = nmt(folder, "preprocess", *languages, "train=a", "vocab_size=25", "out=data/a")
    assert re.search(r"train +120 ", said)
    nmt(folder, "preprocess", *languages, "train=b", "vocabulary=data/a", "out=data/b")

    training = ["corpus=[data/a,data/b]", "mix=[1.0,2.0]", "run=runs/x", "model=tiny", "batch.max_tokens=128"]
    training += ["checkpoints.every=4", "validate.beam=2", "device=cpu"]
    nmt(folder, "train", *training, "train.max_updates=4")
    nmt(folder, "train", *training, "train.max_updates=8")
    updates = [json.loads(line)["update"] for line in (folder / "runs/x/metrics.jsonl").read_text().splitlines()]
    assert updates == sorted(updates)
    assert updates[-1] == 8

    assert "update-00000004, update-00000008" in nmt(folder, "average", "checkpoint=runs/x", "last=2", "out=runs/avg")

    search = ["search.beam=2", "device=cpu"]
    said = nmt(folder, "generate", "checkpoint=runs/avg", "corpus=data/a", "split=test", "output=test.hyp", *search)
    hypotheses = (folder / "test.hyp").read_text(encoding="utf-8").splitlines()
    assert len(hypotheses) == 10
    assert nmt(folder, "generate", "checkpoint=runs/avg", "input=test.in", *search).splitlines() == hypotheses

    report = json.loads(nmt(folder, "score", "hypothesis=test.hyp", "reference=test.out", "format=json"))
    scores = {entry["name"]: entry for entry in report["scores"]}
    for name in ("BLEU", "chrF2"):
        assert f"{name} = {scores[name]['score']:.2f} " in said
        assert f"({scores[name]['signature']})" in said

    assert sorted(p.name for p in folder.iterdir() if p.suffix not in (".in", ".out")) == ["data", "runs", "test.hyp"]
