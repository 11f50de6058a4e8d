"""``nmt-bench`` from command line to files, peers among the systems."""

from __future__ import annotations

import json
import logging
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from nmt.benchmark.measure import Measured
from nmt.benchmark.options import BenchOptions, SystemSpec
from nmt.benchmark.own import checkpoint_digest
from nmt.benchmark.run import add_differences, origin_of, run_benchmark, systems
from nmt.config import ConfigError, DataError, compose, parse_options
from nmt.metrics.scoring import bleu, read_lines

CONTRACT = {
    *("system", "checkpoint", "precision", "beam", "batch", "bleu", "chrf", "sentences_per_second"),
    *("tokens_per_second", "latency_p50_ms", "latency_p95_ms", "peak_mib", "parameters", "bytes", "device"),
}


@pytest.fixture
def text(tmp_path: Path, lines: list[str]) -> tuple[Path, Path]:
    source, reference = tmp_path / "text.en", tmp_path / "text.eo"
    source.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
    reference.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")  # of some other quality than 0
    return source, reference


def run(*overrides: str) -> list[dict[str, object]]:
    return run_benchmark(parse_options(BenchOptions, compose("bench", ["threads=1", "device=cpu", *overrides])))


@pytest.mark.slow
def test_peers_side_by_side(tmp_path: Path, text: tuple[Path, Path], spec: SystemSpec) -> None:
    pytest.importorskip("ctranslate2")
    pytest.importorskip("transformers")
    out = tmp_path / "out"
    rows = run(
        *(f"checkpoint={spec.folder}", f"input={text[0]}", f"reference={text[1]}", f"out={out}", "repeats=1"),
        *("search.beam=[4]", "batch=[3]", "peers=[ctranslate2,hf]", "lines=4"),
    )
    assert [row["system"] for row in rows] == ["nmt", "ctranslate2", "hf"]
    assert json.loads((out / "results.json").read_text(encoding="utf-8"))["rows"] == rows
    lengths = []
    for row in rows:
        assert row.keys() >= CONTRACT
        assert (row["beam"], row["batch"], row["precision"], row["device"]) == (4, 3, "fp32", "cpu")
        # Other toolkits give the same translations of the same model.
        assert row["bleu"] == rows[0]["bleu"]
        assert row["parameters"] == rows[0]["parameters"]
        assert row["p_value"] == (None if row is rows[0] else 1)
        references = read_lines(str(text[1]))
        assert row["bleu"] == bleu(read_lines(str(out / str(row["hypotheses"]))), references).score
        assert float(str(row["latency_p95_ms"])) >= float(str(row["latency_p50_ms"])) > 0
        assert float(str(row["sentences_per_second"])) > 0
        lengths.append(float(str(row["tokens_per_second"])) / float(str(row["sentences_per_second"])))
    assert lengths == pytest.approx([lengths[0]] * 3)  # tokens of the same translations, padding not counted
    assert rows[0]["ratio"] == rows[0]["speedup"] == 1.0


@pytest.mark.slow
def test_forced_length_of_peers_is_exact(tmp_path: Path, text: tuple[Path, Path], spec: SystemSpec) -> None:
    pytest.importorskip("ctranslate2")
    pytest.importorskip("transformers")
    rows = run(
        *(f"checkpoint={spec.folder}", f"input={text[0]}", f"out={tmp_path / 'out'}", "repeats=1", "lines=4"),
        *("search.beam=[2]", "batch=[4]", "peers=[ctranslate2,hf]", "forced_length=9"),
    )
    for row in rows:
        assert float(str(row["tokens_per_second"])) == pytest.approx(9 * float(str(row["sentences_per_second"])))
        assert row["bleu"] is None


def test_mistakes(tmp_path: Path, text: tuple[Path, Path], spec: SystemSpec) -> None:
    checkpoint, given, out = f"checkpoint={spec.folder}", f"input={text[0]}", f"out={tmp_path / 'out'}"
    (tmp_path / "short").write_text("a\n")
    (tmp_path / "blank").write_text("\n \n")
    with pytest.raises(DataError, match=r"text\.en has 9 lines but .*short has 1"):
        run(checkpoint, given, out, f"reference={tmp_path / 'short'}")
    with pytest.raises(ConfigError, match="there is no text in it"):
        run(checkpoint, f"input={tmp_path / 'blank'}", out)
    with pytest.raises(ConfigError, match="No such file"):
        run(checkpoint, "input=nowhere", out)
    with pytest.raises(ConfigError, match="checkpoint=nowhere: no such folder"):
        run("checkpoint=nowhere", given, out)
    assert not (tmp_path / "out").exists()


def test_differences_are_to_the_first_system_of_equal_search() -> None:
    references = [f"the cat number {i} sat on the old mat of house {i % 7}" for i in range(20)]
    worse = [line.replace("old", "new") if n % 3 else line for n, line in enumerate(references)]
    texts = [references, worse, references, references, None]
    rows: list[dict[str, Any]] = [{"beam": 1, "batch": batch} for batch in (1, 1, 32, 32, 32)]
    add_differences(rows, [Measured(lines) for lines in texts], references)
    assert [row["p_value"] is None for row in rows] == [True, False, True, False, True]
    assert rows[1]["bleu_difference"] == pytest.approx(bleu(worse, references).score - 100)
    assert rows[1]["bleu_difference_low"] < rows[1]["bleu_difference"] < rows[1]["bleu_difference_high"] <= 0
    assert rows[1]["p_holm"] == pytest.approx(2 * rows[1]["p_value"])
    assert (rows[3]["bleu_difference"], rows[3]["p_value"], rows[3]["p_holm"]) == (0, 1, 1)


def test_origin_of_a_checkpoint(tmp_path: Path, spec: SystemSpec) -> None:
    """What it holds; of a run also how it was trained, at its beginning."""
    known = checkpoint_digest(spec.checkpoint)
    assert origin_of(replace(spec, digest=known)) == {"digest": known}
    run_folder = tmp_path / "run"
    shutil.copytree(spec.checkpoint, run_folder / "checkpoints/best")
    first, later = (
        {"command": ["nmt-train", f"seed={n}"], "git": "abc", "time": "now", "processor": "Z"} for n in "12"
    )
    (run_folder / "manifest.json").write_text(json.dumps([first, later]), encoding="utf-8")
    assert checkpoint_digest(str(run_folder)) == known
    assert origin_of(SystemSpec("nmt", str(run_folder), "fp32", "", "x")) == {"digest": "x", **first}


def test_search_defaults_of_checkpoints_are_told(
    tmp_path: Path, spec: SystemSpec, copy_checkpoint: Any, caplog: pytest.LogCaptureFixture
) -> None:
    own = copy_checkpoint(Path(spec.folder), tmp_path / "own", beam=2, max_length_ratio=0.0, max_length_offset=9)
    given = [f"checkpoint=[{spec.folder},{own}]", "input=x", f"out={tmp_path}/out", "search.beam=4"]
    with caplog.at_level(logging.INFO):
        found = systems(parse_options(BenchOptions, compose("bench", given)), tmp_path)
    assert [one.checkpoint for one in found] == [spec.folder, str(own)]
    assert found[0].digest != found[1].digest, "translations of other searches are not kept for one another"
    told = [r.getMessage() for r in caplog.records]
    assert told == [f"search.max_length_offset=9 search.max_length_ratio=0.0: defaults of {own}"]
