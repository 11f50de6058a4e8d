"""A variant in one line: quality, difference to the baseline, speed and size, over all of its trainings."""

from __future__ import annotations

from dataclasses import asdict
from statistics import mean, median
from typing import Any

from nmt.reproduction.judge import speed_ratio
from nmt.reproduction.measurements import Measurements
from nmt.reproduction.options import RecipeMetric, RecipeOptions


def summary(recipe: RecipeOptions, all_: Measurements) -> list[dict[str, Any]]:
    """The figures of every variant, as plain values.

    ``bleu``, ``chrf`` and ``ppl`` have a value for each seed; they are those of the first beam and batch size, as are
    ``bleu_ci`` (of a single training) and ``latency_ms``. Of ``speed`` see ``speed_ratio``; ``update_seconds`` is None
    where trainings ran side by side, or where there is none.
    """
    return [{"variant": name, **_figures(name, recipe, all_)} for name in recipe.variants]


def _figures(name: str, recipe: RecipeOptions, all_: Measurements) -> dict[str, Any]:
    runs = [run for run in all_.runs if run["variant"] == name]
    updates = [run["update_seconds"][1] for run in runs if run.get("update_seconds")]
    found: dict[str, Any] = {
        "update_seconds": mean(updates) if updates and not all_.side_by_side else None,
        "ppl": [run["ppl"] for run in runs if "ppl" in run],
    }
    if recipe.metric is RecipeMetric.ppl:
        sizes = [run["parameters"] for run in runs if "parameters" in run]
        return {**found, "parameters": mean(sizes) if sizes else None}
    bench = recipe.benchmark
    first = (bench.beams[0], bench.batches[0])
    bleu, intervals = all_.column(name, *first, "bleu"), all_.column(name, *first, "bleu_ci")
    speed = [
        {"beam": beam, "batch": batch, **asdict(speed_ratio(all_, name, recipe.baseline, beam, batch))}
        for beam in bench.beams
        for batch in bench.batches
    ]
    return {
        **found,
        "bleu": bleu,
        "bleu_ci": intervals[0] if len(intervals) == 1 else None,
        "chrf": all_.column(name, *first, "chrf"),
        "latency_ms": median(all_.column(name, *first, "latency_p50_ms")),
        "speed": speed,
        "parameters": mean(all_.sizes(name, "parameters")),
        "bytes": mean(all_.sizes(name, "bytes")),
    }
