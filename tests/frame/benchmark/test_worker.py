"""A system in its own process: what it answers, and how it fails."""

from __future__ import annotations

import os
import signal
from dataclasses import replace

import pytest

from nmt.benchmark.options import SystemSpec
from nmt.benchmark.systems import Search
from nmt.benchmark.worker import Settings, SystemFailed, Worker
from nmt.config import ConfigError
from nmt.generation.translator import Translator
from nmt.models.encoder_decoder import num_parameters
from nmt.training.checkpoint import load_model


def test_translates_as_the_toolkit_does(lines: list[str], spec: SystemSpec, settings: Settings) -> None:
    with Worker(spec, settings) as worker:
        one_by_one = worker.translate(lines, Search(4, 1.0, None), 1)
        together = worker.translate(lines, Search(4, 1.0, None), 4)
        assert worker.loaded.parameters == num_parameters(load_model(spec.folder).model)
        assert worker.loaded.num_bytes == sum(
            os.path.getsize(f"{spec.folder}/{name}")
            for name in ("model.safetensors", "config.yaml", "sentencepiece.model")
        )
    expected = Translator.load(spec.folder, device="cpu").translate(lines, beam=4)
    assert one_by_one.output.texts == together.output.texts == expected
    assert len(one_by_one.each) == len(lines)
    assert sum(one_by_one.each) <= one_by_one.seconds


def test_what_cannot_be_opened_is_one_line(spec: SystemSpec, settings: Settings) -> None:
    with pytest.raises(ConfigError, match=r"^nmt fp32 \S+: checkpoint=nowhere: no such folder"):
        Worker(replace(spec, folder="nowhere"), settings)


def test_a_killed_system_is_named(lines: list[str], spec: SystemSpec, settings: Settings) -> None:
    with Worker(spec, settings) as worker:
        os.kill(worker._process.pid or 0, signal.SIGKILL)
        with pytest.raises(SystemFailed, match=r"^nmt fp32 \S+: its process ended with status -9"):
            worker.translate(lines, Search(1, 1.0, None), 1)
