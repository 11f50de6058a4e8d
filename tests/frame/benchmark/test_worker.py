"""A system in its own process: what it answers, and how it fails."""

from __future__ import annotations

import os
import signal
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from nmt.benchmark.options import SystemSpec
from nmt.benchmark.peers import Peer
from nmt.benchmark.system import Search, Translations
from nmt.benchmark.systems import load_system
from nmt.benchmark.worker import Settings, SystemFailed, Worker
from nmt.checkpoints.checkpoint import load_model
from nmt.config import ConfigError
from nmt.device import Device
from nmt.generation.options import SearchOptions
from nmt.generation.translator import Translator
from nmt.models.encoder_decoder import num_parameters


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


def test_a_checkpoints_search_defaults(
    lines: list[str], spec: SystemSpec, settings: Settings, tmp_path: Path, copy_checkpoint: Any
) -> None:
    """Those hold that the search leaves open; what the rules leave without translation is counted."""
    folder = str(copy_checkpoint(Path(spec.folder), tmp_path / "own", beam=2, length_penalty=0.0, min_length=9))
    system = load_system(replace(spec, folder=folder, checkpoint=folder), Device.cpu, 1, [])
    ours = Translator.load(spec.folder, device="cpu")
    found = system.translate(lines, Search(4, None, None), 4)
    assert found.texts == ours.translate(lines, beam=4, length_penalty=0.0, min_length=9)
    assert found.num_failed == 0
    found = system.translate(lines, Search(4, 1.0, None), 4)
    assert found.texts == ours.translate(lines, beam=4, min_length=9)
    strict = str(copy_checkpoint(Path(spec.folder), tmp_path / "strict", no_repeat_ngram=1, min_length=60))
    strict_spec = replace(spec, folder=strict, checkpoint=strict)
    found = load_system(strict_spec, Device.cpu, 1, []).translate(lines, Search(2, None, None), 4)
    assert found == Translations([""] * len(lines), 0, sum(map(bool, lines)))
    with Worker(strict_spec, settings) as worker:
        assert worker.translate(lines, Search(2, None, None), 1).output == found


def test_peers_search_by_the_same_defaults(spec: SystemSpec, tmp_path: Path, copy_checkpoint: Any) -> None:
    class Plain(Peer):
        def _translate(self, lines: Sequence[str], search: Search, batch: int) -> Translations:
            raise NotImplementedError

    assert Plain(spec).options(Search(4, None, None)) == SearchOptions(beam=4)
    source = Path(spec.folder)
    carried = {"beam": 2, "min_length": 2, "max_length_ratio": 0.0, "max_length_offset": 30, "length_penalty": 0.5}
    own = str(copy_checkpoint(source, tmp_path / "own", **carried))
    found = Plain(replace(spec, checkpoint=own)).options(Search(4, 0.0, None))
    assert found == SearchOptions(**{**carried, "beam": 4, "length_penalty": 0.0})
    own = str(copy_checkpoint(source, tmp_path / "gnmt", length_norm="gnmt"))
    with pytest.raises(ConfigError, match=r"^peers: other toolkits have no search.length_norm=gnmt, a default of the"):
        Plain(replace(spec, checkpoint=own)).options(Search(4, None, None))
