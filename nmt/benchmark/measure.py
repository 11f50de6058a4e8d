"""The measurements: what each figure of a row is and how it is taken (docs/benchmark.md)."""

from __future__ import annotations

import contextlib
import logging
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field
from statistics import median
from typing import Any

import numpy as np

from nmt.benchmark.kept import Kept, text_digest
from nmt.benchmark.options import SystemSpec
from nmt.benchmark.system import Search, Translations
from nmt.benchmark.worker import Loaded, Settings, Timed, Worker

logger = logging.getLogger(__name__)

SETTLE_SECONDS = 0.3
"""Between systems: threads of the one before may still spin in wait of more work (CTranslate2's for 0.2 s)."""

WARM_UP_LINES = 8
LINE_SECONDS = 30.0
"""Seconds between lines of progress."""


@dataclass(frozen=True)
class Cell:
    """What a row measures: a system under a search, so many sentences together."""

    spec: SystemSpec
    search: Search
    batch: int

    def identity(self) -> dict[str, Any]:
        """What decides its figures, as plain values: not where the model lies, but what it holds."""
        system = {"system": self.spec.system, "precision": self.spec.precision, "digest": self.spec.digest}
        return {**system, **asdict(self.search), "batch": self.batch}


@dataclass(frozen=True)
class Start:
    """A process that was started for one cell alone.

    Attributes:
        loaded: the system's size, and the time until it was ready.
        first_seconds: from the start of the process until its first translation.
        peak_mib: most memory while it translated the longest lines of the sample.
    """

    loaded: Loaded
    first_seconds: float
    peak_mib: float


@dataclass
class Measured:
    """What was measured of a cell.

    Attributes:
        texts: translations of the whole input; None where it was not translated.
        seconds: of each timed pass.
        num_sentences: of a timed pass.
        num_tokens: output tokens of a timed pass, EOS counted (unless a length is forced).
        num_failed: lines without translation: most of any pass.
        each: seconds of single lines, of all passes; where the batch is 1.
    """

    texts: list[str] | None = None
    seconds: list[float] = field(default_factory=list)
    num_sentences: int = 0
    num_tokens: int = 0
    num_failed: int = 0
    each: list[float] = field(default_factory=list)

    @property
    def rates(self) -> list[float]:
        """Sentences a second, pass by pass."""
        return [self.num_sentences / seconds for seconds in self.seconds]

    def add(self, timed: Timed) -> None:
        """Take in a timed pass."""
        self.seconds.append(timed.seconds)
        self.each.extend(timed.each)
        self.num_sentences, self.num_tokens = len(timed.output.texts), timed.output.num_tokens
        self.num_failed = max(self.num_failed, timed.output.num_failed)

    def translated(self, output: Translations) -> None:
        """Take in the translations of the whole input."""
        self.texts, self.num_failed = output.texts, max(self.num_failed, output.num_failed)

    def latency_ms(self, percentile: float) -> float:
        """Milliseconds from a line in to its translation out."""
        return float(np.percentile(self.each, percentile)) * 1000


def speedup(measured: Measured, base: Measured) -> float:
    """How many times faster: the median of the ratios pass by pass, which drift of the machine leaves alone."""
    return median(a / b for a, b in zip(measured.rates, base.rates, strict=True))


class Progress:
    """Passes done, with the time left; a line every ``LINE_SECONDS``.

    Args:
        expected: how long each pass takes, as far as is known: in seconds or in proportion.
    """

    def __init__(self, expected: Sequence[float]) -> None:
        self.expected, self.done = expected, 0
        self.started = self.shown = time.monotonic()

    def advance(self, what: object) -> None:
        """One more pass is done."""
        self.done += 1
        now = time.monotonic()
        if now - self.shown >= LINE_SECONDS:
            self.shown = now
            left = (now - self.started) / sum(self.expected[: self.done]) * sum(self.expected[self.done :])
            logger.info("%d of %d passes | %s | ETA %.0f s", self.done, len(self.expected), what, left)


def measure(
    cells: Sequence[Cell],
    lines: Sequence[str],
    sample: Sequence[str],
    settings: Settings,
    *,
    repeats: int,
    quality: bool,
    kept: Kept,
) -> dict[Cell, Measured]:
    """Measure all cells: quality and speed.

    All systems are open together and take turns: in every repeat each cell translates the sample once, systems of
    equal search and batch one after the other, so that whatever else the machine does hits all alike. The order turns
    by one system a repeat. A turn of such systems is kept as a whole: what is compared was measured together.

    Args:
        cells: what to measure.
        lines: the whole input.
        sample: the lines that are timed.
        settings: of all systems.
        repeats: timed passes.
        quality: translate the whole input, too.
        kept: measurements of an earlier call that was stopped.

    Raises:
        ConfigError: a system cannot be opened: an option.
        DataError: a system cannot be opened: a file.
        SystemFailed: a system failed while it was measured.
    """
    whole, timed = text_digest(list(lines)), text_digest(list(sample))
    found, untranslated, turns = {cell: Measured() for cell in cells}, list[Cell](), list[Turn]()
    for cell in cells if quality else []:
        before = kept.get(kind="translations", lines=whole, **cell.identity())
        if before is None:
            untranslated.append(cell)
        else:
            found[cell].translated(Translations(**before))
    for repeat in range(repeats):
        for group in _in_turn(cells, repeat):
            what = {"kind": "pass", "repeat": repeat, "lines": timed, "cells": [cell.identity() for cell in group]}
            before = kept.get(**what)
            if before is None:
                turns.append(Turn(group, what))
            else:
                _add(found, group, [_timed(value) for value in before])
    wanted = [*untranslated, *(cell for turn in turns for cell in turn.cells)]
    with _workers([cell.spec for cell in wanted], settings) as workers:
        costs = {cell: _warm_up(workers[cell.spec], cell, sample) for cell in dict.fromkeys(wanted)}
        expected = [costs[cell] * _size(lines) for cell in untranslated]
        expected += [costs[cell] * _size(sample) + SETTLE_SECONDS for turn in turns for cell in turn.cells]
        progress = Progress(expected)
        if wanted:
            logger.info("measuring takes about %.0f s: %d passes", sum(expected), len(expected))
        for cell in untranslated:
            output = workers[cell.spec].translate(lines, cell.search, cell.batch).output
            found[cell].translated(output)
            kept.put(asdict(output), kind="translations", lines=whole, **cell.identity())
            progress.advance(cell.spec)
        for turn in turns:
            passes = []
            for cell in turn.cells:
                time.sleep(SETTLE_SECONDS)
                workers[cell.spec].translate(sample[:1], cell.search, cell.batch)
                passes.append(workers[cell.spec].translate(sample, cell.search, cell.batch))
                progress.advance(cell.spec)
            kept.put([asdict(one) for one in passes], **turn.what)
            _add(found, turn.cells, passes)
    return found


def _warm_up(worker: Worker, cell: Cell, sample: Sequence[str]) -> float:
    """Seconds a character, about: a few lines after a first one, for which much is done once."""
    few = sample[: max(WARM_UP_LINES, cell.batch)]
    worker.translate(few[:1], cell.search, cell.batch)
    return worker.translate(few, cell.search, cell.batch).seconds / _size(few)


def _size(lines: Sequence[str]) -> int:
    """Characters, ends of lines counted."""
    return sum(len(line) + 1 for line in lines)


@dataclass(frozen=True)
class Turn:
    """Cells that are measured one right after the other.

    Attributes:
        cells: in their order.
        what: the name under which the figures are kept.
    """

    cells: list[Cell]
    what: dict[str, Any]


def _timed(value: Any) -> Timed:
    return Timed(Translations(**value["output"]), value["seconds"], value["each"])


def _add(found: dict[Cell, Measured], cells: Sequence[Cell], passes: Sequence[Timed]) -> None:
    for cell, one in zip(cells, passes, strict=True):
        found[cell].add(one)


def measure_starts(cells: Sequence[Cell], sample: Sequence[str], settings: Settings, kept: Kept) -> dict[Cell, Start]:
    """Start, first translation and memory of every cell, each in a process of its own; see `measure`."""
    timed, found = text_digest(list(sample)), dict[Cell, Start]()
    for cell in cells:
        before = kept.get(kind="start", lines=timed, **cell.identity())
        if before is not None:
            found[cell] = Start(**{**before, "loaded": Loaded(**before["loaded"])})
    missing = [cell for cell in cells if cell not in found]
    progress = Progress([1.0] * len(missing))
    for cell in missing:
        longest = sorted(sample, key=len)[-cell.batch :]
        begin = time.perf_counter()
        with Worker(cell.spec, settings) as worker:
            worker.translate(longest[:1], cell.search, 1)
            first_seconds = time.perf_counter() - begin
            worker.translate(longest, cell.search, cell.batch)
            found[cell] = Start(worker.loaded, first_seconds, worker.peak_mib())
        kept.put(asdict(found[cell]), kind="start", lines=timed, **cell.identity())
        progress.advance(cell.spec)
    return found


@contextlib.contextmanager
def _workers(specs: Sequence[SystemSpec], settings: Settings) -> Iterator[dict[SystemSpec, Worker]]:
    """An open process for each system."""
    with contextlib.ExitStack() as stack:
        yield {spec: stack.enter_context(Worker(spec, settings)) for spec in dict.fromkeys(specs)}


def _in_turn(cells: Sequence[Cell], repeat: int) -> list[list[Cell]]:
    """Groups of cells of equal search and batch, each starting with another system every time."""
    groups: dict[tuple[Search, int], list[Cell]] = {}
    for cell in cells:
        groups.setdefault((cell.search, cell.batch), []).append(cell)
    starts = [repeat % len(group) for group in groups.values()]
    return [group[start:] + group[:start] for group, start in zip(groups.values(), starts)]
