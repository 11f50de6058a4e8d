"""Language modelling with the commands: it learns, resumes, scores and continues, and says what it cannot do."""

from __future__ import annotations

import math
import random
import re
from pathlib import Path

import pytest
import torch

import nmt
from nmt.checkpoints.average import average_checkpoints
from nmt.checkpoints.checkpoint import read_tensors
from nmt.config import ConfigError, compose, parse_options
from nmt.data.prepare import PreprocessOptions, prepare_corpus
from nmt.generation.generate import generate
from nmt.generation.options import GenerateOptions
from nmt.interchange.export import export_checkpoint
from nmt.training.options import TrainOptions
from nmt.training.trainer import Trainer

SMALL = ["model=tiny", *(f"model.decoder.{key}" for key in ("embed_dim=16", "ffn_dim=24", "num_heads=2"))]
SHORT = ["batch.max_length=32", "batch.max_tokens=256", "device=cpu", "train.ema=0", "optimizer.lr=5e-3"]


def counting(rng: random.Random) -> str:
    """Digits that count up from a random one: after the first, only the length is uncertain."""
    start = rng.randrange(10)
    return " ".join(f"w{(start + i) % 10}" for i in range(rng.randint(3, 7)))


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder, rng = tmp_path_factory.mktemp("counting"), random.Random(1)
    for name, size in (("train", 400), ("valid", 30)):
        (folder / f"{name}.en").write_text("".join(counting(rng) + "\n" for _ in range(size)), encoding="utf-8")
    (folder / "test.en").write_text("w1 w2 w3\n\nw7 unheard of w9\n", encoding="utf-8")
    values = {"target": "en", "vocab_type": "word", "vocab_size": 14, "out": folder / "corpus"}
    values |= {name: folder / name for name in ("train", "valid", "test")}
    prepare_corpus(parse_options(PreprocessOptions, compose("preprocess", [f"{k}={v}" for k, v in values.items()])))
    return folder / "corpus"


def fit(corpus: Path, run: Path, *overrides: str) -> dict[str, float]:
    given = ["task=language_modeling", *SMALL, *SHORT, f"corpus={corpus}", f"run={run}", *overrides]
    config = compose("train", given)
    return Trainer(parse_options(TrainOptions, config), config).fit()


@pytest.fixture(scope="module")
def learned(corpus: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, float]]:
    run = tmp_path_factory.mktemp("lm") / "run"
    return run, fit(corpus, run, "train.max_updates=300", "schedule.warmup_updates=20")


def test_it_learns_the_grammar(learned) -> None:
    # Uniform over ten words and the end: 11. Word frequencies alone cannot get below 6; the grammar is about 2.1.
    assert "bleu" not in learned[1]
    assert learned[1]["ppl"] < 2.8


def test_perplexity_of_a_split_is_exact_whatever_the_batch(learned, corpus: Path, tmp_path: Path, capsys) -> None:
    run, figures = learned
    model = nmt.load(run / "checkpoints" / "last")
    lines = (corpus.parent / "valid.en").read_text().splitlines()
    assert math.isclose(model.perplexity(lines), figures["ppl"], rel_tol=1e-4)
    found = []
    for sentences in (1, 64):
        given = [f"checkpoint={run}", f"corpus={corpus}", "split=test", "device=cpu", f"output={tmp_path / 'o'}"]
        config = compose("generate", [*given, f"batch.max_sentences={sentences}"])
        summary = generate(parse_options(GenerateOptions, config))
        found.append(float(re.match(r"perplexity = ([\d.]+) \(10 tokens", capsys.readouterr().out)[1]))
        assert (summary.num_lines, summary.num_tokens) == (3, 10)  # the empty line has an end, each unknown word counts
    assert math.isclose(*found, rel_tol=1e-4)


def test_lines_are_continued(learned) -> None:
    first, second = nmt.load(learned[0]).translate(["w3 w4", ""], beam=2)
    assert first.startswith("w3 w4 w5")
    assert second
    with pytest.raises(ConfigError, match="a language model continues the lines of input"):
        nmt.load(learned[0]).translate(["w3"], prefixes=["w3"])


def test_resume_is_exact(corpus: Path, tmp_path: Path) -> None:
    given = ["schedule.warmup_updates=4", "checkpoints.every=5", "train.ema=0.9"]
    fit(corpus, tmp_path / "whole", *given, "train.max_updates=14")
    fit(corpus, tmp_path / "parts", *given, "train.max_updates=7")
    fit(corpus, tmp_path / "parts", *given, "train.max_updates=14")
    whole, parts = (read_tensors(tmp_path / r / "checkpoints/last/model.safetensors") for r in ("whole", "parts"))
    assert whole.keys() == parts.keys()
    assert not any("encoder" in name or "cross" in name for name in whole)
    assert all(torch.equal(whole[name], parts[name]) for name in whole)


def test_what_does_not_fit_is_refused(learned, corpus: Path, digits: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="holds sentence pairs; choose task=translation"):
        fit(digits, tmp_path / "a", "train.max_updates=1")
    with pytest.raises(ConfigError, match="holds one language; choose task=language_modeling"):
        fit(corpus, tmp_path / "b", "train.max_updates=1", "task=translation")
    with pytest.raises(ConfigError, match="task 'language_modeling' has no such metric; valid options: loss"):
        fit(corpus, tmp_path / "c", "train.max_updates=1", "validate.metric=bleu")
    with pytest.raises(ConfigError, match=r"task\.name=language_modeling cannot be exported to hf"):
        export_checkpoint(learned[0], "hf", tmp_path / "d")


def test_average(learned, tmp_path: Path) -> None:
    both = [str(learned[0] / "checkpoints" / name) for name in ("last", "best")]
    average_checkpoints(both, None, str(tmp_path / "a"))
    assert nmt.load(tmp_path / "a").perplexity(["w1 w2 w3"]) < 5
