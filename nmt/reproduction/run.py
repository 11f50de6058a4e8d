"""What ``nmt-reproduce`` does: plan, make the models, measure them, and report."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import asdict
from enum import Enum
from pathlib import Path
from typing import Any

from nmt.benchmark.kept import text_digest
from nmt.benchmark.options import BenchOptions, BenchSearchOptions
from nmt.benchmark.run import Benchmarked, benchmark
from nmt.data.corpus import Corpus
from nmt.device import torch_device
from nmt.provenance import num_cores, provenance
from nmt.reproduction.choose import choose
from nmt.reproduction.estimate import tell_duration
from nmt.reproduction.judge import baseline_quality, comparisons, judge
from nmt.reproduction.make import make_all
from nmt.reproduction.measurements import Measurements, run_figures, unigram_perplexity
from nmt.reproduction.options import RecipeMetric, ReproduceOptions
from nmt.reproduction.plan import Job, plan, trials
from nmt.reproduction.report import check_folder, write_results
from nmt.reproduction.summary import summary

logger = logging.getLogger(__name__)

KEPT_FOLDER = "measured"
"""Beside the models: what was measured of them, so that a measurement that was stopped goes on."""


def run_recipe(options: ReproduceOptions) -> str:
    """Make what is missing, measure all, and write the report and what belongs to it into ``out``.

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
    corpus = Corpus.open(options.corpus)
    corpus.split(options.split)  # there is one
    tell_duration(options, corpus, first)
    make_all(first, options.jobs)
    choices = choose(tried)
    jobs = plan(options, {trial.variant: trial.choice for trial in choices if trial.chosen})
    make_all([job for job in jobs if job not in first], options.jobs)
    all_ = Measurements(runs=[run_figures(job) for job in jobs], side_by_side=options.jobs > 1)
    device = torch_device(options.device).type
    if recipe.metric is RecipeMetric.bleu:
        device = _translate(options, jobs, corpus, all_)
    else:
        all_.unigram_ppl = unigram_perplexity(corpus)
    split, bench = corpus.manifest.splits[options.split], recipe.benchmark
    results: dict[str, Any] = {
        "recipe": _plain(asdict(recipe)),
        "scale": options.scale.name,
        "seeds": options.all_seeds,
        "corpus": {
            "folder": options.corpus,
            "digest": corpus.digest,
            "split": options.split,
            "lines": split.lines,
            "reference_digest": text_digest(all_.references) if all_.rows else None,
        },
        "train_overrides": options.train_overrides,
        "choices": [asdict(trial) for trial in choices],
        "commands": [str(job) for job in dict.fromkeys([*first, *jobs])],
        "baseline": baseline_quality(recipe, all_),
        "verdicts": judge(recipe, all_),
        "comparisons": comparisons(recipe, all_) if all_.rows else [],
        "variants": summary(recipe, all_),
        "runs": all_.runs,
        "rows": all_.rows,
        "forced_rows": all_.speed_rows if all_.speed_rows is not all_.rows else [],
        "facts": {
            **provenance(),
            "device": device,
            "threads": options.threads or num_cores(),
            "jobs": options.jobs,
            "lines_timed": min(split.lines, bench.lines or split.lines),
            "repeats": bench.repeats,
        },
    }
    return write_results(Path(options.out), results, [measured.texts for measured in all_.measured])


def _later(options: ReproduceOptions, tried: Sequence[Job]) -> list[str]:
    """What a plan says of the models that wait for a choice."""
    lines = []
    for variant in dict.fromkeys(job.variant for job in tried):
        named = ", ".join(options.choices_of(variant))
        others = ", ".join(map(str, options.all_seeds[1:]))
        more = f"; then the better one with seeds {others}" if others else ""
        lines.append(f"# {variant}: one of {named} is chosen on the validation set{more}, and what is derived from it")
    return lines


def _translate(options: ReproduceOptions, jobs: Sequence[Job], corpus: Corpus, all_: Measurements) -> str:
    """Translate the test set with all models and time them, those of one seed in turn; the device's name."""
    sources = corpus.split(options.split).source_texts()
    all_.references = corpus.split(options.split).target_texts()
    forced, device = options.recipe.benchmark.forced_length, ""
    for seed in options.all_seeds:
        own = [job for job in jobs if job.seed == seed]
        own.sort(key=lambda job: job.variant != options.recipe.baseline)  # the first is what speed is a multiple of
        done = _benchmark(options, own, sources, all_.references, None)
        all_.rows += _named(done, own)
        all_.measured += done.measured
        device = done.facts["device"]
        if forced is not None:
            done = _benchmark(options, own, sources, None, forced)
            all_.speed_rows += _named(done, own)
            all_.speed_measured += done.measured
    if forced is None:
        all_.speed_rows, all_.speed_measured = all_.rows, all_.measured
    return str(device)


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
    return benchmark(given, sources, references, options.runs_folder / KEPT_FOLDER)


def _named(done: Benchmarked, jobs: Sequence[Job]) -> list[dict[str, Any]]:
    """Rows of a benchmark with the variant and seed of each, and what its checkpoint holds."""
    names = {str(job.folder): {"variant": job.variant, "seed": job.seed} for job in jobs}
    digests = {name: origin["digest"] for name, origin in done.facts["checkpoints"].items()}
    return [{**names[row["checkpoint"]], **row, "digest": digests[row["checkpoint"]]} for row in done.rows]


def _plain(value: Any) -> Any:
    """Enums by their values."""
    if isinstance(value, dict):
        return {key: _plain(child) for key, child in value.items()}
    if isinstance(value, list):
        return [_plain(child) for child in value]
    return value.value if isinstance(value, Enum) else value
