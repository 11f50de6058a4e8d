"""Clocks inside a model: exclusive times that add up, and translations that do not change."""

from __future__ import annotations

import time
from collections.abc import Iterator

import pytest
import torch

from nmt.benchmark.options import BenchOptions, SystemSpec
from nmt.benchmark.profile import ENCODER, SEARCH, STATE, TEXT, Clock, instrument, profile_decoding
from nmt.benchmark.worker import Settings
from nmt.config import compose, parse_options
from nmt.generation.translator import Translator


def test_nested_parts_have_exclusive_times(monkeypatch: pytest.MonkeyPatch) -> None:
    ticks: Iterator[float] = iter([0.0, 1.0, 3.0, 3.5, 4.0, 10.0])
    monkeypatch.setattr(time, "perf_counter", lambda: next(ticks))
    clock = Clock(torch.device("cpu"))
    with clock.part("outer"):  # from 0
        with clock.part("inner"):  # 1 to 3
            pass
        with clock.part("inner"):  # 3.5 to 4
            pass
    assert {part.name: (part.milliseconds, part.calls) for part in clock.parts()} == {
        "outer": (1000 + 500 + 6000, 1),
        "inner": (2500, 2),
    }
    assert [part.name for part in clock.parts()] == ["outer", "inner"]


def test_clocks_change_no_translation(lines: list[str], spec: SystemSpec) -> None:
    translator = Translator.load(spec.folder, device="cpu")
    expected = translator.translate(lines, beam=3)
    clock = Clock(torch.device("cpu"))
    instrument(translator.models[0], clock)
    assert translator.translate(lines, beam=3) == expected
    assert clock.calls["output: projection, softmax"] > 5
    assert clock.calls[ENCODER] == 1


def test_profile_of_a_checkpoint(lines: list[str], spec: SystemSpec, settings: Settings) -> None:
    keys = [f"checkpoint={spec.folder}", "input=x", "out=x", "search.beam=[2]", "batch=[4]", "forced_length=6"]
    options = parse_options(BenchOptions, compose("bench", keys))
    [profile] = profile_decoding(options, settings, [line for line in lines if line])
    assert profile.num_steps == 6 * 2  # two batches of four
    calls = {part.name: part.calls for part in profile.parts}
    assert calls["self-attention"] == calls["feed-forward"] == 2 * profile.num_steps  # two layers
    assert calls["cross-attention"] == 2 * (profile.num_steps + 2)  # and what is computed once a batch
    assert {TEXT, SEARCH, STATE} <= calls.keys()
    assert sum(part.milliseconds for part in profile.parts) > 0
    assert any(operator.name.startswith("aten::") for operator in profile.operators)
    text = profile.as_markdown()
    assert "| self-attention |" in text
    assert "8 sentences in 12 steps" in text
