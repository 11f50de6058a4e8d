"""``metrics.jsonl``: valid JSON, and no line twice after a resume."""

from __future__ import annotations

import json
import logging
import math
from pathlib import Path

import pytest

from nmt.training.run import logger as module
from nmt.training.run.logger import RunLogger


def lines(folder: Path) -> list[dict[str, object]]:
    text = (folder / "metrics.jsonl").read_text(encoding="utf-8")
    return [json.loads(line, parse_constant=pytest.fail) for line in text.splitlines()]


def test_lines_at_once_and_not_a_number_as_null(tmp_path: Path) -> None:
    log = RunLogger(tmp_path, 0, 0)
    log.write("train", 1, {"loss": 2.5, "grad_norm": math.inf})
    assert lines(tmp_path) == [{"event": "train", "update": 1, "loss": 2.5, "grad_norm": None}]  # before it is closed
    log.close()
    assert list((tmp_path / "tensorboard").glob("events.*"))


def test_resume_drops_what_comes_again_and_half_a_line(tmp_path: Path) -> None:
    log = RunLogger(tmp_path, 0, 0)
    for update in (1, 2, 3):
        log.write("train", update, {"loss": float(update)})
    log.close()
    with (tmp_path / "metrics.jsonl").open("a", encoding="utf-8") as file:
        file.write('{"event": "train", "upd')
    log = RunLogger(tmp_path, 2, 2)
    log.write("train", 3, {"loss": 30.0})
    log.close()
    assert [(line["update"], line["loss"]) for line in lines(tmp_path)] == [(1, 1.0), (2, 2.0), (3, 30.0)]
    assert not list(tmp_path.glob(".*.tmp"))


def test_progress_without_a_terminal_is_a_line_now_and_then(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    log = RunLogger(tmp_path, 0, 0)
    values = {"loss": 1.2345, "ppl": 3.4, "lr": 0.001, "tokens_per_second": 1234.0, "updates_per_second": 2.0}
    log.progress(1, 10, 50, 10, values)
    assert caplog.messages == []
    monkeypatch.setattr(module, "LINE_SECONDS", 0.0)
    log.progress(1, 10, 50, 10, values)
    log.close()
    assert caplog.messages == [
        "epoch 1 | update 10 | 10 of 50 | loss 1.234 | ppl 3.40 | lr 1.00e-03 | tok/s 1234 | ETA 20 s"
    ]
