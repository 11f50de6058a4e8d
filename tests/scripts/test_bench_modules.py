"""The sweep over prefix lengths runs and writes its files; times are not judged."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from bench_modules import main


def test_writes_its_files(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    sizes = ["lengths=4,8", "rows=1,2", "source=3", "steps=1", "repeats=2", "device=cpu", "model=tiny"]
    main([f"out={tmp_path / 'sweep'}", *sizes])
    rows = json.loads((tmp_path / "sweep/results.json").read_text(encoding="utf-8"))["rows"]
    size = {(r["slot"], r["name"], r["rows"], r["length"]): r["state_bytes"] for r in rows}
    assert size["self_attention", "average", 2, 4] == size["self_attention", "average", 2, 8] == 2 * 128 * 4
    assert size["self_attention", "multihead", 1, 8] == 2 * 9 * 128 * 4  # keys and values, the new one too
    assert all(r["step_seconds"] > 0 for r in rows)
    assert "| self_attention ssru |" in (tmp_path / "sweep/report.md").read_text(encoding="utf-8")
    assert (tmp_path / "sweep/modules.png").stat().st_size > 0
