"""What ``nmt-reproduce`` does: plan, make the models, measure them, and report."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import asdict
from enum import Enum
from pathlib import Path
from typing import Any

from nmt.benchmark.options import BenchOptions, BenchSearchOptions
from nmt.benchmark.run import Benchmarked, benchmark
from nmt.data.corpus import Corpus
from nmt.device import torch_device
from nmt.provenance import provenance
from nmt.reproduction.choose import choose
from nmt.reproduction.judge import Measurements, comparisons, judge, run_figures
from nmt.reproduction.make import make_all
from nmt.reproduction.options import RecipeMetric, ReproduceOptions
from nmt.reproduction.plan import Job, plan, trials
from nmt.reproduction.report import check_folder, write_results

logger = logging.getLogger(__name__)


def run_recipe(options: ReproduceOptions) -> str:
    """Make what is missing, measure all, and write ``report.md``, ``results.json`` and ``plot.png`` into ``out``.

    Returns:
        The text of the report, or with ``plan`` the commands.

    Raises:
        ConfigError: an option or the recipe is wrong, or ``out`` holds something else.
        DataError: the corpus or a checkpoint is damaged.
        RunFailed: a model could not be made.
        SystemFailed: a model failed while it was measured.
    """
    recipe = options.recipe
    check_folder(Path(options.out))
    tried = trials(options)
    first = [*tried, *plan(options, {})]
    if options.plan:
        return "\n".join([*map(str, first), *_later(options, tried)])
    test = Corpus.open(options.corpus)
    translated = recipe.metric is RecipeMetric.bleu
    sources = test.split(options.split).source_texts() if translated else []
    references = test.split(options.split).target_texts() if translated else []
    make_all(first, options.jobs)
    choices = choose(tried)
    jobs = plan(options, {trial.variant: trial.choice for trial in choices if trial.chosen})
    make_all([job for job in jobs if job not in first], options.jobs)
    all_ = Measurements(runs=[run_figures(job) for job in jobs], references=references)
    device = torch_device(options.device).type
    if translated:
        done = _benchmark(options, jobs, sources, references, None)
        all_.rows, all_.measured, device = _named(done, jobs), done.measured, done.facts["device"]
        all_.speed_rows, all_.speed_measured = all_.rows, all_.measured
        if recipe.benchmark.forced_length is not None:
            forced = _benchmark(options, jobs, sources, None, recipe.benchmark.forced_length)
            all_.speed_rows, all_.speed_measured = _named(forced, jobs), forced.measured
    results: dict[str, Any] = {
        "recipe": _plain(asdict(recipe)),
        "scale": options.scale.name,
        "seeds": options.all_seeds,
        "corpus": {"folder": options.corpus, "digest": test.digest, "split": options.split},
        "train_overrides": options.train_overrides,
        "choices": [asdict(trial) for trial in choices],
        "commands": [str(job) for job in dict.fromkeys([*first, *jobs])],
        "verdicts": judge(recipe, all_),
        "comparisons": comparisons(recipe, all_) if translated else [],
        "runs": all_.runs,
        "rows": all_.rows,
        "forced_rows": all_.speed_rows if all_.speed_rows is not all_.rows else [],
        "facts": {**provenance(), "device": device, "threads": options.threads},
    }
    return write_results(options, results, all_)


def _later(options: ReproduceOptions, tried: Sequence[Job]) -> list[str]:
    """What a plan says of the models that wait for a choice."""
    lines = []
    for variant in dict.fromkeys(job.variant for job in tried):
        named = ", ".join(options.choices_of(variant))
        others = ", ".join(map(str, options.all_seeds[1:]))
        more = f"; then the better one with seeds {others}" if others else ""
        lines.append(f"# {variant}: one of {named} is chosen on the validation set{more}, and what is derived from it")
    return lines


def _benchmark(
    options: ReproduceOptions, jobs: Sequence[Job], sources: list[str], references: list[str] | None, forced: int | None
) -> Benchmarked:
    bench = options.recipe.benchmark
    given = BenchOptions(
        checkpoint=[str(job.folder) for job in jobs],
        input=f"{options.corpus}/{options.split}",
        reference=None if references is None else f"{options.corpus}/{options.split}",
        out=options.out,
        precision=[bench.precision],
        peers=[],
        batch=bench.batches,
        lines=bench.lines,
        repeats=bench.repeats,
        forced_length=forced,
        profile=False,
        device=options.device,
        threads=options.threads,
        plugins=options.plugins,
        search=BenchSearchOptions(bench.beams, bench.length_penalty),
    )
    return benchmark(given, sources, references)


def _named(done: Benchmarked, jobs: Sequence[Job]) -> list[dict[str, Any]]:
    """Rows of a benchmark with the variant and seed of each."""
    names = {str(job.folder): {"variant": job.variant, "seed": job.seed} for job in jobs}
    return [{**names[row["checkpoint"]], **row} for row in done.rows]


def _plain(value: Any) -> Any:
    """Enums by their values."""
    if isinstance(value, dict):
        return {key: _plain(child) for key, child in value.items()}
    if isinstance(value, list):
        return [_plain(child) for child in value]
    return value.value if isinstance(value, Enum) else value
