"""Figures by hand: rates, percentiles, ratios pass by pass, the order of the turns."""

from __future__ import annotations

from dataclasses import replace

import pytest

from nmt.benchmark.measure import Cell, Measured, _in_turn, measure, measure_starts, speedup
from nmt.benchmark.options import SystemSpec
from nmt.benchmark.run import spread
from nmt.benchmark.systems import Search, Translations
from nmt.benchmark.worker import Settings, Timed

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
    assert _in_turn([one, two, three, four], 0) == [one, two, three, four]
    assert _in_turn([one, two, three, four], 1) == [two, one, four, three]
    assert _in_turn([one, three, two, four], 2) == [one, two, three, four]


def test_lines_are_spread_evenly() -> None:
    lines = [str(i) for i in range(9)]
    assert spread(lines, 3) == ["0", "4", "8"]
    assert spread([*lines, "", " "], 100) == lines
    assert spread(lines, None) == lines


def test_measures_a_real_system(lines: list[str], spec: SystemSpec, settings: Settings) -> None:
    alone, together = Cell(spec, GREEDY, 1), Cell(spec, GREEDY, 4)
    sample = spread(lines, 5)
    starts = measure_starts([together], sample, settings)
    assert starts[together].first_seconds > starts[together].loaded.seconds > 0
    assert 50 < starts[together].peak_mib < 2000
    found = measure([alone, together], lines, sample, settings, repeats=2, quality=True)
    assert found[alone].texts == found[together].texts
    assert len(found[alone].texts or []) == len(lines)
    assert len(found[alone].each) == 10
    assert found[together].each == []
    assert found[alone].num_tokens == found[together].num_tokens > 5
    assert all(len(m.seconds) == 2 and m.num_sentences == 5 for m in found.values())


def test_a_forced_length_is_exact(lines: list[str], spec: SystemSpec, settings: Settings) -> None:
    cell = Cell(spec, replace(GREEDY, forced_length=7), 4)
    found = measure([cell], lines, spread(lines, 5), settings, repeats=1, quality=False)[cell]
    assert found.num_tokens == 5 * 7
    assert found.texts is None
