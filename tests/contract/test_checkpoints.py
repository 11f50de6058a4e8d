"""Whoever writes a checkpoint writes digests of its files, and whoever reads one compares them."""

from __future__ import annotations

import importlib.util
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from omegaconf import OmegaConf

import nmt
from nmt.benchmark.options import OWN, BenchOptions, SystemSpec
from nmt.benchmark.run import _check_checkpoint
from nmt.benchmark.systems import load_system
from nmt.checkpoints.average import average_checkpoints
from nmt.checkpoints.checkpoint import Checkpoint, load_model
from nmt.checkpoints.checksums import DamagedError
from nmt.checkpoints.warm_start import warm_start
from nmt.compression.options import PruneOptions
from nmt.compression.prune import prune
from nmt.config import compose, parse_options
from nmt.device import Device
from nmt.interchange.export import export_checkpoint
from nmt.interchange.imported import Imported, write_imported
from nmt.models.tensors import model_tensors
from nmt.reproduction.make import _start
from nmt.reproduction.plan import Job

ROOT = Path(__file__).parents[2]
GOLDEN = ROOT / "tests" / "golden" / "checkpoint"
LAYERS = ["method=layers", "method.decoder=[0]"]


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    return Path(shutil.copytree(GOLDEN, tmp_path / "checkpoint"))


def pruned(checkpoint: Path, out: Path) -> None:
    config = compose("prune", [f"checkpoint={checkpoint}", f"out={out}", *LAYERS])
    prune(parse_options(PruneOptions, config))


def random_checkpoint(out: Path) -> None:
    path = ROOT / "scripts" / "make_random_checkpoint.py"
    spec = importlib.util.spec_from_file_location("make_random_checkpoint", path)
    assert spec is not None
    assert spec.loader is not None
    script = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(script)
    script.main(["model=tiny", "vocab_size=200", "lines=2", "length=3", f"out={out}"])


def imported(checkpoint: Path, out: Path) -> None:
    """As if another toolkit had trained it."""
    loaded = load_model(checkpoint)
    node = OmegaConf.to_container(loaded.config.model)
    assert isinstance(node, dict)
    model = Imported(checkpoint, node, model_tensors(loaded.model), loaded.vocabularies, "en", "eo")
    write_imported(model, out, "hf")


WRITERS: dict[str, Callable[[Path, Path], object]] = {
    "average": lambda checkpoint, out: average_checkpoints([str(checkpoint)] * 2, None, str(out)),
    "prune": pruned,
    "import": imported,
    "make_random_checkpoint": lambda _, out: random_checkpoint(out),
}


@pytest.mark.parametrize("write", WRITERS.values(), ids=WRITERS)
def test_every_writer_writes_digests(write: Callable[[Path, Path], object], checkpoint: Path, tmp_path: Path) -> None:
    write(checkpoint, tmp_path / "out")
    listed = {line.split("  ")[1] for line in (tmp_path / "out" / "SHA256SUMS").read_text().splitlines()}
    assert listed == {p.name for p in (tmp_path / "out").iterdir()} - {"SHA256SUMS"}
    assert load_model(tmp_path / "out").path == tmp_path / "out"


def test_a_training_writes_digests(train: Any, tmp_path: Path) -> None:
    overrides = ["train.max_updates=4", "checkpoints.every=1", "checkpoints.average=2", "train.ema=0.5"]
    train(f"run={tmp_path / 'run'}", *overrides)
    folders = [p for p in (tmp_path / "run" / "checkpoints").iterdir() if not p.is_symlink()]
    assert {p.name.partition("-")[0] for p in folders} == {"update", "average"}
    for folder in folders:
        command = ["sha256sum", "--check", "--strict", "--quiet", "--ignore-missing", "SHA256SUMS"]
        subprocess.run(command, cwd=folder, check=True)
        listed = {line.split("  ")[1] for line in (folder / "SHA256SUMS").read_text().splitlines()}
        assert listed >= {p.name for p in folder.iterdir()} - {"SHA256SUMS"}


READERS: dict[str, Callable[[Path, Path], object]] = {
    "load": lambda checkpoint, _: nmt.load(checkpoint),
    "ensemble": lambda checkpoint, _: nmt.load([GOLDEN, checkpoint]),
    "average": lambda checkpoint, out: average_checkpoints([str(checkpoint), str(GOLDEN)], None, str(out)),
    "init_from": lambda checkpoint, _: warm_started(checkpoint),
    "prune": pruned,
    "export": lambda checkpoint, out: export_checkpoint(checkpoint, "hf", out),
    "bench": lambda checkpoint, _: load_system(SystemSpec(OWN, "x", "fp32", str(checkpoint)), Device.cpu, 1, []),
    "reproduce": lambda checkpoint, out: _start(Job("x", 1, out, "prune", (), source=checkpoint)),
}


def warm_started(checkpoint: Path) -> None:
    loaded = load_model(GOLDEN)
    warm_start(loaded.model, str(checkpoint), loaded.vocabularies, loaded.config)


def flip(path: Path) -> None:
    """The lowest bit of a byte in the middle."""
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


@pytest.mark.parametrize("read", READERS.values(), ids=READERS)
def test_every_reader_finds_a_bit_that_changed(
    read: Callable[[Path, Path], object], checkpoint: Path, tmp_path: Path
) -> None:
    flip(checkpoint / "model.safetensors")
    with pytest.raises(DamagedError) as caught:
        read(checkpoint, tmp_path / "out")
    file = checkpoint / "model.safetensors"
    assert str(caught.value) == f"{file}: damaged (its content is not what SHA256SUMS says)"
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("file", ["config.yaml", "sentencepiece.model"])
def test_the_small_files_too(file: str, checkpoint: Path) -> None:
    flip(checkpoint / file)
    with pytest.raises(DamagedError, match=f"{file}: damaged"):
        load_model(checkpoint)
    if file == "config.yaml":
        options = parse_options(BenchOptions, compose("bench", [f"checkpoint={checkpoint}", "input=text", "out=x"]))
        with pytest.raises(DamagedError, match="damaged"):
            _check_checkpoint(str(checkpoint), options)


def test_first_weights(make_trainer: Any, train: Any, tmp_path: Path) -> None:
    train(f"run={tmp_path / 'a'}", "train.max_updates=1")
    flip(tmp_path / "a" / "checkpoints" / "best" / "model.safetensors")
    with pytest.raises(DamagedError, match=r"model\.safetensors: damaged"):
        make_trainer(f"run={tmp_path / 'b'}", f"init_from={tmp_path / 'a'}", "train.max_updates=1")
    assert not (tmp_path / "b").exists()


def test_nothing_reads_or_writes_a_checkpoint_in_another_way() -> None:
    """The names of its files stand in one module; others ask it."""
    allowed = {"nmt/checkpoints/checkpoint.py", "nmt/interchange/huggingface.py", "nmt/interchange/marian.py"}
    using = set[str]()
    for folder in ("nmt", "modules", "criterions", "scripts"):
        for path in (ROOT / folder).rglob("*.py"):
            code = "\n".join(line.partition("#")[0] for line in path.read_text(encoding="utf-8").splitlines())
            if '"model.safetensors"' in code or "_read_config(" in code:
                using.add(str(path.relative_to(ROOT)))
    assert using == allowed
    assert Checkpoint(GOLDEN).config.checkpoint.format == 1
