"""Verdicts by hand: every measure, both directions, all seeds."""

from __future__ import annotations

from functools import partial
from typing import Any

import numpy as np
import pytest

from nmt.benchmark.measure import Measured
from nmt.config import DataError, parse_options
from nmt.metrics.scoring import bleu, compare
from nmt.reproduction import judge as judging
from nmt.reproduction.judge import Found, comparisons, found_of, judge, verdict
from nmt.reproduction.measurements import Measurements, run_figures, unigram_perplexity
from nmt.reproduction.options import ExpectationOptions, Measure, RecipeOptions
from nmt.reproduction.plan import Job

REFERENCES = [f"the cat number {i} sat on the old mat of house {i % 7}" for i in range(30)]


@pytest.fixture(autouse=True)
def few_samples(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of the tests of differences: their own tests look at them."""
    monkeypatch.setattr(judging, "compare", partial(compare, samples=200))


def recipe(**changes: Any) -> RecipeOptions:
    node: dict[str, Any] = {
        "name": "x",
        "title": "X",
        "paper": "Nobody 2020, arXiv:0000.00000",
        "claim": "One is like two.",
        "baseline": "two",
        "variants": {
            "two": {"what": "two"},
            "one": {"what": "one"},
            "cut": {"what": "cut", "derive": {"of": "two", "command": "prune"}},
        },
        "benchmark": {"beams": [5], "batches": [1, 32]},
    }
    return parse_options(RecipeOptions, {**node, **changes})


def noisy(share: float, seed: int) -> list[str]:
    """References with some words replaced."""
    draw = np.random.default_rng(seed)
    return [" ".join("x" if draw.random() < share else word for word in line.split()) for line in REFERENCES]


def measurements() -> Measurements:
    """Two seeds of two trained variants and a derived one; no two figures are alike."""
    all_ = Measurements(runs=[], references=REFERENCES)
    #           variant, ppl of the validations, seconds an update (quartiles), parameters, bytes, seconds of passes
    made: list[tuple[str, int, float, list[float], int, int, list[float], float]] = [
        ("two", 1, 6.0, [0.9, 1.0, 1.1], 100, 400, [4.0, 2.0], 0.1),
        ("one", 1, 3.0, [1.8, 2.0, 2.6], 70, 280, [2.0, 0.5], 0.2),
        ("cut", 1, 0.0, [], 50, 200, [1.0, 1.0], 0.5),
        ("two", 2, 10.0, [1.4, 1.5, 1.6], 100, 404, [3.0, 6.0], 0.12),
        ("one", 2, 5.0, [2.8, 3.0, 3.2], 70, 284, [1.0, 2.0], 0.22),
        ("cut", 2, 0.0, [], 50, 204, [1.0, 1.0], 0.6),
    ]
    for number, (variant, seed, ppl, updates, parameters, size, seconds, share) in enumerate(made):
        run: dict[str, Any] = {"variant": variant, "seed": seed}
        if ppl:
            run.update(ppl=ppl, update_seconds=updates, parameters=parameters)
        all_.runs.append(run)
        for batch in (1, 32):
            lines = noisy(share, number)
            all_.rows.append(
                {
                    **{"variant": variant, "seed": seed, "beam": 5, "batch": batch},
                    **{"parameters": parameters, "bytes": size, "bleu": bleu(lines, REFERENCES).score},
                }
            )
            timed = [value * (1 if batch == 1 else 3) for value in seconds]
            all_.measured.append(Measured(lines, timed, 12, 100, []))
    all_.speed_rows, all_.speed_measured = all_.rows, all_.measured
    return all_


def found(metric: str, variant: str = "one", against: str = "two", **more: Any) -> Found:
    expected = ExpectationOptions(Measure[metric], variant, against, **more)
    return found_of(expected, recipe(), measurements())


RATIOS = {
    # Means over the seeds: 4 / 8; least 3 / 10, most 5 / 6.
    ("ppl", "one", "two"): (0.5, 0.3, 5 / 6),
    ("ppl", "two", "one"): (2.0, 6 / 5, 10 / 3),
    # Medians of the updates, means over the seeds: 2.5 / 1.25; least 2 / 1.5, most 3 / 1.
    ("update_seconds", "one", "two"): (2.0, 4 / 3, 3.0),
    # Pass by pass: 4/2, 2/0.5, 3/1, 6/2 times as fast: 2, 4, 3, 3.
    ("speed", "one", "two"): (3.0, 2.0, 4.0),
    ("speed", "two", "one"): (1 / 3, 1 / 4, 1 / 2),
    ("parameters", "one", "two"): (0.7, 0.7, 0.7),
    # Means over the seeds: 282 / 402; least 280 / 404, most 284 / 400.
    ("bytes", "one", "two"): (282 / 402, 280 / 404, 284 / 400),
}


@pytest.mark.parametrize(("metric", "variant", "against"), RATIOS)
def test_ratio_by_hand(metric: str, variant: str, against: str) -> None:
    told = found(metric, variant, against)
    assert (told.value, told.low, told.high) == pytest.approx(RATIOS[metric, variant, against])
    assert told.untested == ""


def test_every_measure_is_tested_by_hand() -> None:
    assert {metric for metric, _, _ in RATIOS} | {"bleu"} == {measure.name for measure in Measure}


def test_speed_at_another_batch_size() -> None:
    all_ = measurements()
    for row, measured in zip(all_.rows, all_.measured):
        if row["batch"] == 32 and row["variant"] == "one":
            measured.seconds = [value / 2 for value in measured.seconds]
    expected = ExpectationOptions(Measure.speed, "one", "two", batch=32)
    assert found_of(expected, recipe(), all_).value == pytest.approx(6.0)


def test_bleu_is_of_all_seeds() -> None:
    told = found("bleu")
    ours, theirs = ([bleu(noisy(share, n), REFERENCES).score for share, n in of] for of in ONE_AND_TWO)
    assert told.value == pytest.approx(sum(ours) / 2 - sum(theirs) / 2)
    assert told.low < told.value < told.high < 0
    assert found("bleu", "two", "one").value == pytest.approx(-told.value)


ONE_AND_TWO = ([(0.2, 1), (0.22, 4)], [(0.1, 0), (0.12, 3)])


def test_models_of_one_training_are_paired(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: dict[str, bool] = {}

    def spy(*systems: Any, paired: bool, **more: Any) -> Any:
        asked["paired"] = paired
        return compare(*systems, paired=paired, samples=10, **more)

    monkeypatch.setattr(judging, "compare", spy)
    found("bleu", "cut", "two")
    assert asked["paired"]
    found("bleu", "one", "cut")
    assert not asked["paired"]


def alone(all_: Measurements) -> Measurements:
    """The first seed only."""
    keep = [row["seed"] == 1 for row in all_.rows]
    rows = [row for row, kept in zip(all_.rows, keep) if kept]
    measured = [m for m, kept in zip(all_.measured, keep) if kept]
    runs = [run for run in all_.runs if run["seed"] == 1]
    return Measurements(runs, rows, measured, rows, measured, REFERENCES)


@pytest.mark.parametrize("metric", ["bleu", "ppl", "update_seconds"])
def test_one_training_is_no_test(metric: str) -> None:
    expected = ExpectationOptions(Measure[metric], "one", "two", at_least=-100)
    told = found_of(expected, recipe(), alone(measurements()))
    assert verdict(told, -100, None) == "one training: no test"


def test_one_pass_is_no_test() -> None:
    all_ = alone(measurements())
    for measured in all_.measured:
        measured.seconds = measured.seconds[:1]
    told = found_of(ExpectationOptions(Measure.speed, "one", "two"), recipe(), all_)
    assert verdict(told, 0, None) == "one pass: no test"


def test_times_of_trainings_side_by_side_are_no_test() -> None:
    all_ = measurements()
    all_.side_by_side = True
    told = found_of(ExpectationOptions(Measure.update_seconds, "one", "two"), recipe(), all_)
    assert verdict(told, 0, None) == "trainings side by side: no test"


def test_a_derived_model_has_no_training() -> None:
    with pytest.raises(DataError, match="ppl of cut is not known: it was not trained by itself"):
        found("ppl", "cut")


@pytest.mark.parametrize(
    ("low", "high", "expected"),
    [
        (0.1, 0.3, "holds"),
        (-2.0, -1.1, "does not hold"),
        (-1.5, 0.0, "not distinguishable"),
        (-1.0, 0.0, "holds"),
        (0.5, 1.5, "not distinguishable"),
        (1.5, 2.0, "does not hold"),
    ],
)
def test_verdict_by_hand(low: float, high: float, expected: str) -> None:
    assert verdict(Found(0.0, low, high), -1.0, 1.0) == expected
    assert verdict(Found(0.0, low, high, "no test"), -1.0, 1.0) == "no test"


EXPECTED = [
    {"metric": "bleu", "variant": "one", "at_most": 0.0},
    {"metric": "speed", "variant": "one", "at_least": 1.0},
    {"metric": "parameters", "variant": "one", "at_most": 0.9},
]


def test_models_that_cannot_translate_are_not_judged() -> None:
    """What decides is the worst training of the baseline."""
    worst = min(bleu(noisy(share, n), REFERENCES).score for share, n in ONE_AND_TWO[1])
    verdicts = [
        [told["verdict"] for told in judge(recipe(expectations=EXPECTED, min_bleu=least), measurements())]
        for least in (worst - 0.01, worst + 0.01)
    ]
    assert verdicts[0] == ["holds", "holds", "holds"]
    assert verdicts[1] == ["not trained enough", "not trained enough", "holds"]


def test_language_models_that_know_word_frequencies_alone_are_not_judged() -> None:
    expected = [{"metric": "ppl", "variant": "one", "at_most": 1.0}]
    for unigram, told in ((41.0, "holds"), (39.0, "not trained enough")):  # the worse baseline has 10, a quarter of 40
        all_ = measurements()
        all_.unigram_ppl = unigram
        (found,) = judge(recipe(expectations=expected, metric="ppl"), all_)
        assert found["verdict"] == told


def test_comparisons_say_how_many_they_are() -> None:
    one, cut = comparisons(recipe(), measurements())
    assert [(told["variant"], told["against"], told["trainings"]) for told in (one, cut)] == [
        ("one", "two", 2),
        ("cut", "two", 2),
    ]
    assert one["p_holm"] == pytest.approx(min(1, max(one["p_value"], 2 * min(one["p_value"], cut["p_value"]))))


def test_figures_of_a_run(tmp_path: Any) -> None:
    """The best validation counts: the highest BLEU, the lowest perplexity."""
    lines = [
        '{"event": "train", "update": 10, "updates_per_second": 4.0, "seconds": 2.5, "epoch": 1}',
        '{"event": "valid", "update": 10, "bleu": 20.0, "ppl": 9.0}',
        '{"event": "train", "update": 20, "updates_per_second": 2.0, "seconds": 7.5, "epoch": 2}',
        '{"event": "valid", "update": 20, "bleu": 30.0, "ppl": 7.0}',
        '{"event": "valid", "update": 20, "bleu": 25.0, "ppl": 8.0}',
    ]
    (tmp_path / "metrics.jsonl").write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
    (tmp_path / "manifest.json").write_text('[{"parameters": 7, "git": "abc", "time": "now"}]', encoding="utf-8")
    found = run_figures(Job("one", 1, tmp_path, "train", ("a=b",)))
    assert (found["valid_bleu"], found["ppl"], found["parameters"], found["git"]) == (30.0, 7.0, 7, "abc")
    assert (found["updates"], found["seconds"]) == (20, 7.5)
    assert found["update_seconds"] == pytest.approx([0.3125, 0.375, 0.4375])


def test_unigram_perplexity_by_hand() -> None:
    class Split:
        def __init__(self, counts: list[int]) -> None:
            self._counts = np.array(counts)

        def counts(self, side: str) -> Any:
            assert side == "target"
            return self._counts

    class Corpus:
        def split(self, name: str) -> Split:
            return Split({"train": [2, 4, 0], "valid": [1, 2, 1]}[name])

    # (3, 5, 1) / 9 after one is added to each count.
    expected = np.exp(-(np.log(3 / 9) + 2 * np.log(5 / 9) + np.log(1 / 9)) / 4)
    assert unigram_perplexity(Corpus()) == pytest.approx(expected)  # type: ignore[arg-type]
