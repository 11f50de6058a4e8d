"""The sweep over decoder components: what it covers and writes; its times are not judged."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from bench_modules import SLOTS, main

from nmt.registry import slots

ABSENT = {("feed_forward", "none")}
"""What stands for no part of a layer."""

TINY = ["model=tiny", "prefixes=2,8", "batches=1,2", "repeats=1", "src_len=3"]


def test_every_component_has_its_rows(tmp_path: Path) -> None:
    main([f"out={tmp_path / 'out'}", *TINY])
    results = json.loads((tmp_path / "out" / "results.json").read_text())
    rows = {(r["slot"], r["component"], r["batch"], r["prefix"]): r for r in results["rows"]}
    assert {key[:2] for key in rows} == {(s, name) for s in SLOTS for name in slots()[s].components} - ABSENT
    assert len(rows) == len(results["rows"]) == 4 * len({key[:2] for key in rows})
    # Keys and values of 3 and 9 positions, 128 wide, in float32; a running sum of one.
    assert [rows["self_attention", "multihead", 2, n]["state_bytes"] for n in (2, 8)] == [3072, 9216]
    assert [rows["self_attention", "average", 2, n]["state_bytes"] for n in (2, 8)] == [512, 512]
    assert (tmp_path / "out" / "modules.png").read_bytes().startswith(b"\x89PNG")
    assert "| self_attention | ssru |" in (tmp_path / "out" / "report.md").read_text()


def test_wrong_keys_are_refused() -> None:
    with pytest.raises(SystemExit, match="out=FOLDER is required"):
        main(["model=tiny"])
    with pytest.raises(SystemExit, match="dtype=fp8; valid options: fp32, bf16"):
        main(["out=x", "dtype=fp8"])
