"""Writes tests/golden anew: a tiny trained checkpoint, its translations, and the losses of the training that made it.

    python scripts/make_golden.py

Run it only where results are meant to change, and say in CHANGELOG.md why they do.
"""

from __future__ import annotations

import json
import random
import shutil
import tempfile
from pathlib import Path

import torch

import nmt
from nmt.checkpoints.checksums import SUMS_FILE, write_sums
from nmt.config import compose, parse_options
from nmt.data.prepare import PreprocessOptions, prepare_corpus
from nmt.training.options import TrainOptions
from nmt.training.trainer import Trainer

GOLDEN = Path(__file__).parents[1] / "tests" / "golden"
WORDS = {
    "one": "un", "two": "du", "three": "tri", "four": "kvar", "five": "kvin", "red": "ruga", "blue": "blua",
    "big": "granda", "old": "malnova", "house": "domo", "tree": "arbo", "cat": "kato",
}  # fmt: skip
TRAINING = [
    "model=tiny",
    *(f"model.{side}.{key}" for side in ("encoder", "decoder") for key in ("embed_dim=32", "ffn_dim=64")),
    *(f"model.{side}.num_heads=2" for side in ("encoder", "decoder")),
    "model.embedding.max_positions=64",
    "model.dropout=0.0",
    "train.ema=0.0",
    "batch.max_length=32",
    "batch.max_tokens=256",
    "optimizer.lr=0.006",
    "schedule.warmup_updates=50",
    "train.max_updates=300",
    "train.log_every=1",
    "validate.metric=loss",
    "validate.translate=false",
    "checkpoints.keep_last=1",
    "seed=7",
    "device=cpu",
]


def write_text(folder: Path) -> None:
    """Rows of words; the translation is word for word, in reverse order."""
    rng = random.Random(5)
    for split, size in (("train", 300), ("valid", 20)):
        rows = [rng.choices(sorted(WORDS), k=rng.randint(1, 7)) for _ in range(size)]
        (folder / f"{split}.en").write_text("".join(" ".join(row) + "\n" for row in rows))
        (folder / f"{split}.eo").write_text("".join(" ".join(WORDS[w] for w in row[::-1]) + "\n" for row in rows))


def train(raw: Path, work: Path) -> Path:
    """Prepare the text and train; returns the run."""
    overrides = ["source=en", "target=eo", f"train={raw / 'train'}", f"valid={raw / 'valid'}", f"out={work / 'corpus'}"]
    config = compose("preprocess", [*overrides, "vocab_size=45", "normalisation=identity"])
    prepare_corpus(parse_options(PreprocessOptions, config))
    config = compose("train", [*TRAINING, f"corpus={work / 'corpus'}", f"run={work / 'run'}"])
    Trainer(parse_options(TrainOptions, config), config).fit()
    return work / "run"


def losses(run: Path) -> list[float]:
    """Loss of every update."""
    lines = (run / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
    return [entry["loss"] for entry in map(json.loads, lines) if entry["event"] == "train"]


def main() -> None:
    torch.set_num_threads(1)
    GOLDEN.mkdir(exist_ok=True)
    write_text(GOLDEN)
    with tempfile.TemporaryDirectory() as folder:
        run = train(GOLDEN, Path(folder))
        checkpoint = GOLDEN / "checkpoint"
        shutil.rmtree(checkpoint, ignore_errors=True)
        shutil.copytree(run / "checkpoints" / "last", checkpoint, ignore=shutil.ignore_patterns("training.*"))
        config = (checkpoint / "config.yaml").read_text(encoding="utf-8")
        (checkpoint / "config.yaml").write_text(config.replace(folder, "golden"), encoding="utf-8")
        write_sums(checkpoint / SUMS_FILE)
        sources = (GOLDEN / "valid.en").read_text(encoding="utf-8").splitlines()
        translator = nmt.load(checkpoint)
        hypotheses = translator.translate(sources, beam=4)
        expected = {
            "translations": hypotheses,
            "scores": translator.score(sources, hypotheses),
            "losses": losses(run),
        }
        (GOLDEN / "expected.json").write_text(json.dumps(expected, indent=1, ensure_ascii=False) + "\n")


if __name__ == "__main__":
    main()
