"""What is said of the time before it starts."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from nmt.config import compose, parse_options
from nmt.data.corpus import Corpus
from nmt.reproduction import estimate as estimating
from nmt.reproduction.estimate import Estimate, duration, estimate, tell_duration, trainings_left
from nmt.reproduction.make import fraction
from nmt.reproduction.options import ReproduceOptions
from nmt.reproduction.plan import Job, plan, run_folder, trials


@pytest.mark.parametrize(
    ("seconds", "text"), [(7.4, "7 s"), (89, "89 s"), (130, "2 min"), (5340, "89 min"), (7260, "2 h 1 min")]
)
def test_duration(seconds: float, text: str) -> None:
    assert duration(seconds) == text


def test_estimate_as_text() -> None:
    assert str(Estimate(7.5, 600, 2250, 12, 300)) == (
        "this will take about 42 min: 7.5 trainings of some 10 min each, "
        "then 5 min in which 12 models translate and are timed"
    )
    assert str(Estimate(0, 0, 0, 2, 60)) == "this will take about 60 s, in which 2 models translate and are timed"
    assert str(Estimate(2, 60, 120, 0, 0)) == "this will take about 2 min: 2 trainings of some 60 s each"


def write_metrics(folder: Path, *events: dict[str, Any]) -> None:
    folder.mkdir(parents=True)
    (folder / "metrics.jsonl").write_text("".join(f"{json.dumps(event)}\n" for event in events), encoding="utf-8")


def test_share_of_a_training_that_is_done(tmp_path: Path) -> None:
    job = Job("a", 1, tmp_path / "a", "train", (), epochs=4)
    assert fraction(job) == 0
    write_metrics(tmp_path / "a", {"event": "train", "update": 30, "epoch": 3})
    assert fraction(job) == 2.5 / 4
    assert fraction(replace(job, epochs=None, updates=40)) == 0.75
    lines = [{"event": "train", "update": update, "epoch": 1 + update // 30} for update in (10, 20, 29, 40)]
    write_metrics(tmp_path / "c", *lines)
    assert fraction(replace(job, folder=tmp_path / "c")) == pytest.approx(40 / 29 / 4)  # 29 updates an epoch
    write_metrics(
        tmp_path / "b", {"event": "train", "update": 40, "epoch": 4}, {"event": "valid", "update": 40, "epoch": 4}
    )
    assert fraction(replace(job, folder=tmp_path / "b")) == 1
    assert fraction(replace(job, folder=tmp_path / "b", epochs=None, updates=40)) == 1


def make_options(corpus: Path, out: Path, **changes: Any) -> ReproduceOptions:
    given = ["recipe=layer_drop", f"corpus={corpus}", f"out={out}", "device=cpu", "threads=1", "seeds=[1,2,3]"]
    config = compose("reproduce", given)
    return parse_options(ReproduceOptions, {**{key: config[key] for key in config}, **changes})


def test_trainings_that_wait_for_a_choice_are_counted(digits: Path, tmp_path: Path) -> None:
    """Two choices of two variants with the first seed, one each with two more."""
    options = make_options(digits, tmp_path / "out")
    first = [*trials(options), *plan(options, {})]
    assert len(first) == 4
    assert trainings_left(options, first) == 8
    done = {"event": "train", "update": 40, "epoch": 8}, {"event": "valid", "update": 40, "epoch": 8}
    write_metrics(first[0].folder, *done)
    write_metrics(run_folder(options, "layer_drop", 2, "dropout_0"), *done)
    assert trainings_left(options, first) == 6


def test_estimate_from_what_is_measured(digits: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """100 tokens a second, 0.5 s a line: everything else is arithmetic."""

    def probe(job: Job, run: Path) -> Path:
        rates = {"event": "train", "updates_per_second": 1.0, "tokens_per_second": 100.0, "epoch": 1}
        write_metrics(run, {**rates, "update": 10, "tokens_per_second": 1.0}, {**rates, "update": 20})
        return run

    seconds: Callable[..., Any] = lambda *_: {(5, 1): 0.5, (5, 32): 0.25}  # noqa: E731
    monkeypatch.setattr(estimating, "_probe", probe)
    monkeypatch.setattr(estimating, "_line_seconds", seconds)
    monkeypatch.setattr(estimating, "num_cores", lambda: 2)
    corpus = Corpus.open(digits)
    train, valid = corpus.manifest.splits["train"], corpus.manifest.splits["valid"]
    lines = corpus.manifest.splits["test"].lines
    options = make_options(digits, tmp_path / "out", jobs=2)
    first = [*trials(options), *plan(options, {})]
    found = estimate(options, corpus, first)
    training = 8 * ((train.tokens.target + train.lines) / 100 + 0.25 * valid.lines)
    assert (found.trainings, found.training) == (8, pytest.approx(training))
    assert found.train_seconds == pytest.approx(4 * training)  # two at a time, a core for each
    assert found.measure_seconds == pytest.approx(12 * 0.75 * (lines + 3 * min(lines, 200)))
    crowded = estimate(replace(options, threads=2), corpus, first)
    assert crowded.train_seconds == pytest.approx(8 * training)  # two at a time, who share the cores


def test_what_cannot_be_told_is_said(digits: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """It is no reason to stop: what is wrong with a training that one says in its turn."""
    bad = Job("bad", 1, tmp_path / "bad", "score", ("hypothesis=nowhere",), epochs=1)
    with caplog.at_level("INFO"):
        tell_duration(make_options(digits, tmp_path / "out"), Corpus.open(digits), [bad])
    assert "how long this will take is not known: bad: " in caplog.text
    assert "unknown key" in caplog.text
