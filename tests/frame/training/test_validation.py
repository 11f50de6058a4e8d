"""Validation measures what is saved: the moving average, in evaluation mode."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

import nmt
from nmt.checkpoints.checkpoint import load_model
from nmt.data.corpus import Corpus
from nmt.metrics.scoring import bleu, chrf
from nmt.parallel.ranks import Ranks
from nmt.registry import build
from nmt.training.run.signals import StopSignals
from nmt.training.validation import validation_loss

NOISE = ["model.dropout=0.9", "model.attention_dropout=0.9", "model.activation_dropout=0.9"]
NOISE += ["model.encoder.stack.layer_drop=0.5", "model.decoder.stack.layer_drop=0.5"]


@pytest.fixture(scope="module")
def start(train, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that learned something: figures of noise alone would be alike."""
    run = tmp_path_factory.mktemp("start") / "run"
    train(f"run={run}", "model.dropout=0", "train.max_updates=60", "optimizer.lr=1e-2")
    return run


@pytest.mark.parametrize("average", [0, 2], ids=["", "averaged"])
def test_figures_are_those_of_the_saved_checkpoint(
    average: int, start: Path, digits: Path, train, tmp_path: Path, read_metrics
) -> None:
    run = tmp_path / "run"
    overrides = ["train.max_updates=4", "checkpoints.every=2", "train.ema=0.9", "optimizer.lr=1e-3"]
    quality = ["validate.translate=true", "validate.metric=bleu", "validate.beam=2", "validate.max_tokens=90"]
    trainer = train(f"run={run}", f"init_from={start}", f"checkpoints.average={average}", *NOISE, *overrides, *quality)
    name = "average-update-00000004" if average else "update-00000004"
    figures = read_metrics(run, "valid")[-1]

    split = Corpus.open(digits).split("valid")
    criterion = build("criterion", {"name": "cross_entropy"}, key="criterion").eval()
    model = load_model(run / "checkpoints" / name).model.eval()
    expected = validation_loss(model, criterion, split, 90, torch.device("cpu"), Ranks(), StopSignals())
    translations = nmt.load(run / "checkpoints" / name).translate(split.source_texts(), beam=2)
    expected["bleu"] = bleu(translations, split.target_texts()).score
    expected["chrf"] = chrf(translations, split.target_texts()).score
    assert {key: figures[key] for key in expected} == expected
    assert expected["bleu"] > 1, "too little was learned for this to tell anything"
    assert trainer.model.training
