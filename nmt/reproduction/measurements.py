"""All that was measured of a recipe's models, and where to find a figure in it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from nmt.benchmark.measure import Measured
from nmt.config import DataError
from nmt.data.corpus import Corpus
from nmt.metrics.scoring import Comparison
from nmt.reproduction.make import metrics
from nmt.reproduction.plan import Job
from nmt.untrusted import read_json


@dataclass
class Measurements:
    """Figures by variant and seed.

    Attributes:
        runs: figures of each training or derived model; see `run_figures`.
        rows: of the benchmark, each with its variant and seed.
        measured: translations and passes of each row.
        speed_rows: rows of the benchmark with a forced length, or ``rows`` where there is none.
        speed_measured: passes of each of these.
        references: of the test set.
        side_by_side: whether several trainings ran at a time, so that their times say little.
        unigram_ppl: perplexity of the validation set by the frequencies of the training words, which knows no context;
            where quality is a perplexity.
        compared: differences of BLEU by variant, other variant, beam and batch size.
    """

    runs: list[dict[str, Any]]
    rows: list[dict[str, Any]] = field(default_factory=list)
    measured: list[Measured] = field(default_factory=list)
    speed_rows: list[dict[str, Any]] = field(default_factory=list)
    speed_measured: list[Measured] = field(default_factory=list)
    references: list[str] = field(default_factory=list)
    side_by_side: bool = False
    unigram_ppl: float = float("nan")
    compared: dict[tuple[str, str, int, int], Comparison] = field(default_factory=dict)

    def texts(self, variant: str, beam: int, batch: int) -> list[list[str]]:
        """Translations of the test set by a variant, one list a seed."""
        return [m.texts or [] for r, m in zip(self.rows, self.measured) if _is(r, variant, beam, batch)]

    def rates(self, variant: str, beam: int, batch: int) -> list[list[float]]:
        """Sentences a second of each pass, one list a seed."""
        return [m.rates for r, m in zip(self.speed_rows, self.speed_measured) if _is(r, variant, beam, batch)]

    def column(self, variant: str, beam: int, batch: int, name: str) -> list[float]:
        """A column of a variant's rows, one value a seed."""
        return [float(row[name]) for row in self.rows if _is(row, variant, beam, batch) and row[name] is not None]

    def sizes(self, variant: str, name: str) -> list[float]:
        """``parameters`` or ``bytes`` of a variant's models, one a seed."""
        counted = {row["seed"]: float(row[name]) for row in self.rows if row["variant"] == variant}
        return list(counted.values()) or [float(value) for value in self.of_runs(variant, name)]

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
    facts: dict[str, Any] = {"variant": job.variant, "seed": job.seed, "choice": job.choice}
    facts.update(folder=str(job.folder), command=str(job))
    train, valid = metrics(job.folder, "train"), metrics(job.folder, "valid")
    if not train:
        return facts
    manifest = read_json(job.folder / "manifest.json")
    seconds = [1 / line["updates_per_second"] for line in train if line.get("updates_per_second")]
    facts.update(updates=train[-1]["update"], seconds=train[-1]["seconds"])
    facts["update_seconds"] = [float(q) for q in np.percentile(seconds, [25, 50, 75])] if seconds else None
    facts.update(parameters=manifest[0]["parameters"], git=manifest[0].get("git"), time=manifest[0].get("time"))
    for name, best in (("bleu", max), ("ppl", min)):
        values = [line[name] for line in valid if line.get(name) is not None]
        if values:
            facts[name if name == "ppl" else f"valid_{name}"] = best(values)
    return facts


def unigram_perplexity(corpus: Corpus) -> float:
    """Perplexity of the validation set by how often each target word occurs in training (one is added to each)."""
    train, valid = (corpus.split(name).counts("target").astype(np.float64) for name in ("train", "valid"))
    lprobs = np.log(train + 1) - np.log((train + 1).sum())
    return float(np.exp(-(valid * lprobs).sum() / valid.sum()))
