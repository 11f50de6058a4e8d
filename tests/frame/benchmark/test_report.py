"""Tables, the Pareto front, and where results may be written."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from nmt.benchmark.figure import distinct_names, name_points, new_figure, scale_cost
from nmt.benchmark.hypotheses import write_hypotheses
from nmt.benchmark.report import COLUMNS, check_folder, markdown, pareto_front, table, write_report
from nmt.config import ConfigError
from nmt.text.input import read_lines

FACTS: dict[str, Any] = {
    "command": ["nmt-bench", "checkpoint=a"],
    "time": "now",
    "processor": "Z80",
    "device": "cpu",
    "threads": 1,
    "lines": 9,
    "lines_timed": 3,
    "repeats": 2,
    "versions": {"torch": "2", "absent": None},
    "git": "abc",
}


def make_row(**changes: Any) -> dict[str, Any]:
    row = {"system": "nmt", "checkpoint": "runs/a", "precision": "fp32", "beam": 1, "batch": 1, "bleu": 30.0}
    row |= {"bleu_ci": 1.25, "chrf": 50.0, "chrf_ci": 1.0, "sentences_per_second": 12.34, "tokens_per_second": 100.4}
    row |= {"ratio": 1.0, "speedup": 1.0, "spread": 0.1, "latency_p50_ms": 99.96, "latency_p95_ms": 120.4}
    row |= {"load_seconds": 1.0, "first_translation_seconds": 1.5, "peak_mib": 300.2, "parameters": 7_578_624}
    return {**row, "bytes": 30_000_000, "device": "cpu", **changes}


def test_pareto_front_by_hand() -> None:
    #         slow good    fast bad     dominated    equal latency, better   same quality, slower
    points = [(9.0, 40.0), (1.0, 20.0), (5.0, 19.0), (1.0, 25.0), (10.0, 40.0)]
    assert pareto_front(points) == [3, 0]
    assert pareto_front([]) == []


def test_table_by_hand() -> None:
    head, rule, line = table([make_row()], COLUMNS)
    assert head.startswith("| system | model | format | BLEU | chrF | sentences/s |")
    assert line == (
        "| nmt | runs/a | fp32 | 30.00 ± 1.25 | 50.00 ± 1.00 | 12.3 | 100 | 1.00 | 1.00 | 100.0 | 120 | 1.5 | 300 "
        "| 7.58 | 30.0 |"
    )
    assert rule.count("|") == line.count("|") == head.count("|")


def test_table_without_references_has_no_scores() -> None:
    row = make_row(bleu=None, bleu_ci=None, chrf=None, chrf_ci=None)
    head, *_ = table([row], COLUMNS)
    assert "BLEU" not in head
    assert "chrF" not in head


def test_files(tmp_path: Path) -> None:
    out = tmp_path / "new" / "results"
    write_report(out, [make_row(), make_row(beam=4)], FACTS, [], [["a"], ["b"]])
    assert {path.name for path in out.iterdir()} == {"results.json", "report.md", "pareto.png", "hypotheses"}
    assert json.loads((out / "results.json").read_text())["rows"][1]["beam"] == 4
    report = (out / "report.md").read_text()
    assert "`nmt-bench checkpoint=a`" in report
    assert "## Beam 4, batch 1" in report
    assert (out / "pareto.png").read_bytes().startswith(b"\x89PNG")
    write_report(out, [make_row(bleu=None)], FACTS, [], [None])  # replaces all of it
    assert {path.name for path in out.iterdir()} == {"results.json", "report.md"}


def test_difference_by_hand() -> None:
    told = {"bleu_difference": -1.234, "bleu_difference_low": -2.0, "bleu_difference_high": 0.5}
    rows = [make_row(), make_row(checkpoint="runs/b", **told, p_value=0.0123, p_holm=0.2)]
    head, _, first, second = table(rows, COLUMNS)
    assert "| BLEU | BLEU, difference | p | p (Holm) | chrF |" in head
    assert "| 30.00 ± 1.25 |  |  |  | 50.00 ± 1.00 |" in first
    assert "| 30.00 ± 1.25 | -1.23 [-2.00, +0.50] | 0.012 | 0.20 | 50.00 ± 1.00 |" in second
    assert "number of comparisons: 1." in markdown(rows, FACTS, False)
    assert "comparisons:" not in markdown(rows[:1], FACTS, False)


def test_hypotheses_are_kept_and_equal_ones_once(tmp_path: Path) -> None:
    rows = [make_row(batch=batch, checkpoint=name) for name in ("runs/a", "elsewhere/a") for batch in (1, 32)]
    (tmp_path / "hypotheses").mkdir()
    (tmp_path / "hypotheses/old.hyp.xz").write_bytes(b"")
    texts: list[list[str] | None] = [["x", "ü"], ["x", "ü"], ["z"], None]
    write_hypotheses(tmp_path, rows, texts, lambda row: Path(row["checkpoint"]).name)
    names = [row["hypotheses"] for row in rows]
    assert names == ["hypotheses/a.hyp.xz", "hypotheses/a.hyp.xz", "hypotheses/a-beam1.hyp.xz", None]
    assert [read_lines(str(tmp_path / name)) for name in names[:3]] == texts[:3]
    assert len(list((tmp_path / "hypotheses").iterdir())) == 2


def test_names_hold_what_differs() -> None:
    keys = ("system", "precision", "checkpoint", "beam")
    one, two = make_row(), make_row(checkpoint="elsewhere/b")
    assert distinct_names([one, two], keys) == ["a", "b"]
    assert distinct_names([one, make_row(beam=5)], keys) == ["beam 1", "beam 5"]
    assert distinct_names([one, make_row(checkpoint="elsewhere/a")], keys) == ["runs/a", "elsewhere/a"]
    assert distinct_names([one], keys) == ["beam 1"]


def test_axes_have_plain_ticks(tmp_path: Path) -> None:
    """And no name is cut off or covers another one."""
    figure = new_figure(8, 5)
    axes = figure.add_subplot()
    points = [(10.0, 30.0, "one"), (11.0, 30.1, "another"), (11.5, 30.2, "a_third_one"), (90.0, 31.0, "far_away")]
    for x, y, _ in points:
        axes.plot(x, y, "o")
    scale_cost(axes, [x for x, _, _ in points])
    name_points(axes, points, ["black"] * 4)
    figure.savefig(tmp_path / "plot.png")
    ticks = [label.get_text() for label in axes.get_xticklabels()]
    assert {"10", "20", "50", "100"} <= set(ticks)
    assert not any("$" in tick or "e" in tick for tick in ticks)
    boxes = [text.get_window_extent() for text in axes.texts]
    assert all(axes.bbox.contains(box.x0, box.y0) and axes.bbox.contains(box.x1, box.y1) for box in boxes)
    assert not any(a.overlaps(b) for i, a in enumerate(boxes) for b in boxes[:i])


def test_other_folders_are_left_alone(tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").write_text("")
    with pytest.raises(ConfigError, match="exists and holds no results of nmt-bench"):
        check_folder(tmp_path)
    with pytest.raises(ConfigError, match="is not a folder"):
        check_folder(tmp_path / "thesis.tex")
    check_folder(tmp_path / "new")
