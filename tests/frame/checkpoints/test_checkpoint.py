"""Checkpoints: whole or not at all, self-contained, and every damage one clear line."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from omegaconf import OmegaConf
from safetensors.torch import load_file, save_file
from torch.testing import assert_close

from nmt.checkpoints.checkpoint import load_model, resolve_checkpoint
from nmt.checkpoints.checksums import SUMS_FILE, DamagedError, write_sums
from nmt.config import ConfigError, DataError
from nmt.data.corpus import Corpus
from nmt.models.tensors import load_tensors, model_tensors

FILES = ["SHA256SUMS", "config.yaml", "model.safetensors", "sentencepiece.model"]


def test_round_trip_gives_the_same_outputs(train, tmp_path: Path, digits: Path) -> None:
    trainer = train(f"run={tmp_path / 'run'}", "train.max_updates=3", "model.norm.name=rms_norm")
    loaded = load_model(tmp_path / "run")
    assert not loaded.model.training
    assert loaded.path == tmp_path / "run" / "checkpoints" / "best"
    src, prev = torch.tensor([[4, 5, 2]]), torch.tensor([[1, 6]])
    assert_close(loaded.model(src, prev).hidden, trainer.model.eval()(src, prev).hidden, rtol=0, atol=0)
    assert loaded.vocabularies.digest == Corpus.open(digits).vocabularies.digest
    assert OmegaConf.to_container(loaded.config.checkpoint) == {
        "format": 1,
        "source_language": "in",
        "target_language": "out",
        "vocabulary": loaded.vocabularies.digest,
        "update": 3,
    }


def test_holds_what_is_needed_and_tied_matrices_once(checkpoint: Path) -> None:
    assert sorted(p.name for p in checkpoint.iterdir()) == [*FILES, "training.json", "training.safetensors"]
    names = load_file(checkpoint / "model.safetensors").keys()
    assert "embedding.source.words.weight" in names
    assert not any(name.startswith(("embedding.target", "output")) or "table" in name for name in names)


def test_moves_without_its_run(checkpoint: Path) -> None:
    for name in ("training.json", "training.safetensors"):
        (checkpoint / name).unlink()
    assert load_model(str(checkpoint)).path == checkpoint


def test_separate_vocabularies(train, make_corpus, tmp_path: Path) -> None:
    corpus = make_corpus(50, joint="false", vocab_size=24)
    overrides = ["model.embedding.share=decoder", "train.max_updates=1"]
    train(f"run={tmp_path / 'run'}", f"corpus={corpus}", *overrides)
    loaded = load_model(tmp_path / "run")
    assert not loaded.vocabularies.joint
    assert {"sentencepiece.source.model", "sentencepiece.target.model"} <= {p.name for p in loaded.path.iterdir()}


# --- damage -----------------------------------------------------------------------------------------------------------


def truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-7])


def rewrite(change: Callable[[dict[str, torch.Tensor]], object]) -> Callable[[Path], None]:
    def spoil(path: Path) -> None:
        tensors = load_file(path)
        change(tensors)
        save_file(tensors, path)

    return spoil


def reseal(checkpoint: Path) -> None:
    """Make the digests anew, so that what they do not show is looked at."""
    write_sums(checkpoint / SUMS_FILE)


def edit(key: str, value: object) -> Callable[[Path], None]:
    def spoil(path: Path) -> None:
        config = OmegaConf.load(path)
        OmegaConf.update(config, key, value, force_add=True)
        OmegaConf.save(config, path)

    return spoil


NORM = "encoder.norm.weight"
DAMAGES: dict[str, tuple[str, Callable[[Path], object], str]] = {
    "truncated": ("model.safetensors", truncate, "truncated or not a safetensors file"),
    "foreign": ("model.safetensors", lambda p: p.write_text("hello, this is no tensor"), "not a safetensors file"),
    "empty": ("model.safetensors", lambda p: p.write_bytes(b""), "not a safetensors file"),
    "missing tensor": ("model.safetensors", rewrite(lambda t: t.pop(NORM)), f"1 tensors missing ['{NORM}'], 0 unknown"),
    "unknown tensor": (
        "model.safetensors",
        rewrite(lambda t: t.update(x=torch.zeros(1))),
        "0 tensors missing [], 1 unknown ['x']",
    ),
    "other shape": (
        "model.safetensors",
        rewrite(lambda t: t.update({NORM: torch.zeros(3)})),
        f"{NORM} has shape (3,), the model needs (16,)",
    ),
    "no config": ("config.yaml", Path.unlink, "config.yaml: cannot be read (No such file or directory)"),
    "not yaml": ("config.yaml", lambda p: p.write_text("a: [1"), "not a configuration"),
    "binary": ("config.yaml", lambda p: p.write_bytes(b"\xff\xfe\x00"), "not a configuration"),
    "a list": ("config.yaml", lambda p: p.write_text("- 1"), "not a configuration (no keys at the top)"),
    "of a run": ("config.yaml", lambda p: p.write_text("model: {}"), "(no key checkpoint.format)"),
    "format only": ("config.yaml", lambda p: p.write_text("checkpoint: {format: 1}"), "(no key task)"),
    "later format": ("config.yaml", edit("checkpoint.format", 2), "checkpoint format 2; this version reads format 1"),
    "code": (
        "config.yaml",
        lambda p: p.write_text("checkpoint: !!python/object/apply:os.system ['touch executed']"),
        "not a configuration",
    ),
    "no vocabulary": ("sentencepiece.model", Path.unlink, "no vocabulary here"),
    "foreign vocabulary": ("sentencepiece.model", truncate, "not a sentencepiece model"),
}


@pytest.mark.parametrize("resealed", [True, False])
@pytest.mark.parametrize(("file", "spoil", "message"), DAMAGES.values(), ids=DAMAGES)
def test_damage_is_one_line_with_the_path(
    file: str,
    spoil: Callable[[Path], object],
    message: str,
    resealed: bool,
    checkpoint: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(checkpoint.parent)
    spoil(checkpoint / file)
    if resealed:
        reseal(checkpoint)
    with pytest.raises((DataError, ConfigError)) as caught:
        load_model(checkpoint)
    text = str(caught.value)
    assert resealed or isinstance(caught.value, DamagedError)
    shown = ("damaged (its content is not what SHA256SUMS says)", "cannot be read (No such file or directory)")
    assert message in text or (not resealed and any(part in text for part in shown))
    assert text.startswith(str(checkpoint)) or text.startswith(f"checkpoint={checkpoint}")
    assert "\n" not in text
    assert not (checkpoint.parent / "executed").exists()


def test_another_vocabulary(checkpoint: Path, make_corpus) -> None:
    other = make_corpus(60, seed=9) / "sentencepiece.model"
    (checkpoint / "sentencepiece.model").write_bytes(other.read_bytes())
    reseal(checkpoint)
    with pytest.raises(DataError, match="its vocabulary is not the one that the model was trained with"):
        load_model(checkpoint)


def test_missing_plugin_is_named(checkpoint: Path) -> None:
    edit("model.encoder.feed_forward.name", "from_a_plugin")(checkpoint / "config.yaml")
    edit("plugins", ["some.plugin"])(checkpoint / "config.yaml")
    reseal(checkpoint)
    with pytest.raises(ConfigError, match=r"'from_a_plugin' is not a registered .*: give plugins=\[some\.plugin\]$"):
        load_model(checkpoint)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda p: None, "no such folder; give a run or a checkpoint folder"),
        (lambda p: p.mkdir(), "neither a checkpoint (no model.safetensors) nor a run with one"),
        (lambda p: (p / "checkpoints" / "best").mkdir(parents=True), "neither a checkpoint"),
    ],
)
def test_no_checkpoint_there(make: Callable[[Path], object], message: str, tmp_path: Path) -> None:
    make(tmp_path / "x")
    with pytest.raises(ConfigError) as caught:
        resolve_checkpoint(tmp_path / "x")
    assert str(caught.value).startswith(f"checkpoint={tmp_path / 'x'}: {message}")


def test_a_run_stands_for_its_best_checkpoint(run: Path) -> None:
    assert resolve_checkpoint(run) == run / "checkpoints" / "best"
    assert resolve_checkpoint(run / "checkpoints" / "last") == run / "checkpoints" / "last"


# --- digests ----------------------------------------------------------------------------------------------------------


def test_without_digests(checkpoint: Path) -> None:
    """The line says what to type, and typed in the folder it helps."""
    (checkpoint / SUMS_FILE).unlink()
    with pytest.raises(DataError) as caught:
        load_model(checkpoint)
    said = str(caught.value)
    assert said.startswith(
        f"{checkpoint}: no SHA256SUMS in it, so nothing shows whether its files are whole; where you"
    )
    [command] = re.findall("`(.*)`", said)
    subprocess.run(command, shell=True, check=True, cwd=checkpoint)
    assert load_model(checkpoint).path == checkpoint
    subprocess.run(["sha256sum", "--check", "--strict", "--quiet", SUMS_FILE], check=True, cwd=checkpoint)


def test_a_configuration_that_was_edited(checkpoint: Path) -> None:
    """The same line again: what was changed on purpose is taken when the digests are made anew."""
    edit("model.dropout", 0.25)(checkpoint / "config.yaml")
    with pytest.raises(DataError, match=r"config\.yaml: damaged .*; if you changed it, `sha256sum") as caught:
        load_model(checkpoint)
    [command] = re.findall("`(.*)`", str(caught.value))
    subprocess.run(command, shell=True, check=True, cwd=checkpoint)
    assert load_model(checkpoint).config.model.dropout == 0.25


def test_a_file_that_has_no_digest_is_not_read(checkpoint: Path) -> None:
    path = checkpoint / SUMS_FILE
    path.write_text("".join(line for line in path.read_text().splitlines(True) if "model.safetensors" not in line))
    with pytest.raises(DamagedError, match=r"model\.safetensors: SHA256SUMS beside it has no digest of it"):
        load_model(checkpoint)


def test_load_tensors_needs_exactly_the_models(make_model, tmp_path: Path) -> None:
    model, other = make_model(), make_model("model.norm.name=rms_norm")
    tensors = {name: t + 1 for name, t in model_tensors(model).items()}
    load_tensors(model, tensors, tmp_path)
    assert_close(model_tensors(model), tensors)
    with pytest.raises(DataError, match="does not fit the model of its configuration: 0 tensors missing"):
        load_tensors(other, tensors, tmp_path)


def test_reading_uses_no_pickle(checkpoint: Path) -> None:
    """Reading works where unpickling is impossible."""
    code = (
        "import pickle, sys\n"
        "from nmt.checkpoints.checkpoint import load_model\n"
        "def refuse(*a, **k): raise SystemExit('unpickled')\n"
        "pickle.load = pickle.loads = pickle.Unpickler = refuse\n"
        "load_model(sys.argv[1])\n"
    )
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    subprocess.run([sys.executable, "-c", code, str(checkpoint)], check=True, env=environment)
