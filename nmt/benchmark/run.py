"""What ``nmt-bench`` does: open systems, measure them side by side, write the results."""

from __future__ import annotations

import logging
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import torch

from nmt.benchmark.kept import Kept, text_digest
from nmt.benchmark.measure import Cell, Measured, Start, measure, measure_starts, speedup
from nmt.benchmark.options import OWN, BenchOptions, SystemSpec
from nmt.benchmark.own import checkpoint_digest
from nmt.benchmark.profile import profile_decoding
from nmt.benchmark.report import RESULTS_FILE, check_folder, write_report
from nmt.benchmark.system import Search
from nmt.benchmark.worker import Settings
from nmt.checkpoints.checkpoint import Checkpoint, resolve_checkpoint
from nmt.config import ConfigError
from nmt.device import torch_device
from nmt.generation.defaults import defaults_of, describe_search, taken_defaults
from nmt.interchange.export import export_checkpoint
from nmt.metrics.scoring import check_counts, compare, corpus_score
from nmt.metrics.significance import holm
from nmt.provenance import num_cores, provenance
from nmt.registry import build, discover
from nmt.tasks.interfaces import Task
from nmt.text.input import read_lines
from nmt.untrusted import read_json

logger = logging.getLogger(__name__)

BOOTSTRAP_SAMPLES = 1000
PACKAGES = {"ctranslate2": "ctranslate2", "hf": "transformers"}
"""What a peer needs installed."""


@dataclass(frozen=True)
class Benchmarked:
    """What a benchmark found.

    Attributes:
        rows: see docs/benchmark.md.
        measured: of each row: its translations and the seconds of its passes.
        facts: where the figures come from.
    """

    rows: list[dict[str, Any]]
    measured: list[Measured]
    facts: dict[str, Any]


def run_benchmark(options: BenchOptions) -> list[dict[str, Any]]:
    """Measure, and write ``results.json``, ``report.md`` and the plots into ``out``.

    Returns:
        The rows.

    Raises:
        ConfigError: an option is wrong, a package is missing, or a model has no equal in a peer.
        DataError: a file is missing or damaged, or input and reference differ in length.
        SystemFailed: a system failed while it was measured.
    """
    out = Path(options.out)
    check_folder(out)
    lines = read_lines(options.input, "input")
    if not any(line.strip() for line in lines):
        raise ConfigError(f"input={options.input}: there is no text in it")
    references = None if options.reference is None else read_lines(options.reference, "reference")
    if references is not None:
        check_counts({options.input: lines, str(options.reference): references})
    done = benchmark(options, lines, references)
    if references is not None:
        add_differences(done.rows, done.measured, references)
    settings = Settings(options.device, options.threads or num_cores(), tuple(options.plugins))
    profiles = profile_decoding(options, settings, spread(lines, options.lines)) if options.profile else []
    texts = [measured.texts for measured in done.measured]
    write_report(out, done.rows, done.facts, profiles, texts)
    logger.info("%s: %d rows", out / RESULTS_FILE, len(done.rows))
    return done.rows


def benchmark(
    options: BenchOptions, lines: list[str], references: list[str] | None, keep: Path | None = None
) -> Benchmarked:
    """Measure; writes no results.

    Args:
        options: of the command; its ``input`` and ``reference`` only say where the lines are from.
        lines: to translate.
        references: their translations; None where no quality is measured.
        keep: folder for what is measured, from which a call that was stopped goes on; None keeps nothing.

    Raises:
        ConfigError: an option is wrong, a package is missing, or a model has no equal in a peer.
        DataError: a model's file is missing or damaged.
        SystemFailed: a system failed while it was measured.
    """
    for name, _ in options.peer_formats:
        if find_spec(PACKAGES[name]) is None:
            raise ConfigError(f"peers={name} needs the package {PACKAGES[name]}: pip install 'nmt[peers]'")
    device = torch_device(options.device)
    settings = Settings(options.device, options.threads or num_cores(), tuple(options.plugins))
    sample = spread(lines, options.lines)
    where = torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu"
    origin = provenance("ctranslate2", "transformers")
    same = ("python", "platform", "processor", "versions", "git")
    kept = Kept(keep, {"device": where, "threads": settings.threads, **{key: origin[key] for key in same}})
    with tempfile.TemporaryDirectory(prefix="nmt-bench-") as exports:
        specs = systems(options, Path(exports))
        wanted = [
            Cell(s, search(options, beam), batch) for beam in options.beams for batch in options.batches for s in specs
        ]
        # One line in, one line out is what latency is measured by, whatever rows were asked for.
        alone = [Cell(spec, search(options, beam), 1) for beam in options.beams for spec in specs]
        cells = list(dict.fromkeys([*wanted, *alone]))
        logger.info("%d rows: each system is started by itself for each; how long the rest takes follows", len(wanted))
        starts = measure_starts(wanted, sample, settings, kept)
        quality = references is not None
        found = measure(cells, lines, sample, settings, repeats=options.repeats, quality=quality, kept=kept)
    for cell in wanted:
        if found[cell].num_failed:
            logger.warning("%s: %d lines have no translation", cell.spec, found[cell].num_failed)
    rows = [row(cell, wanted[0], starts[cell], found, references, where) for cell in wanted]
    facts = {
        **origin,
        "device": where,
        "threads": settings.threads,
        "input": options.input,
        "reference": options.reference,
        "input_digest": text_digest(lines),
        "reference_digest": None if references is None else text_digest(references),
        "checkpoints": {spec.checkpoint: origin_of(spec) for spec in specs},
        "lines": len(lines),
        "lines_timed": len(sample),
        "repeats": options.repeats,
        "forced_length": options.forced_length,
        "length_penalty": options.search.length_penalty,
        "search_defaults": {checkpoint: _taken(checkpoint, options) for checkpoint in options.checkpoints},
    }
    return Benchmarked(rows, [found[cell] for cell in wanted], facts)


def add_differences(rows: list[dict[str, Any]], measured: Sequence[Measured], references: list[str]) -> None:
    """Enter into each row how its BLEU differs from that of the first system at the same beam and batch size.

    Args:
        rows: see docs/benchmark.md.
        measured: of each.
        references: of the whole input.
    """
    tested = []
    for row, found in zip(rows, measured):
        first = next(i for i, other in enumerate(rows) if _together(row, other))
        own = dict.fromkeys(("bleu_difference", "bleu_difference_low", "bleu_difference_high", "p_value", "p_holm"))
        row.update(own)
        base = measured[first]
        if rows[first] is not row and found.texts is not None and base.texts is not None:
            told = compare([found.texts], [base.texts], references)
            row.update(bleu_difference=told.delta, bleu_difference_low=told.low, bleu_difference_high=told.high)
            row["p_value"] = told.p_value
            tested.append(row)
    for row, adjusted in zip(tested, holm([row["p_value"] for row in tested])):
        row["p_holm"] = adjusted


def _together(row: Mapping[str, Any], other: Mapping[str, Any]) -> bool:
    return bool((row["beam"], row["batch"]) == (other["beam"], other["batch"]))


def origin_of(spec: SystemSpec) -> dict[str, Any]:
    """What is known of a checkpoint: what it holds, and of a training's the command and the revision that began it."""
    folder = resolve_checkpoint(spec.checkpoint).resolve()
    known: dict[str, Any] = {"digest": spec.digest}
    manifest = folder.parent.parent / "manifest.json"
    if folder.parent.name == "checkpoints" and manifest.is_file():
        first = read_json(manifest)[0]
        known.update({key: first.get(key) for key in ("command", "git", "time", "processor")})
    return known


def spread(lines: Sequence[str], number: int | None) -> list[str]:
    """So many lines with text, evenly spread; all where there are not more."""
    full = [line for line in lines if line.strip()]
    if number is None or number >= len(full):
        return full
    return [full[i] for i in np.linspace(0, len(full) - 1, number).round().astype(int)]


def search(options: BenchOptions, beam: int) -> Search:
    """The search of a row."""
    return Search(beam, options.search.length_penalty, options.forced_length)


def systems(options: BenchOptions, exports: Path) -> list[SystemSpec]:
    """All systems: each checkpoint in each of our formats, then in each of the peers'.

    Args:
        options: of the command.
        exports: folder for the peers' models.
    """
    specs: list[SystemSpec] = []
    for number, checkpoint in enumerate(options.checkpoints):
        _check_checkpoint(checkpoint, options)
        digest = checkpoint_digest(checkpoint)
        specs.extend(SystemSpec(OWN, checkpoint, precision, checkpoint, digest) for precision in options.precisions)
        for name, precision in options.peer_formats:
            folder = exports / f"{number}-{name}"
            if not folder.exists():
                export_checkpoint(checkpoint, name, folder)
            specs.append(SystemSpec(name, checkpoint, precision, str(folder), digest))
    return specs


def _taken(checkpoint: str, options: BenchOptions) -> str:
    """The search defaults of a checkpoint that hold beside what is given."""
    given = search(options, options.beams[0]).given
    return describe_search(taken_defaults(given, {checkpoint: defaults_of(checkpoint)}))


def _check_checkpoint(checkpoint: str, options: BenchOptions) -> None:
    """What cannot be measured should show now; which search defaults it brings, too."""
    if taken := _taken(checkpoint, options):
        logger.info("%s: defaults of %s", taken, checkpoint)
    node = Checkpoint.find(checkpoint).config.task
    discover(options.plugins)
    task: Task = build("task", node, key="task")
    if not task.parallel:
        raise ConfigError(f"checkpoint={checkpoint} has task.name={node.name}; only models that translate are measured")


def row(
    cell: Cell,
    first: Cell,
    start: Start,
    found: Mapping[Cell, Measured],
    references: list[str] | None,
    device: str,
) -> dict[str, Any]:
    """A row of the results: see docs/benchmark.md.

    Args:
        cell: whose.
        first: the cell of the first row; the first one of equal search and batch has the same system.
        start: of the cell.
        found: all measurements.
        references: of the whole input.
        device: name of the device.
    """
    measured, alone = found[cell], found[Cell(cell.spec, cell.search, 1)]
    scores: dict[str, float | None] = dict.fromkeys(("bleu", "bleu_ci", "chrf", "chrf_ci"))
    if references is not None and measured.texts is not None:
        for name in ("bleu", "chrf"):
            score = corpus_score(name, measured.texts, references, samples=BOOTSTRAP_SAMPLES)
            scores.update({name: score.score, f"{name}_ci": score.interval})
    rate = median(measured.rates)
    return {
        "system": cell.spec.system,
        "checkpoint": cell.spec.checkpoint,
        "precision": cell.spec.precision,
        "beam": cell.search.beam,
        "batch": cell.batch,
        **scores,
        "sentences_per_second": rate,
        "failed": measured.num_failed,
        "tokens_per_second": rate * measured.num_tokens / measured.num_sentences,
        "ratio": speedup(measured, found[first]),
        "speedup": speedup(measured, found[Cell(first.spec, cell.search, cell.batch)]),
        "spread": (max(measured.rates) - min(measured.rates)) / rate,
        "latency_p50_ms": alone.latency_ms(50),
        "latency_p95_ms": alone.latency_ms(95),
        "load_seconds": start.loaded.seconds,
        "first_translation_seconds": start.first_seconds,
        "peak_mib": start.peak_mib,
        "parameters": start.loaded.parameters,
        "bytes": start.loaded.num_bytes,
        "device": device,
    }
