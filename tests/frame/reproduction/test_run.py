"""``nmt-reproduce`` from a recipe to its report, and the parts in between."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from nmt.config import ConfigError, DataError, compose, parse_options
from nmt.data.corpus import Corpus
from nmt.metrics.scoring import bleu as bleu_of
from nmt.reproduction.choose import choose
from nmt.reproduction.make import RunFailed, make_all
from nmt.reproduction.options import RecipeOptions, ReproduceOptions
from nmt.reproduction.plan import Job, plan, trials
from nmt.reproduction.run import run_recipe
from nmt.text.input import read_lines

RECIPE: dict[str, Any] = {
    "name": "depth",
    "title": "Depth",
    "paper": "Nobody 2020, arXiv:0000.00000",
    "claim": "One layer will do.",
    "baseline": "two",
    "scales": {"tiny": ["model.encoder.embed_dim=32", "model.decoder.embed_dim=32"]},
    "variants": {
        "two": {"what": "2 layers"},
        "one": {"what": "1 layer", "overrides": ["model.decoder.layers=1"], "paper": {"bleu": 30.5}},
        "mean": {"what": "averaged", "derive": {"of": "two", "command": "average"}, "overrides": ["last=1"]},
    },
    "benchmark": {"beams": [1], "batches": [8], "lines": 4, "repeats": 2},
    "expectations": [
        {"metric": "bleu", "variant": "mean", "at_least": -1},
        {"metric": "parameters", "variant": "one", "at_most": 0.99},
    ],
}
SHORT = [
    "train.max_updates=3",
    "train.log_every=1",
    "train.ema=0",
    "validate.max_sentences=2",
    "batch.max_tokens=128",
    "batch.max_length=32",
]


def make_options(corpus: Path, out: Path, **changes: Any) -> ReproduceOptions:
    given = ["recipe=deep_shallow", f"corpus={corpus}", f"out={out}", "device=cpu", "threads=1", "seeds=[1]"]
    config = compose("reproduce", given)
    values: dict[str, Any] = {key: config[key] for key in config}
    values.update({"recipe": RECIPE, "train_overrides": SHORT, **changes})
    return parse_options(ReproduceOptions, values)


@pytest.mark.slow
@pytest.mark.timeout(900)  # some twenty processes, one after the other
def test_from_recipe_to_report(digits: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    options = make_options(digits, out)
    text = run_recipe(options)
    assert {path.name for path in out.iterdir()} == {"report.md", "results.json", "plot.png", "runs", "hypotheses"}
    assert (out / "report.md").read_text(encoding="utf-8") == text
    results = json.loads((out / "results.json").read_text(encoding="utf-8"))
    assert [run["variant"] for run in results["runs"]] == ["two", "one", "mean"]
    assert [run.get("updates") for run in results["runs"]] == [3, 3, None]
    assert [(row["variant"], row["seed"], row["batch"]) for row in results["rows"]] == [
        ("two", 1, 8),
        ("one", 1, 8),
        ("mean", 1, 8),
    ]
    # A model that has learned nothing is no ground for a judgement, but what is counted is.
    bleu, parameters = results["verdicts"]
    assert results["baseline"] == {"metric": "bleu", "worst": results["rows"][0]["bleu"], "limit": 10, "enough": False}
    assert bleu["verdict"] == "not trained enough"
    assert parameters["verdict"] == "holds"
    assert results["rows"][1]["parameters"] / results["rows"][0]["parameters"] == parameters["value"]
    assert results["train_overrides"] == SHORT
    for said in ("One layer will do.", "bleu 30.5", "train.max_updates=3", "not trained enough", "of tokenised text"):
        assert said in text
    corpus = Corpus.open(digits)
    lines = len(corpus.split("test"))
    assert f"digest {corpus.digest}" in text
    assert f"{lines} lines; 4 of them timed in each of 2 passes" in text
    assert "Threads: 1; trainings at a time: 1." in text
    # Figures can be computed again from the translations beside them.
    references = corpus.split("test").target_texts()
    for row in results["rows"]:
        hypotheses = read_lines(str(out / row["hypotheses"]))
        assert row["bleu"] == pytest.approx(bleu_of(hypotheses, references).score)
    told = results["comparisons"]
    assert [line["variant"] for line in told] == ["one", "mean"]
    # An average of one checkpoint is that checkpoint: no difference, and no doubt about it.
    assert (told[1]["difference"], told[1]["low"], told[1]["high"], told[1]["p_value"]) == (0, 0, 0, 1)
    # The same command again trains and measures nothing, and says the same.
    model = out / "runs/two-tiny-seed1/checkpoints/last/model.safetensors"
    before = model.stat().st_mtime_ns
    kept = sorted((out / "runs/measured").iterdir())
    times = [path.stat().st_mtime_ns for path in kept]
    run_recipe(options)
    again = json.loads((out / "results.json").read_text(encoding="utf-8"))
    assert {key: value for key, value in again.items() if key != "facts"} == {
        key: value for key, value in results.items() if key != "facts"
    }
    assert [path.stat().st_mtime_ns for path in sorted((out / "runs/measured").iterdir())] == times
    assert model.stat().st_mtime_ns == before
    out = out.rename(tmp_path / "elsewhere")  # results may move
    make_all(plan(make_options(digits, out), {}), 2)
    assert (out / "runs/two-tiny-seed1/checkpoints/last/model.safetensors").stat().st_mtime_ns == before
    changed = {**RECIPE, "variants": {**RECIPE["variants"]}}
    changed["variants"]["mean"] = {**RECIPE["variants"]["mean"], "overrides": ["last=2"]}
    with pytest.raises(ConfigError, match="was made by another command"):
        make_all(plan(make_options(digits, out, recipe=changed), {}), 1)


def test_plan_is_commands_in_order(digits: Path, tmp_path: Path) -> None:
    lines = run_recipe(make_options(digits, tmp_path / "out", plan=True, seeds=[3, 4])).splitlines()
    assert [line.split()[0] for line in lines] == ["nmt-train", "nmt-train", "nmt-average"] * 2
    assert "seed=4" in lines[3].split()
    words = lines[1].split()
    assert words.index("model=tiny") < words.index("model.decoder.layers=1") < words.index("train.max_updates=3")
    folder = f"{tmp_path}/out/runs"
    assert lines[2] == f"nmt-average checkpoint={folder}/two-tiny-seed3 out={folder}/mean-tiny-seed3 last=1"
    assert not (tmp_path / "out").exists()


CHOICES: dict[str, Any] = {
    "two": {"what": "2 layers", "choices": {"tiny": {"a": ["model.dropout=0"], "b": ["model.dropout=0.1"]}}},
    "mean": {"what": "averaged", "derive": {"of": "two", "command": "average"}, "overrides": ["last=1"]},
    "one": {"what": "1 layer"},
}


def test_choices_are_trained_with_the_first_seed_and_the_chosen_one_with_all(digits: Path, tmp_path: Path) -> None:
    recipe = {**RECIPE, "variants": CHOICES, "expectations": []}
    options = make_options(digits, tmp_path / "out", recipe=recipe, seeds=[5, 6])
    tried = trials(options)
    assert [(job.variant, job.choice, job.seed) for job in tried] == [("two", "a", 5), ("two", "b", 5)]
    assert [job.folder.name for job in tried] == ["two-a-tiny-seed5", "two-b-tiny-seed5"]
    assert [(job.variant, job.seed) for job in plan(options, {})] == [("one", 5), ("one", 6)]
    jobs = plan(options, {"two": "b"})
    assert [(job.variant, job.choice, job.seed) for job in jobs if job.variant != "one"] == [
        ("two", "b", 5),
        ("mean", None, 5),
        ("two", "b", 6),
        ("mean", None, 6),
    ]
    assert jobs[0] == tried[1]  # which is there already
    assert jobs[1].source == tried[1].folder
    assert "model.dropout=0.1" in jobs[0].overrides


@pytest.mark.parametrize(
    ("metric", "values", "chosen"),
    [
        ("bleu", {"a": [10, 30, 20], "b": [29, 29, 29]}, "a"),  # the best of all validations, as the checkpoint is
        ("bleu", {"a": [30], "b": [31]}, "b"),
        ("loss", {"a": [3.0, 2.5, 4.0], "b": [2.0, 9.0, 9.0]}, "b"),
        ("loss", {"a": [2.0], "b": [2.0]}, "a"),  # of equal ones the first
    ],
)
def test_choice_by_the_validation_set(tmp_path: Path, metric: str, values: dict[str, list[float]], chosen: str) -> None:
    jobs = []
    for choice, found in values.items():
        folder = tmp_path / choice
        folder.mkdir()
        config = f"task: {{name: translation}}\nvalidate: {{metric: {metric}}}\n"
        (folder / "config.yaml").write_text(config, encoding="utf-8")
        lines = [{"event": "valid", "update": n, "bleu": 0.0, "loss": 0.0, metric: v} for n, v in enumerate(found)]
        (folder / "metrics.jsonl").write_text("".join(f"{json.dumps(line)}\n" for line in lines), encoding="utf-8")
        jobs.append(Job("two", 1, folder, "train", ("x=1",), choice=choice))
    tried = choose(jobs)
    assert [trial.choice for trial in tried if trial.chosen] == [chosen]
    assert [trial.value for trial in tried] == [(min if metric == "loss" else max)(v) for v in values.values()]
    (tmp_path / "a/metrics.jsonl").write_text("", encoding="utf-8")
    with pytest.raises(DataError, match="no validation by"):
        choose(jobs)


def test_three_seeds_at_tiny(digits: Path, tmp_path: Path) -> None:
    for scale, seeds in (("tiny", [1, 2, 3]), ("small", [1])):
        options = make_options(digits, tmp_path / "out", seeds=None, scale=scale)
        assert options.all_seeds == seeds
        assert {job.seed for job in plan(options, {})} == set(seeds)


def test_wrong_option_of_a_variant_shows_before_any_training(digits: Path, tmp_path: Path) -> None:
    wrong = {**RECIPE, "variants": {"two": {"what": "wrong", "overrides": ["train.max_epoch=2"]}}, "expectations": []}
    with pytest.raises(ConfigError, match=r"recipe\.variants\.two: unknown key train\.max_epoch.*max_epochs"):
        plan(make_options(digits, tmp_path, recipe=wrong), {})
    wrong["variants"] = {"two": {"what": "a"}, "b": {"what": "b", "derive": {"of": "two", "command": "shrink"}}}
    with pytest.raises(ConfigError, match=r"derive\.command=shrink: there is no command nmt-shrink"):
        plan(make_options(digits, tmp_path, recipe=wrong), {})


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"baseline": "tow"}, r"recipe\.baseline=tow: no such variant; valid options: two, one.*did you mean 'two'"),
        ({"seeds": [1, 1]}, r"recipe\.seeds=\[1, 1\]"),
        ({"variants": {"two": {"what": "x", "choices": {"tiny": {"a": []}}}}}, "two.choices.tiny: give at least two"),
        (
            {"variants": {"two": {"what": "x", "choices": {"tiny": {"a/b": [], "c": []}}}}},
            "tiny.a/b: a name has",
        ),
        ({"scales": {"tiney": []}}, r"recipe\.scales\.tiney: no such scale.*did you mean 'tiny'"),
        ({"expectations": [{"metric": "bleu", "variant": "one"}]}, r"expectations\[0\]: give at_least or at_most"),
        ({"expectations": [{"metric": "speed", "variant": "one", "at_least": 1, "batch": 9}]}, r"batch=9 is not meas"),
        ({"metric": "ppl"}, r"metric=bleu: nothing is translated"),
        ({"variants": {"two": {"what": "x", "derive": {"of": "two"}}}}, "must stand above two"),
    ],
)
def test_mistakes_in_a_recipe(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        parse_options(RecipeOptions, {**RECIPE, **changes})


def test_failed_model_is_named_and_others_are_made(tmp_path: Path) -> None:
    bad = Job("bad", 1, tmp_path / "bad", "score", ("hypothesis=nowhere", "reference=nowhere"))
    after = Job("after", 1, tmp_path / "after", "average", (), source=bad.folder)
    with pytest.raises(RunFailed, match=r"bad: nmt-score ended with status 1: .*nowhere: cannot be read.*; after: bad"):
        make_all([bad, after], 1)
