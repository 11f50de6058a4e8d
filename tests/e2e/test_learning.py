"""Small models learn to copy and to sort rows of digits, and translate alike whatever the batch."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

import pytest

import nmt
from nmt.data.corpus import Corpus
from nmt.generation.options import GenerationBatchOptions, SearchOptions
from nmt.generation.translator import Translator
from nmt.metrics.scoring import bleu

WIDER = [
    f"model.{side}.{key}" for side in ("encoder", "decoder") for key in ("embed_dim=64", "ffn_dim=128", "num_heads=4")
]
RECIPE = [
    *WIDER,
    "model.dropout=0",
    "criterion.label_smoothing=0",
    "optimizer.lr=3e-3",
    "schedule=linear",
    "schedule.warmup_updates=50",
    "batch.max_tokens=512",
    "train.max_updates=500",
    "train.ema=0.95",
    "train.log_every=10",
]
"""About ten seconds on one core."""


class Learned(NamedTuple):
    run: Path
    translator: Translator
    sources: list[str]
    targets: list[str]


@pytest.fixture(scope="module", params=[list, sorted], ids=["copy", "sort"])
def learned(request: pytest.FixtureRequest, make_corpus, train, tmp_path_factory: pytest.TempPathFactory) -> Learned:
    target: Callable[[Sequence[str]], Sequence[str]] = request.param
    corpus = make_corpus(2000, target=target, length=(3, 10))
    run = tmp_path_factory.mktemp("learned") / "run"
    train(f"run={run}", f"corpus={corpus}", *RECIPE)
    split = Corpus.open(corpus).split("test")
    return Learned(run, nmt.load(run), split.source_texts(), split.target_texts())


def test_task_is_learned(learned: Learned, read_metrics) -> None:
    assert read_metrics(learned.run, "valid")[-1]["ppl"] < 1.05
    assert bleu(learned.translator.translate(learned.sources, beam=4), learned.targets).score > 95


def test_batch_size_changes_nothing(learned: Learned) -> None:
    found = [
        learned.translator.hypotheses(
            learned.sources, SearchOptions(beam=4, nbest=3), batch=GenerationBatchOptions(max_sentences=size)
        )
        for size in (1, 8, 128)
    ]
    ids = [[[h.ids for h in nbest] for nbest in result] for result in found]
    assert ids[0] == ids[1] == ids[2]
    scores = [[h.score for nbest in result for h in nbest] for result in found]
    assert scores[0] == pytest.approx(scores[1], abs=1e-4)
    assert scores[0] == pytest.approx(scores[2], abs=1e-4)


def test_forced_scores_agree_with_the_search(learned: Learned) -> None:
    hypotheses = [nbest[0] for nbest in learned.translator.hypotheses(learned.sources, SearchOptions(beam=4))]
    texts = [learned.translator.text(h) for h in hypotheses]
    assert learned.translator.score(learned.sources, texts) == pytest.approx([h.score for h in hypotheses], abs=1e-4)
    wrong = learned.translator.score(learned.sources, texts[1:] + texts[:1])
    assert sum(wrong) < sum(h.score for h in hypotheses) - 1
