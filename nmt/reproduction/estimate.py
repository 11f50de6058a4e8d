"""How long a reproduction will take, told before it starts: from a short training and a few timed sentences."""

from __future__ import annotations

import logging
import subprocess
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import mean

from nmt.benchmark.options import OWN, SystemSpec
from nmt.benchmark.system import Search
from nmt.benchmark.worker import Settings, SystemFailed, Worker
from nmt.checkpoints.checkpoint import resolve_checkpoint
from nmt.config import ConfigError, DataError
from nmt.data.corpus import Corpus
from nmt.overrides import literal
from nmt.provenance import num_cores
from nmt.reproduction.make import fraction, metrics
from nmt.reproduction.options import RecipeMetric, ReproduceOptions
from nmt.reproduction.plan import Job, run_folder

logger = logging.getLogger(__name__)

PROBE = ("train.max_updates=20", "train.log_every=5", "validate.translate=false", "validate.metric=loss")
"""What makes a training a short one; figures of its first five updates are left out."""
PROBE_LINES = 4
"""Timed lines where sentences are translated one by one."""


@dataclass(frozen=True)
class Estimate:
    """Seconds that are left, and what they are made of.

    Attributes:
        trainings: how many are left, in whole trainings.
        training: seconds of one, alone on the machine.
        train_seconds: of all that are left.
        models: to be measured; 0 where nothing is translated.
        measure_seconds: of all of them.
    """

    trainings: float
    training: float
    train_seconds: float
    models: int
    measure_seconds: float

    def __str__(self) -> str:
        whole = f"this will take about {duration(self.train_seconds + self.measure_seconds)}"
        measuring = f"in which {self.models} models translate and are timed"
        if not self.trainings:
            return f"{whole}, {measuring}"
        trainings = f"{self.trainings:.3g} trainings of some {duration(self.training)} each"
        return f"{whole}: {trainings}" + (f", then {duration(self.measure_seconds)} {measuring}" if self.models else "")


def duration(seconds: float) -> str:
    """Seconds as a person says them."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 90 else f"{minutes // 60} h {minutes % 60} min"


def tell_duration(options: ReproduceOptions, corpus: Corpus, first: Sequence[Job]) -> None:
    """Log how long all will take; where that cannot be told, why.

    Args:
        options: of the command.
        corpus: opened.
        first: the jobs that start first.
    """
    try:
        logger.info("%s", estimate(options, corpus, first))
    except (ConfigError, DataError, SystemFailed) as error:
        logger.info("how long this will take is not known: %s", error)


def estimate(options: ReproduceOptions, corpus: Corpus, first: Sequence[Job]) -> Estimate:
    """Measure a short training of the baseline, and a few translations by its model.

    Raises:
        ConfigError: trainings end by patience, so that nobody knows when.
        DataError: the short training failed.
        SystemFailed: its model cannot translate.
    """
    trainings = [job for job in first if job.source is None]
    job = next((job for job in trainings if job.variant == options.recipe.baseline), trainings[0])
    left = trainings_left(options, first)
    with tempfile.TemporaryDirectory(prefix="nmt-reproduce-") as temporary:
        run = _probe(job, Path(temporary) / "run") if left else job.folder
        translated = options.recipe.metric is RecipeMetric.bleu
        line_seconds = _line_seconds(options, corpus, run) if translated else {}
        training = _training_seconds(job, corpus, run, min(line_seconds.values(), default=0.0)) if left else 0.0
    cores = num_cores()
    crowd = max(1.0, options.jobs * (options.threads or cores) / cores)  # threads for each core
    models = len(options.all_seeds) * len(options.recipe.variants) if translated else 0
    measuring = models * _measure_seconds(options, corpus, line_seconds)
    return Estimate(left, training, left * training * crowd / options.jobs, models, measuring)


def trainings_left(options: ReproduceOptions, first: Sequence[Job]) -> float:
    """How many trainings are still to be made, a started one in part; those that wait for a choice among them."""
    left = sum(1 - fraction(job) for job in first if job.source is None)
    for name in options.recipe.variants:
        for seed in options.all_seeds[1:]:
            folders = [run_folder(options, name, seed, choice) for choice in options.choices_of(name)]
            done = [fraction(replace(first[0], folder=folder)) for folder in folders]
            left += 1 - max(done) if done else 0
    return left


def _probe(job: Job, run: Path) -> Path:
    """Train the job's model for some updates in a run of its own."""
    words = [*job.words, f"run={literal(str(run))}", *PROBE]
    done = subprocess.run(words, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    if done.returncode:
        lines = done.stdout.strip().splitlines()
        raise DataError(f"{job.folder.name}: {lines[-1] if lines else 'it said nothing'}")
    return run


def _training_seconds(job: Job, corpus: Corpus, run: Path, line_seconds: float) -> float:
    """Of a whole training: its updates, and the translations of its validations (one an epoch)."""
    lines = metrics(run, "train")[1:] or metrics(run, "train")
    updates, tokens = (mean(float(line[f"{name}_per_second"]) for line in lines) for name in ("updates", "tokens"))
    train, valid = corpus.manifest.splits["train"], corpus.manifest.splits["valid"]
    epoch = (train.tokens.target + train.lines) / tokens  # with the end of each sentence
    ends = [job.epochs * epoch] if job.epochs else []
    ends += [job.updates / updates] if job.updates else []
    if not ends:
        raise ConfigError("neither train.max_epochs nor train.max_updates is given")
    return min(ends) + max(1, round(min(ends) / epoch)) * valid.lines * line_seconds


def _line_seconds(options: ReproduceOptions, corpus: Corpus, checkpoint: Path) -> dict[tuple[int, int], float]:
    """Seconds a line by beam and batch size, with translations as long as the references are on average."""
    bench, split = options.recipe.benchmark, corpus.manifest.splits[options.split]
    length = bench.forced_length or max(1, round(split.tokens.target / max(1, split.lines)) + 1)
    folder = str(resolve_checkpoint(checkpoint))
    lines = [corpus.split(options.split).source_text(i % split.lines) for i in range(max(bench.batches))]
    found = {}
    settings = Settings(options.device, options.threads or num_cores(), tuple(options.plugins))
    with Worker(SystemSpec(OWN, folder, bench.precision, folder), settings) as worker:
        for beam in bench.beams:
            for batch in {1, *bench.batches}:
                search = Search(beam, bench.length_penalty, length)
                timed = lines[: max(batch, PROBE_LINES)]
                worker.translate(lines[:1], search, 1)
                found[beam, batch] = worker.translate(timed, search, batch).seconds / len(timed)
    return found


def _measure_seconds(options: ReproduceOptions, corpus: Corpus, line_seconds: dict[tuple[int, int], float]) -> float:
    """Of one model: the whole test set once, and the timed lines so many times, for each beam and batch size."""
    lines, bench = corpus.manifest.splits[options.split].lines, options.recipe.benchmark
    timed = bench.repeats * min(lines, lines if bench.lines is None else bench.lines)
    return sum(seconds * (lines + timed) for seconds in line_seconds.values())
