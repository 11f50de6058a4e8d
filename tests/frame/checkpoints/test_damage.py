"""A damaged checkpoint: the run goes on from the one before, says so, and ends as if nothing had happened."""

from __future__ import annotations

import json
import logging
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch.testing import assert_close

from nmt.checkpoints.checkpoint import load_model
from nmt.checkpoints.checksums import SUMS_FILE, write_sums
from nmt.config import DataError
from nmt.models.tensors import model_tensors

OVERRIDES = [
    "model.dropout=0.3", "train.ema=0.8", "validate.every=5", "checkpoints.every=5", "optimizer.lr=0.01",
    "checkpoints.keep_last=2",
]  # fmt: skip
END = 23


def truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def flip(path: Path) -> None:
    """One bit in the middle: still a valid file of its kind."""
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def garbage(path: Path) -> None:
    path.write_bytes(bytes(range(256)))


def zeros(path: Path) -> None:
    """What a power cut may leave of a file whose length was written, but not its content."""
    path.write_bytes(bytes(path.stat().st_size))


def other_lr(path: Path) -> None:
    """Valid JSON of the right form with another number in it."""
    facts = json.loads(path.read_text())
    facts["progress"]["batch"] += 1
    path.write_text(json.dumps(facts))


DAMAGES: list[tuple[str, Callable[[Path], object], str]] = [
    ("training.safetensors", truncate, "damaged (its content is not what SHA256SUMS says)"),
    ("training.safetensors", flip, "damaged (its content is not what SHA256SUMS says)"),
    ("training.safetensors", zeros, "damaged (its content is not what SHA256SUMS says)"),
    ("training.safetensors", Path.unlink, "cannot be read (No such file or directory)"),
    ("training.json", truncate, "damaged (its content is not what SHA256SUMS says)"),
    ("training.json", other_lr, "damaged (its content is not what SHA256SUMS says)"),
    ("training.json", Path.unlink, "cannot be read (No such file or directory)"),
    ("model.safetensors", truncate, "damaged (its content is not what SHA256SUMS says)"),
    ("model.safetensors", flip, "damaged (its content is not what SHA256SUMS says)"),
    ("model.safetensors", garbage, "damaged (its content is not what SHA256SUMS says)"),
    ("model.safetensors", Path.unlink, "cannot be read (No such file or directory)"),
    ("sentencepiece.model", truncate, "damaged (its content is not what SHA256SUMS says)"),
    ("SHA256SUMS", flip, ""),
    ("config.yaml", garbage, "damaged (its content is not what SHA256SUMS says)"),
    ("config.yaml", Path.unlink, "cannot be read (No such file or directory)"),
]


@pytest.fixture(scope="module")
def stopped(train, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that came as far as update 15; read only."""
    run = tmp_path_factory.mktemp("stopped") / "run"
    train(f"run={run}", "train.max_updates=15", *OVERRIDES)
    return run


@pytest.fixture(scope="module")
def whole(stopped: Path, train, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same run, undamaged, to its end."""
    run = tmp_path_factory.mktemp("whole") / "run"
    shutil.copytree(stopped, run, symlinks=True)
    train(f"run={run}", f"train.max_updates={END}", *OVERRIDES)
    return run


def assert_same(got: Path, expected: Path) -> None:
    """Everything that is not a time is equal: the log, the checkpoints that are kept, the links, the state."""
    logs = []
    for run in (got, expected):
        lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
        drop = ("seconds", "tokens_per_second", "updates_per_second", "peak_mib")
        logs.append([{k: v for k, v in line.items() if k not in drop} for line in lines])
    assert logs[0] == logs[1]
    names = [{p.name for p in (run / "checkpoints").iterdir()} for run in (got, expected)]
    assert {n for n in names[0] if not n.startswith("damaged-")} == names[1]
    for link in ("last", "best"):
        folders = [(run / "checkpoints" / link).resolve() for run in (got, expected)]
        assert folders[0].name == folders[1].name
        for name in ("model.safetensors", "training.safetensors"):
            if (folders[1] / name).exists():
                assert_close(load_file(folders[0] / name), load_file(folders[1] / name), rtol=0, atol=0)


@pytest.mark.parametrize(("file", "spoil", "reason"), DAMAGES, ids=[f"{f}-{s.__name__}" for f, s, _ in DAMAGES])
def test_falls_back_to_the_one_before(
    file: str, spoil: Callable[[Path], object], reason: str, stopped: Path, whole: Path,
    train, tmp_path: Path, caplog: pytest.LogCaptureFixture,
) -> None:  # fmt: skip
    run = tmp_path / "run"
    shutil.copytree(stopped, run, symlinks=True)
    newest = run / "checkpoints" / "update-00000015"
    assert newest == (run / "checkpoints" / "last").resolve()
    spoil(newest / file)
    with caplog.at_level(logging.WARNING):
        train(f"run={run}", f"train.max_updates={END}", *OVERRIDES)
    [said] = caplog.messages
    assert said.startswith(f"{newest / file}: {reason}" if reason else f"{newest}/")
    ending = "this checkpoint is set aside as damaged-update-00000015, training goes on from update-00000010"
    assert said.endswith(ending)
    assert_same(run, whole)
    entries = json.loads((run / "manifest.json").read_text(encoding="utf-8"))
    assert entries[-1]["update"] == 10
    caplog.clear()
    train(f"run={run}", f"train.max_updates={END + 1}", *OVERRIDES)
    assert caplog.messages == []  # it is over and done with


def test_links_and_ranking_right_after_falling_back(stopped: Path, make_trainer, tmp_path: Path) -> None:
    """The damaged checkpoint was the best one too; until training writes it again, the best of those left is."""
    run = tmp_path / "run"
    shutil.copytree(stopped, run, symlinks=True)
    folder = run / "checkpoints"
    facts = json.loads((folder / "update-00000010" / "training.json").read_text())
    garbage(folder / "last" / "training.json")
    trainer = make_trainer(f"run={run}", f"train.max_updates={END}", *OVERRIDES)
    trainer._epochs = dict  # type: ignore[method-assign]
    trainer.fit()
    assert (folder / "last").resolve().name == "update-00000010"
    left = [name for _, name in facts["progress"]["ranking"] if (folder / name).is_dir()]
    assert (folder / "best").exists() == bool(left)
    assert all((folder / "best").resolve().name == name for name in left[:1])
    assert load_model(run).path.exists()
    assert [list(entry) for entry in trainer.learner.progress.ranking] == facts["progress"]["ranking"]
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    assert lines[-1]["update"] == 10


def test_twice_damaged(stopped: Path, whole: Path, train, tmp_path: Path) -> None:
    """The same moment again: the folder that was set aside first makes room."""
    run = tmp_path / "run"
    shutil.copytree(stopped, run, symlinks=True)
    for _ in range(2):
        garbage(run / "checkpoints" / "update-00000015" / "training.json")
        train(f"run={run}", "train.max_updates=15", *OVERRIDES)
    train(f"run={run}", f"train.max_updates={END}", *OVERRIDES)
    assert_same(run, whole)


def test_nothing_is_left_half_restored(stopped: Path, make_trainer, tmp_path: Path) -> None:
    run = tmp_path / "run"
    shutil.copytree(stopped, run, symlinks=True)
    trainer = make_trainer(f"run={tmp_path / 'new'}", f"train.max_updates={END}", *OVERRIDES)
    learner, random = trainer.learner, torch.get_rng_state()
    before = {name: tensor.clone() for name, tensor in model_tensors(learner.model).items()}
    last = run / "checkpoints" / "last"
    tensors = load_file(last / "training.safetensors")
    tensors.pop(next(name for name in tensors if name.startswith("weights.")))
    save_file(tensors, last / "training.safetensors")
    facts = json.loads((last / "training.json").read_text())
    with pytest.raises(DataError, match=r"training\.safetensors: damaged"):
        learner.restore(last)
    assert facts["progress"]["update"] == 15
    assert learner.progress.update == 0
    assert learner.optimizer.state_dict()["state"] == {}
    assert torch.equal(torch.get_rng_state(), random)
    assert_close(model_tensors(learner.model), before, rtol=0, atol=0)
    assert_close(learner.average.average, learner.average.parameters, rtol=0, atol=0)


def test_without_a_whole_checkpoint_nothing_is_begun_anew(stopped: Path, train, tmp_path: Path) -> None:
    run = tmp_path / "run"
    shutil.copytree(stopped, run, symlinks=True)
    for path in (run / "checkpoints").glob("update-*/training.json"):
        garbage(path)
    before = sorted((p, p.stat().st_size) for p in (run / "checkpoints").rglob("*"))
    with pytest.raises(DataError) as caught:
        train(f"run={run}", f"train.max_updates={END}", *OVERRIDES)
    said = str(caught.value)
    assert said.startswith(f"{run}/checkpoints/update-00000015/training.json: damaged (")
    assert said.endswith(
        f"no earlier checkpoint can be continued either: choose another run=, or remove {run}/checkpoints to begin anew"
    )
    assert sorted((p, p.stat().st_size) for p in (run / "checkpoints").rglob("*")) == before


def test_what_is_whole_is_not_set_aside(stopped: Path, train, tmp_path: Path) -> None:
    """Digests that are gone, or a state that fits no more, are no damage: the run is refused, nothing is touched."""
    run = tmp_path / "run"
    shutil.copytree(stopped, run, symlinks=True)
    newest = run / "checkpoints" / "update-00000015"
    (newest / "training.json").write_text("{}")
    write_sums(newest / SUMS_FILE)
    for message in (r"training\.json: not the state of a training run", "no SHA256SUMS in it, .* `sha256sum"):
        before = sorted((p, p.stat().st_size) for p in (run / "checkpoints").rglob("*"))
        with pytest.raises(DataError, match=message) as caught:
            train(f"run={run}", f"train.max_updates={END}", *OVERRIDES)
        assert "remove" not in str(caught.value)
        assert sorted((p, p.stat().st_size) for p in (run / "checkpoints").rglob("*")) == before
        (newest / SUMS_FILE).unlink(missing_ok=True)
