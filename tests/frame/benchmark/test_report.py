"""Tables, the Pareto front, and where results may be written."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from nmt.benchmark.report import check_folder, pareto_front, table, write_report
from nmt.config import ConfigError

FACTS: dict[str, Any] = {
    "command": ["/usr/bin/python", "/usr/bin/nmt-bench", "checkpoint=a"],
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
    head, rule, line = table([make_row()])
    assert head.startswith("| system | model | format | BLEU | chrF | sentences/s |")
    assert line == (
        "| nmt | runs/a | fp32 | 30.00 ± 1.25 | 50.00 ± 1.00 | 12.3 | 100 | 1.00 | 1.00 | 100.0 | 120 | 1.5 | 300 "
        "| 7.58 | 30.0 |"
    )
    assert rule.count("|") == line.count("|") == head.count("|")


def test_table_without_references_has_no_scores() -> None:
    head, *_ = table([make_row(bleu=None, bleu_ci=None, chrf=None, chrf_ci=None)])
    assert "BLEU" not in head
    assert "chrF" not in head


def test_files(tmp_path: Path) -> None:
    out = tmp_path / "new" / "results"
    write_report(out, [make_row(), make_row(beam=4)], FACTS, [])
    assert {path.name for path in out.iterdir()} == {"results.json", "report.md", "pareto.png"}
    assert json.loads((out / "results.json").read_text())["rows"][1]["beam"] == 4
    report = (out / "report.md").read_text()
    assert "`nmt-bench checkpoint=a`" in report
    assert "## Beam 4, batch 1" in report
    assert (out / "pareto.png").read_bytes().startswith(b"\x89PNG")
    write_report(out, [make_row(bleu=None)], FACTS, [])  # replaces all of it
    assert {path.name for path in out.iterdir()} == {"results.json", "report.md"}


def test_other_folders_are_left_alone(tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").write_text("")
    with pytest.raises(ConfigError, match="exists and holds no results of nmt-bench"):
        check_folder(tmp_path)
    with pytest.raises(ConfigError, match="is not a folder"):
        check_folder(tmp_path / "thesis.tex")
    check_folder(tmp_path / "new")
