"""A run that was copied with its links followed (cp -rL, zip): real folders stand where the links were."""

from __future__ import annotations

import logging
import os
import shutil
from pathlib import Path

import pytest

from nmt.checkpoints.checkpoint import CheckpointFiles, load_model
from nmt.checkpoints.store import CheckpointStore
from nmt.config import DataError

OVERRIDES = ["train.max_updates=12", "validate.every=3", "checkpoints.every=3", "checkpoints.keep_last=3"]


def tree(folder: Path) -> dict[str, bytes | str]:
    """Links by where they lead, files by their bytes."""
    found: dict[str, bytes | str] = {}
    for path in folder.rglob("*"):
        name = str(path.relative_to(folder))
        if path.is_symlink():
            found[name] = str(path.readlink())
        elif path.is_file():
            found[name] = path.read_bytes()
    return found


@pytest.fixture
def copy(run: Path, tmp_path: Path) -> Path:
    folder = Path(shutil.copytree(run, tmp_path / "copy", symlinks=False))
    assert not any(path.is_symlink() for path in folder.rglob("*"))
    return folder


def test_it_is_read_and_goes_on_and_its_links_are_made_anew(run: Path, copy: Path, train, read_metrics) -> None:
    assert load_model(copy).path == copy / "checkpoints" / "best"
    train(f"run={copy}", *OVERRIDES)
    assert tree(copy / "checkpoints") == tree(run / "checkpoints")
    train(f"run={copy}", "train.max_updates=14", *OVERRIDES[1:])
    assert (copy / "checkpoints" / "last").readlink() == Path("update-00000014")
    assert [line["update"] for line in read_metrics(copy)] == [*range(1, 15)]


def test_one_that_has_no_equal_is_kept(copy: Path, run: Path, train, caplog: pytest.LogCaptureFixture) -> None:
    """Its numbered folder is gone: it may be the only one that is whole."""
    checkpoints = copy / "checkpoints"
    last = (run / "checkpoints" / "last").resolve().name
    shutil.rmtree(checkpoints / last)
    shutil.rmtree(checkpoints / "best")
    before = tree(checkpoints / "last")
    with caplog.at_level(logging.WARNING):
        train(f"run={copy}", *OVERRIDES)
    assert tree(checkpoints / last) == before
    assert (checkpoints / "last").readlink() == Path(last)
    assert (checkpoints / "best").readlink() == Path((run / "checkpoints" / "best").resolve().name)
    assert caplog.messages == [
        f"{checkpoints / 'last'}: a folder in place of a link, equal to no checkpoint; it is {last} now"
    ]


def test_nothing_that_differs_is_deleted(tmp_path: Path) -> None:
    """If only by its bytes: of the same size and time it is still another one."""
    store = CheckpointStore(tmp_path, keep_last=2, keep_best=1)
    for name, text in {store.name(1): "1", store.name(2): "2", "last": "2", "best": "3"}.items():
        CheckpointFiles({"model.safetensors": lambda path, text=text: path.write_text(text)}).write(tmp_path / name)
        for path in (tmp_path / name).iterdir():
            os.utime(path, (0, 0))
    assert store.begun
    store.restore_links()
    assert (tmp_path / "last").readlink() == Path("update-00000002")
    assert (tmp_path / "best").readlink() == Path("copied-best-1")
    assert (tmp_path / "copied-best-1" / "model.safetensors").read_text() == "3"
    names = ["best", "copied-best-1", "last", "update-00000001", "update-00000002"]
    assert sorted(path.name for path in tmp_path.iterdir()) == names


def test_training_does_not_begin_anew_over_what_it_cannot_read(copy: Path, train) -> None:
    checkpoints = copy / "checkpoints"
    for path in checkpoints.iterdir():
        if path.name != "best":
            shutil.rmtree(path)
    (checkpoints / "best" / "config.yaml").write_text("damaged")
    for _ in range(2):
        with pytest.raises(DataError, match="checkpoints: holds no checkpoint that training can go on from; choose"):
            train(f"run={copy}", *OVERRIDES)
    assert (checkpoints / "copied-best-1" / "model.safetensors").is_file()
