"""The report and its plot, from results by hand."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from nmt.config import ConfigError
from nmt.reproduction.report import Point, check_folder, markdown, plot, points


def results(**changes: Any) -> dict[str, Any]:
    """A recipe of two variants with two seeds."""
    verdict = {"metric": "bleu", "variant": "one", "against": "two", "beam": 5, "batch": 1, "at_least": -1.0}
    compared = {"variant": "one", "difference": -0.5, "low": -0.9, "high": -0.1, "p_value": 0.02, "p_holm": 0.02}
    made: dict[str, Any] = {
        "recipe": {
            **{"name": "depth", "title": "Depth", "paper": "Nobody 2020", "claim": "One will do.", "note": ""},
            **{"metric": "bleu", "baseline": "two"},
            "variants": {
                "two": {"what": "as it is", "paper": {}},
                "one": {"what": "shallow", "paper": {"bleu": 26.5}},
            },
        },
        **{"scale": "tiny", "seeds": [1, 2], "rows": [], "commands": ["nmt-train a"], "train_overrides": []},
        "choices": [
            {"variant": "one", "choice": name, "metric": "bleu", "value": value, "chosen": chosen, "seed": 1}
            for name, value, chosen in (("a", 30.123, False), ("b", 31.0, True))
        ],
        "corpus": {"folder": "data/x", "digest": "f00", "split": "test", "lines": 1000},
        "baseline": {"metric": "bleu", "worst": 30.0, "limit": 10.0, "enough": True},
        "verdicts": [{**verdict, "at_most": None, "value": -0.5, "low": -0.9, "high": -0.1, "verdict": "holds"}],
        "comparisons": [{**compared, "samples": 10000}],
        "variants": [
            {"variant": name, "bleu": bleu, "bleu_ci": None, "chrf": [50.0, 51.0], "ppl": [], "latency_ms": latency}
            | {"update_seconds": None, "parameters": 2e6}
            | {"speed": [{"beam": 5, "batch": 1, "value": 2.0, "low": 1.9, "high": 2.1}]}
            for name, bleu, latency in (("two", [30.0, 31.0], 50.0), ("one", [29.0, 31.0], 20.0))
        ],
        "runs": [{"git": "abc"}, {"git": "abc"}, {}],
        "facts": {
            **{"command": ["nmt-reproduce", "recipe=depth"], "time": "now", "processor": "Z80", "device": "cpu"},
            **{"threads": 1, "jobs": 2, "lines_timed": 200, "repeats": 3, "versions": {"torch": "2"}, "git": "def"},
        },
    }
    return {**made, **changes}


def test_report_says_what_it_comes_from() -> None:
    row = {
        "variant": "one",
        "seed": 1,
        "beam": 5,
        "batch": 1,
        "speedup": 2.0,
        "bleu": 29.0,
        "bleu_ci": 1.0,
        "chrf": None,
    }
    row |= {"sentences_per_second": 1.0, "tokens_per_second": 9.0, "ratio": 2.0, "latency_p50_ms": 1.0}
    row |= {"latency_p95_ms": 2.0, "first_translation_seconds": 1.0, "peak_mib": 1.0, "parameters": 1, "bytes": 1}
    text = markdown(results(rows=[row]))
    for said in (
        "`nmt-reproduce recipe=depth`",
        "Corpus `data/x`, digest f00.",
        "Split `test`, 1000 lines; 200 of them timed in each of 3 passes",
        "Threads: 1; trainings at a time: 2.",
        "revision def.",
        "Trainings began at revision abc.",
        "| one | a | 30.12 |  |",
        "| one | b | 31 | chosen |",
        "the test set was read for the chosen ones only",
        "speed, × two, beam 5, batch 1",
        "| speed, × two |",
        "10,000 samples",
        "number of comparisons in the table, 1.",
        "Both cover how trainings differ, too.",
        "The paper's BLEU is of tokenised text",
    ):
        assert said in text
    assert "by which anything is judged" not in text


def test_report_of_one_seed_and_of_a_poor_baseline() -> None:
    poor = {"metric": "bleu", "worst": 0.33, "limit": 10.0, "enough": False}
    text = markdown(results(seeds=[1], baseline=poor, choices=[]))
    assert "A training of the baseline has 0.33 BLEU, and 10 is the least by which anything is judged." in text
    assert "another one may come out differently" in text
    assert "Chosen on the validation set" not in text


def test_points_and_plot(tmp_path: Path) -> None:
    assert points(results()) == [Point("two", 50.0, 30.5, 0.5, 0.5), Point("one", 20.0, 30.0, 1.0, 1.0)]
    single = results(seeds=[1])
    for figures in single["variants"]:
        figures.update(bleu=figures["bleu"][:1], bleu_ci=1.5)
    assert points(single)[0] == Point("two", 50.0, 30.0, 1.5, 1.5)
    for number, made in enumerate((results(), single)):
        plot(made, tmp_path / f"{number}.png")
        assert (tmp_path / f"{number}.png").read_bytes().startswith(b"\x89PNG")


def test_points_of_a_language_model() -> None:
    made = results()
    made["recipe"]["metric"] = "ppl"
    made["variants"] = [
        {"variant": "two", "ppl": [60.0, 64.0], "update_seconds": 0.5},
        {"variant": "one", "ppl": [70.0], "update_seconds": None},  # trained side by side: no time
    ]
    assert points(made) == [Point("two", 0.5, 62.0, 2.0, 2.0)]


def test_foreign_folder_is_refused(tmp_path: Path) -> None:
    check_folder(tmp_path)
    (tmp_path / "runs").mkdir()
    (tmp_path / "hypotheses").mkdir()
    check_folder(tmp_path)
    (tmp_path / "thesis.tex").touch()
    with pytest.raises(ConfigError, match=r"thesis\.tex"):
        check_folder(tmp_path)
