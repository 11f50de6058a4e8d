"""Figures by hand: rates, percentiles, ratios pass by pass, the order of the turns."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from nmt.benchmark import measure as measuring
from nmt.benchmark.kept import Kept
from nmt.benchmark.measure import Cell, Measured, _in_turn, measure, measure_starts, speedup
from nmt.benchmark.options import SystemSpec
from nmt.benchmark.run import spread
from nmt.benchmark.system import Search, Translations
from nmt.benchmark.worker import Loaded, Settings, Timed

GREEDY = Search(1, 1.0, None)


def measured(*seconds: float) -> Measured:
    found = Measured()
    for value in seconds:
        found.add(Timed(Translations(["a b", "c"], 5), value, [value / 4, 3 * value / 4]))
    return found


def test_rates_and_latency() -> None:
    found = measured(1.0, 2.0)
    assert found.rates == [2.0, 1.0]
    assert found.num_tokens == 5
    assert sorted(found.each) == [0.25, 0.5, 0.75, 1.5]
    assert found.latency_ms(50) == pytest.approx(625)
    assert found.latency_ms(100) == pytest.approx(1500)


def test_speedup_is_the_median_of_ratios() -> None:
    """A machine that is ten times slower in the second pass changes both, and no ratio."""
    slow, fast = measured(2.0, 20.0, 2.0), measured(1.0, 10.0, 0.5)
    assert speedup(fast, slow) == pytest.approx(2.0)
    assert speedup(slow, slow) == 1.0


def test_systems_take_turns_beside_each_other() -> None:
    first, second = (SystemSpec("nmt", name, "fp32", name) for name in "ab")
    one, two, three, four = (Cell(spec, GREEDY, batch) for batch in (1, 4) for spec in (first, second))
    assert _in_turn([one, two, three, four], 0) == [[one, two], [three, four]]
    assert _in_turn([one, two, three, four], 1) == [[two, one], [four, three]]
    assert _in_turn([one, three, two, four], 2) == [[one, two], [three, four]]


def test_lines_are_spread_evenly() -> None:
    lines = [str(i) for i in range(9)]
    assert spread(lines, 3) == ["0", "4", "8"]
    assert spread([*lines, "", " "], 100) == lines
    assert spread(lines, None) == lines


def test_measures_a_real_system(lines: list[str], spec: SystemSpec, settings: Settings) -> None:
    alone, together = Cell(spec, GREEDY, 1), Cell(spec, GREEDY, 4)
    sample = spread(lines, 5)
    starts = measure_starts([together], sample, settings, Kept())
    assert starts[together].first_seconds > starts[together].loaded.seconds > 0
    assert 50 < starts[together].peak_mib < 2000
    found = measure([alone, together], lines, sample, settings, repeats=2, quality=True, kept=Kept())
    assert found[alone].texts == found[together].texts
    assert len(found[alone].texts or []) == len(lines)
    assert len(found[alone].each) == 10
    assert found[together].each == []
    assert found[alone].num_tokens == found[together].num_tokens > 5
    assert all(len(m.seconds) == 2 and m.num_sentences == 5 for m in found.values())


def test_a_forced_length_is_exact(lines: list[str], spec: SystemSpec, settings: Settings) -> None:
    cell = Cell(spec, replace(GREEDY, forced_length=7), 4)
    found = measure([cell], lines, spread(lines, 5), settings, repeats=1, quality=False, kept=Kept())[cell]
    assert found.num_tokens == 5 * 7
    assert found.texts is None


class Stopped(RuntimeError):
    pass


class FakeWorker:
    """Translates nothing in a time that depends on the call, and stops after so many calls."""

    calls, most = 0, 10**9

    def __init__(self, spec: SystemSpec, settings: Settings) -> None:
        self.spec, self.loaded = spec, Loaded(1, 2, 3.0)

    def __enter__(self) -> FakeWorker:
        return self

    def __exit__(self, *error: object) -> None:
        pass

    def translate(self, lines: Sequence[str], search: Search, batch: int) -> Timed:
        FakeWorker.calls += 1
        if FakeWorker.calls > FakeWorker.most:
            raise Stopped
        texts = [f"{line} {self.spec.folder}" for line in lines]
        return Timed(Translations(texts, len(lines)), float(FakeWorker.calls), [1.0] * len(lines))

    def peak_mib(self) -> float:
        return 7.0


def test_a_stopped_measurement_goes_on(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, settings: Settings, lines: list[str]
) -> None:
    """What is measured twice is the turn that was broken off, whatever the moment."""
    monkeypatch.setattr(measuring, "Worker", FakeWorker)
    monkeypatch.setattr(measuring, "SETTLE_SECONDS", 0.0)
    cells = [Cell(SystemSpec("nmt", n, "fp32", n, digest=n), GREEDY, batch) for batch in (1, 4) for n in "ab"]

    def both(kept: Kept) -> dict[Cell, Measured]:
        measure_starts(cells, lines, settings, kept)
        return measure(cells, lines, lines[:3], settings, repeats=2, quality=True, kept=kept)

    FakeWorker.calls, FakeWorker.most = 0, 10**9
    whole = both(Kept())
    needed = FakeWorker.calls
    folder, stops, found = tmp_path / "kept", 0, None
    while found is None:
        FakeWorker.calls, FakeWorker.most = 0, 13
        try:
            found = both(Kept(folder, {"threads": 1}))
        except Stopped:
            stops += 1
    assert stops > 2
    assert {cell: (m.texts, m.num_sentences, m.num_tokens) for cell, m in found.items()} == {
        cell: (m.texts, m.num_sentences, m.num_tokens) for cell, m in whole.items()
    }
    assert all(len(m.seconds) == 2 and len(m.each) == 6 for m in found.values())
    for first, second in (cells[:2], cells[2:]):  # measured together: one right after the other
        assert all(abs(a - b) <= 2 for a, b in zip(found[first].seconds, found[second].seconds))
    FakeWorker.calls = 0
    assert both(Kept(folder, {"threads": 1})) == found  # nothing is measured again, nor any system opened
    assert FakeWorker.calls == 0
    # Another model under the same name, other lines, other settings: all anew.
    FakeWorker.most = 10**9
    both(Kept(folder, {"threads": 2}))
    assert FakeWorker.calls == needed
    other = [replace(cell, spec=replace(cell.spec, digest="c")) for cell in cells[:1]]
    FakeWorker.calls = 0
    measure(other, lines, lines[:3], settings, repeats=2, quality=True, kept=Kept(folder, {"threads": 1}))
    assert FakeWorker.calls == 7


def test_says_how_long_it_takes(
    monkeypatch: pytest.MonkeyPatch, settings: Settings, caplog: pytest.LogCaptureFixture
) -> None:
    """A second a line of ten characters: one pass over 40 lines and three over 20 for each of two systems."""

    def translate(self: FakeWorker, lines: Sequence[str], search: Search, batch: int) -> Timed:
        return Timed(Translations(list(lines), len(lines)), float(len(lines)), [1.0] * len(lines))

    monkeypatch.setattr(FakeWorker, "translate", translate)
    monkeypatch.setattr(measuring, "Worker", FakeWorker)
    monkeypatch.setattr(measuring, "SETTLE_SECONDS", 0.0)
    monkeypatch.setattr(measuring, "LINE_SECONDS", 0.0)
    cells = [Cell(SystemSpec("nmt", name, "fp32", name), GREEDY, 4) for name in "ab"]
    lines = ["123456789"] * 40
    with caplog.at_level(logging.INFO):
        measure(cells, lines, lines[:20], settings, repeats=3, quality=True, kept=Kept())
    told = [record.getMessage() for record in caplog.records]
    assert told[0] == "measuring takes about 200 s: 8 passes"
    assert told[1].startswith("1 of 8 passes | nmt fp32 a | ETA ")
    assert told[-1] == "8 of 8 passes | nmt fp32 b | ETA 0 s"


def test_the_time_left_weighs_the_passes(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    clock = iter([0.0, 20.0, 50.0])
    monkeypatch.setattr(measuring.time, "monotonic", lambda: next(clock))
    progress = measuring.Progress([10.0, 20.0, 40.0])
    with caplog.at_level(logging.INFO):
        progress.advance("a")
        progress.advance("b")
    assert [record.getMessage() for record in caplog.records] == ["2 of 3 passes | b | ETA 67 s"]
