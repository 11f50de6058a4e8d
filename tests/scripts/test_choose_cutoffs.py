"""The choice of cutoffs: the dynamic programme against all choices, and what the script writes."""

from __future__ import annotations

import json
from itertools import combinations
from pathlib import Path

import numpy as np
import pytest
from choose_cutoffs import best_cutoffs, expected, main


def product_time(band: int, tokens: float, outputs: int) -> float:
    """A call, and as much a token and output as the band is wide."""
    return 5.0 + max(tokens, 1.0) * outputs * (16, 4, 1, 0.25)[band]


@pytest.mark.parametrize("tails", [1, 2, 3])
def test_no_other_cutoffs_cost_less(tails: int) -> None:
    shares = 1 / np.arange(1, 31)
    shares /= shares.sum()
    candidates = [4, 5, 7, 9, 12, 15, 19, 24, 29]
    found = best_cutoffs(shares, 64, tails, candidates, product_time)
    costs = {c: expected(shares, 64, c, product_time) for c in combinations(candidates, tails)}
    assert len(found) == tails
    assert costs[tuple(found)] == min(costs.values()) < max(costs.values())


def test_expected_time_by_hand() -> None:
    """Head: 10 tokens, 2 words and 2 clusters. Tails of 1 and 2 words: 2 tokens, and 1 (0.5 counts as one)."""
    shares = np.array([0.5, 0.25, 0.2, 0.03, 0.02])
    assert expected(shares, 10, [2, 3], product_time) == pytest.approx((5 + 10 * 4 * 16) + (5 + 2 * 4) + (5 + 1 * 2))


def test_writes_what_it_chose(digits: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "cutoffs.json"
    main([f"corpus={digits}", "model=tiny", "tails=2", "tokens=16", "repeats=1", f"out={out}"])
    rows = {row["name"]: row for row in json.loads(out.read_text())["rows"]}
    assert list(rows) == ["plain softmax", "default", "chosen, 1 tail", "chosen, 2 tails"]
    assert [len(rows[name]["cutoffs"]) for name in rows] == [0, len(rows["default"]["cutoffs"]), 1, 2]
    assert all(row["measured_ms"] > 0 and row["expected_ms"] > 0 for row in rows.values())
    assert f"model.output.cutoffs={rows['chosen, 2 tails']['cutoffs']}" in capsys.readouterr().out
