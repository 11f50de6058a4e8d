"""From measurements to verdicts: what was expected, what was found, and whether the figures can tell."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import mean, median
from typing import Any

import numpy as np

from nmt.metrics.scoring import Comparison, compare
from nmt.metrics.significance import holm
from nmt.reproduction.measurements import Measurements
from nmt.reproduction.options import ExpectationOptions, Measure, RecipeMetric, RecipeOptions

ONE_TRAINING = "one training: no test"
ONE_PASS = "one pass: no test"
SIDE_BY_SIDE = "trainings side by side: no test"
NOT_TRAINED = "not trained enough"

EXACT = (Measure.parameters, Measure.bytes)
"""What is counted and not measured."""


@dataclass(frozen=True)
class Found:
    """A difference or a ratio with the interval that its measurements leave open.

    Attributes:
        value: variant against the other one.
        low: lower end.
        high: upper end.
        untested: why no test supports the interval; empty where one does, or where figures are counted.
    """

    value: float
    low: float
    high: float
    untested: str = ""


def found_of(expected: ExpectationOptions, recipe: RecipeOptions, all_: Measurements) -> Found:
    """What was measured of an expectation: a difference of BLEU, or a ratio of anything else."""
    variant, against = expected.variant, str(expected.against)
    beam, batch = expected.beam or recipe.benchmark.beams[0], expected.batch or recipe.benchmark.batches[0]
    if expected.metric is Measure.bleu:
        told = bleu_difference(recipe, all_, variant, against, beam, batch)
        return Found(told.delta, told.low, told.high, ONE_TRAINING if told.trainings == 1 else "")
    if expected.metric is Measure.speed:
        return speed_ratio(all_, variant, against, beam, batch)
    if expected.metric in EXACT:
        return _ratio(all_.sizes(variant, expected.metric.value), all_.sizes(against, expected.metric.value))
    name = expected.metric.value
    ours, theirs = (all_.of_runs(which, name) for which in (variant, against))
    if expected.metric is Measure.update_seconds:
        untested = SIDE_BY_SIDE if all_.side_by_side else ""
        ours, theirs = ([quartiles[1] for quartiles in group] for group in (ours, theirs))
        return _ratio(ours, theirs, untested or (ONE_TRAINING if len(ours) == 1 else ""))
    return _ratio(ours, theirs, ONE_TRAINING if len(ours) == 1 else "")


def _ratio(ours: Sequence[float], theirs: Sequence[float], untested: str = "") -> Found:
    """Ratio of the means over the trainings; least and most of any training against any."""
    pairs = [a / b for a in ours for b in theirs]
    return Found(mean(ours) / mean(theirs), min(pairs), max(pairs), untested)


def bleu_difference(
    recipe: RecipeOptions, all_: Measurements, variant: str, against: str, beam: int, batch: int
) -> Comparison:
    """The difference of BLEU over all trainings; computed once."""
    key = (variant, against, beam, batch)
    if key not in all_.compared:
        ours, theirs = all_.texts(variant, beam, batch), all_.texts(against, beam, batch)
        paired = recipe.trained(variant) == recipe.trained(against)
        all_.compared[key] = compare(ours, theirs, all_.references, paired=paired)
    return all_.compared[key]


def speed_ratio(all_: Measurements, variant: str, against: str, beam: int, batch: int) -> Found:
    """How many times as many sentences a second: median, least and most of the ratios pass by pass, of all seeds."""
    pairs = zip(all_.rates(variant, beam, batch), all_.rates(against, beam, batch), strict=True)
    ratios = [a / b for ours, theirs in pairs for a, b in zip(ours, theirs, strict=True)]
    return Found(median(ratios), min(ratios), max(ratios), ONE_PASS if len(ratios) == 1 else "")


def verdict(found: Found, at_least: float | None, at_most: float | None) -> str:
    """``holds``, ``does not hold`` or ``not distinguishable``; or why there is no test."""
    if found.untested:
        return found.untested
    least, most = -np.inf if at_least is None else at_least, np.inf if at_most is None else at_most
    if least <= found.low and found.high <= most:
        return "holds"
    if found.high < least or found.low > most:
        return "does not hold"
    return "not distinguishable"


def baseline_quality(recipe: RecipeOptions, all_: Measurements) -> dict[str, Any]:
    """What the trainings of the baseline reach beside what they must for anything to be judged by them."""
    if recipe.metric is RecipeMetric.ppl:
        reached = all_.of_runs(recipe.baseline, "ppl")
        worst, limit = max(reached), recipe.max_ppl * all_.unigram_ppl
        return {"metric": "ppl", "worst": worst, "limit": limit, "enough": bool(worst <= limit)}
    beam, batch = recipe.benchmark.beams[0], recipe.benchmark.batches[0]
    worst = min(all_.column(recipe.baseline, beam, batch, "bleu"))
    return {"metric": "bleu", "worst": worst, "limit": recipe.min_bleu, "enough": bool(worst >= recipe.min_bleu)}


def judge(recipe: RecipeOptions, all_: Measurements) -> list[dict[str, Any]]:
    """Every expectation with what was found and the verdict."""
    enough, verdicts = baseline_quality(recipe, all_)["enough"], []
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
        told.update(value=found.value, low=found.low, high=found.high)
        judged = enough or expected.metric in EXACT
        told["verdict"] = verdict(found, expected.at_least, expected.at_most) if judged else NOT_TRAINED
        verdicts.append(told)
    return verdicts


def comparisons(recipe: RecipeOptions, all_: Measurements) -> list[dict[str, Any]]:
    """BLEU of every variant beside the baseline: difference, interval and p-value, also adjusted for their number."""
    beam, batch = recipe.benchmark.beams[0], recipe.benchmark.batches[0]
    found = []
    for name in recipe.variants:
        if name != recipe.baseline:
            told = bleu_difference(recipe, all_, name, recipe.baseline, beam, batch)
            line: dict[str, Any] = {"variant": name, "against": recipe.baseline, "beam": beam, "batch": batch}
            line.update(difference=told.delta, low=told.low, high=told.high, p_value=told.p_value)
            line.update(trainings=told.trainings, paired=told.paired, samples=told.samples, seed=told.seed)
            found.append(line)
    for line, adjusted in zip(found, holm([line["p_value"] for line in found])):
        line["p_holm"] = adjusted
    return found
