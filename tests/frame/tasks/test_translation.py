"""Translations in validation: the search is nmt-generate's, and what it does not find is counted."""

from __future__ import annotations

import logging
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch

from nmt.checkpoints.checkpoint import load_model
from nmt.config import compose, parse_options
from nmt.data.corpus import Corpus
from nmt.generation.hypothesis import FAILED
from nmt.generation.translate import translate_ids
from nmt.metrics.scoring import bleu
from nmt.parallel.ranks import Ranks
from nmt.registry import NoOptions
from nmt.tasks import translation
from nmt.tasks.interfaces import Evaluation
from nmt.training.options import TrainOptions
from nmt.training.run.signals import StopSignals


@pytest.mark.parametrize("lost", [0, 3])
def test_quality_is_that_of_the_search(
    run: Path, digits: Path, lost: int, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    loaded, split = load_model(run), Corpus.open(digits).split("valid")
    options = parse_options(TrainOptions, compose("train", [f"corpus={digits}", "run=x", "validate.beam=2"])).validate
    seen = []

    def watched(*arguments: Any, **more: Any) -> Any:
        found = translate_ids(*arguments, **more)
        seen.append([[FAILED]] * lost + found[lost:])
        return seen[-1]

    monkeypatch.setattr(translation, "translate_ids", watched)
    shared = partial(StopSignals().shared, Ranks())
    given = Evaluation(loaded.model, loaded.vocabularies, split, options, torch.device("cpu"), Ranks(), shared)
    with caplog.at_level(logging.WARNING):
        figures = translation.Translation(NoOptions()).evaluate(given)
    lines = [loaded.vocabularies.target.decode(best[0].ids) for best in seen[0]]
    assert [bool(line) for line in lines] == [False] * lost + [True] * (len(split) - lost)
    assert figures["bleu"] == bleu(lines, split.target_texts()).score
    warning = f"{lost} of {len(split)} lines have no translation: the rules of the search left nothing (line 1, 2, 3)"
    assert [r.getMessage() for r in caplog.records] == [warning] * bool(lost)
