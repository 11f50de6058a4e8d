"""The measurements: what each figure of a row is and how it is taken (docs/benchmark.md)."""

from __future__ import annotations

import contextlib
import logging
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from statistics import median

import numpy as np

from nmt.benchmark.options import SystemSpec
from nmt.benchmark.systems import Search
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
        each: seconds of single lines, of all passes; where the batch is 1.
    """

    texts: list[str] | None = None
    seconds: list[float] = field(default_factory=list)
    num_sentences: int = 0
    num_tokens: int = 0
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

    def latency_ms(self, percentile: float) -> float:
        """Milliseconds from a line in to its translation out."""
        return float(np.percentile(self.each, percentile)) * 1000


def speedup(measured: Measured, base: Measured) -> float:
    """How many times faster: the median of the ratios pass by pass, which drift of the machine leaves alone."""
    return median(a / b for a, b in zip(measured.rates, base.rates, strict=True))


class Progress:
    """Passes done, with the time left; a line every ``LINE_SECONDS``."""

    def __init__(self, total: int) -> None:
        self.total, self.done = total, 0
        self.started = self.shown = time.monotonic()

    def advance(self, what: object) -> None:
        """One more pass is done."""
        self.done += 1
        now = time.monotonic()
        if now - self.shown >= LINE_SECONDS:
            self.shown = now
            left = (now - self.started) / self.done * (self.total - self.done)
            logger.info("%d of %d passes | %s | ETA %.0f s", self.done, self.total, what, left)


def measure(
    cells: Sequence[Cell],
    lines: Sequence[str],
    sample: Sequence[str],
    settings: Settings,
    *,
    repeats: int,
    quality: bool,
) -> dict[Cell, Measured]:
    """Measure all cells: quality and speed.

    All systems are open together and take turns: in every repeat each cell translates the sample once, systems of
    equal search and batch one after the other, so that whatever else the machine does hits all alike. The order turns
    by one system a repeat.

    Args:
        cells: what to measure.
        lines: the whole input.
        sample: the lines that are timed.
        settings: of all systems.
        repeats: timed passes.
        quality: translate the whole input, too.

    Raises:
        ConfigError: a system cannot be opened: an option.
        DataError: a system cannot be opened: a file.
        SystemFailed: a system failed while it was measured.
    """
    progress = Progress(len(cells) * (1 + repeats))
    found = {cell: Measured() for cell in cells}
    with _workers([cell.spec for cell in cells], settings) as workers:
        for cell in cells:
            warm_up = lines if quality else sample[: max(WARM_UP_LINES, cell.batch)]
            timed = workers[cell.spec].translate(warm_up, cell.search, cell.batch)
            found[cell].texts = timed.output.texts if quality else None
            progress.advance(cell.spec)
        for repeat in range(repeats):
            for cell in _in_turn(cells, repeat):
                time.sleep(SETTLE_SECONDS)
                workers[cell.spec].translate(sample[:1], cell.search, cell.batch)
                found[cell].add(workers[cell.spec].translate(sample, cell.search, cell.batch))
                progress.advance(cell.spec)
    return found


def measure_starts(cells: Sequence[Cell], sample: Sequence[str], settings: Settings) -> dict[Cell, Start]:
    """Start, first translation and memory of every cell, each in a process of its own; see `measure`."""
    progress, found = Progress(len(cells)), {}
    for cell in cells:
        longest = sorted(sample, key=len)[-cell.batch :]
        begin = time.perf_counter()
        with Worker(cell.spec, settings) as worker:
            worker.translate(longest[:1], cell.search, 1)
            first_seconds = time.perf_counter() - begin
            worker.translate(longest, cell.search, cell.batch)
            found[cell] = Start(worker.loaded, first_seconds, worker.peak_mib())
        progress.advance(cell.spec)
    return found


@contextlib.contextmanager
def _workers(specs: Sequence[SystemSpec], settings: Settings) -> Iterator[dict[SystemSpec, Worker]]:
    """An open process for each system."""
    with contextlib.ExitStack() as stack:
        yield {spec: stack.enter_context(Worker(spec, settings)) for spec in dict.fromkeys(specs)}


def _in_turn(cells: Sequence[Cell], repeat: int) -> list[Cell]:
    """Cells of equal search and batch together, each group starting with another system every time."""
    groups: dict[tuple[Search, int], list[Cell]] = {}
    for cell in cells:
        groups.setdefault((cell.search, cell.batch), []).append(cell)
    ordered = []
    for group in groups.values():
        start = repeat % len(group)
        ordered.extend(group[start:] + group[:start])
    return ordered
