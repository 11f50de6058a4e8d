"""From measurements to verdicts: what was expected, what was found, and whether the figures can tell."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from statistics import mean, median
from typing import Any

import numpy as np

from nmt.benchmark.measure import Measured
from nmt.config import DataError
from nmt.reproduction.make import metrics
from nmt.reproduction.options import ExpectationOptions, Measure, RecipeOptions
from nmt.reproduction.plan import Job
from nmt.text.scoring import bleu_difference, paired_bootstrap
from nmt.untrusted import read_json


@dataclass(frozen=True)
class Found:
    """A difference or a ratio with the interval that its measurements leave open.

    Attributes:
        value: variant against the other one.
        low: lower end.
        high: upper end.
        tested: whether the interval comes from a test, repeated measurements or counting; else it is a bare value.
    """

    value: float
    low: float
    high: float
    tested: bool = True


@dataclass
class Measurements:
    """All that was measured.

    Attributes:
        runs: figures of each training or derived model; see `run_figures`.
        rows: of the benchmark, each with its variant and seed.
        measured: translations and passes of each row.
        speed_rows: rows of the benchmark with a forced length, or ``rows`` where there is none.
        speed_measured: passes of each of these.
        references: of the test set.
    """

    runs: list[dict[str, Any]]
    rows: list[dict[str, Any]] = field(default_factory=list)
    measured: list[Measured] = field(default_factory=list)
    speed_rows: list[dict[str, Any]] = field(default_factory=list)
    speed_measured: list[Measured] = field(default_factory=list)
    references: list[str] = field(default_factory=list)

    def texts(self, variant: str, beam: int, batch: int) -> list[list[str]]:
        """Translations of the test set by a variant, one list a seed."""
        return [m.texts or [] for r, m in zip(self.rows, self.measured) if _is(r, variant, beam, batch)]

    def rates(self, variant: str, beam: int, batch: int) -> list[list[float]]:
        """Sentences a second of each pass, one list a seed."""
        return [m.rates for r, m in zip(self.speed_rows, self.speed_measured) if _is(r, variant, beam, batch)]

    def of_runs(self, variant: str, name: str) -> list[Any]:
        """A figure of a variant's runs, one a seed.

        Raises:
            DataError: it is not known, for instance of a derived model that was never trained.
        """
        values = [run.get(name) for run in self.runs if run["variant"] == variant]
        if None in values:
            raise DataError(f"recipe.expectations: {name} of {variant} is not known: it was not trained by itself")
        return values


def _is(row: Mapping[str, Any], variant: str, beam: int, batch: int) -> bool:
    return (row["variant"], row["beam"], row["batch"]) == (variant, beam, batch)


def run_figures(job: Job) -> dict[str, Any]:
    """What a model's making tells: of a training its time and its best validation."""
    facts: dict[str, Any] = {"variant": job.variant, "seed": job.seed, "folder": str(job.folder), "command": str(job)}
    train, valid = metrics(job.folder, "train"), metrics(job.folder, "valid")
    if not train:
        return facts
    seconds = [1 / line["updates_per_second"] for line in train if line.get("updates_per_second")]
    facts.update(updates=train[-1]["update"], seconds=train[-1]["seconds"])
    facts["update_seconds"] = [float(q) for q in np.percentile(seconds, [25, 50, 75])] if seconds else None
    facts["parameters"] = read_json(job.folder / "manifest.json")[0]["parameters"]
    for name, best in (("bleu", max), ("ppl", min)):
        values = [line[name] for line in valid if line.get(name) is not None]
        if values:
            facts[name if name == "ppl" else f"valid_{name}"] = best(values)
    return facts


def found_of(expected: ExpectationOptions, recipe: RecipeOptions, all_: Measurements) -> Found:
    """What was measured of an expectation."""
    variant, against = expected.variant, str(expected.against)
    beam, batch = expected.beam or recipe.benchmark.beams[0], expected.batch or recipe.benchmark.batches[0]
    if expected.metric is Measure.bleu:
        return _bleu(all_, variant, against, beam, batch)
    if expected.metric is Measure.speed:
        return speed_ratio(all_, variant, against, beam, batch)
    if expected.metric is Measure.update_seconds:
        ours, theirs = (np.mean(all_.of_runs(name, "update_seconds"), axis=0) for name in (variant, against))
        return Found(float(ours[1] / theirs[1]), float(ours[0] / theirs[2]), float(ours[2] / theirs[0]))
    if expected.metric is Measure.ppl:
        pairs = [a / b for a in all_.of_runs(variant, "ppl") for b in all_.of_runs(against, "ppl")]
        value = mean(all_.of_runs(variant, "ppl")) / mean(all_.of_runs(against, "ppl"))
        return Found(value, min(pairs), max(pairs), tested=len(pairs) > 1)
    name = expected.metric.value
    ratio = _size(all_, variant, name) / _size(all_, against, name)
    return Found(ratio, ratio, ratio)


def _size(all_: Measurements, variant: str, name: str) -> float:
    counted = [float(row[name]) for row in all_.rows if row["variant"] == variant]
    return counted[0] if counted else float(all_.of_runs(variant, name)[0])


def _bleu(all_: Measurements, variant: str, against: str, beam: int, batch: int) -> Found:
    ours, theirs = all_.texts(variant, beam, batch), all_.texts(against, beam, batch)
    difference = bleu_difference(ours, theirs, all_.references)
    return Found(difference.delta, difference.low, difference.high)


def speed_ratio(all_: Measurements, variant: str, against: str, beam: int, batch: int) -> Found:
    """How many times as many sentences a second: median, least and most of the ratios pass by pass."""
    pairs = zip(all_.rates(variant, beam, batch), all_.rates(against, beam, batch))
    ratios = [a / b for ours, theirs in pairs for a, b in zip(ours, theirs)]
    return Found(median(ratios), min(ratios), max(ratios), tested=len(ratios) > 1)


def verdict(found: Found, at_least: float | None, at_most: float | None) -> str:
    """``holds``, ``does not hold`` or ``not distinguishable``; what no test supports says so."""
    least, most = -np.inf if at_least is None else at_least, np.inf if at_most is None else at_most
    untested = "" if found.tested else " (one measurement, no test)"
    if least <= found.low and found.high <= most:
        return f"holds{untested}"
    if found.high < least or found.low > most:
        return f"does not hold{untested}"
    return "not distinguishable"


def judge(recipe: RecipeOptions, all_: Measurements) -> list[dict[str, Any]]:
    """Every expectation with what was found and the verdict."""
    verdicts = []
    for expected in recipe.expectations:
        found = found_of(expected, recipe, all_)
        told: dict[str, Any] = {
            "metric": expected.metric.value,
            "variant": expected.variant,
            "against": expected.against,
        }
        if expected.metric in (Measure.bleu, Measure.speed):
            told["beam"] = expected.beam or recipe.benchmark.beams[0]
            told["batch"] = expected.batch or recipe.benchmark.batches[0]
        told.update(at_least=expected.at_least, at_most=expected.at_most)
        told.update(value=found.value, low=found.low, high=found.high, tested=found.tested)
        told["verdict"] = verdict(found, expected.at_least, expected.at_most)
        verdicts.append(told)
    return verdicts


def comparisons(recipe: RecipeOptions, all_: Measurements) -> list[dict[str, Any]]:
    """BLEU of every variant beside the baseline, with sacrebleu's p for each seed and the interval over all."""
    beam, batch = recipe.benchmark.beams[0], recipe.benchmark.batches[0]
    base = all_.texts(recipe.baseline, beam, batch)
    found = []
    for name in recipe.variants:
        if name == recipe.baseline:
            continue
        ours = all_.texts(name, beam, batch)
        overall = _bleu(all_, name, recipe.baseline, beam, batch)
        p_values = [paired_bootstrap(a, b, all_.references, metrics=("bleu",))[0].p_value for a, b in zip(ours, base)]
        line: dict[str, Any] = {"variant": name, "against": recipe.baseline, "beam": beam, "batch": batch}
        line.update(delta=overall.value, low=overall.low, high=overall.high, p_values=p_values)
        found.append(line)
    return found


def by_seed(rows: Sequence[Mapping[str, Any]], variant: str, beam: int, batch: int, name: str) -> list[float]:
    """A column of a variant's rows, one value a seed."""
    return [float(row[name]) for row in rows if _is(row, variant, beam, batch) and row[name] is not None]
