"""Averages of checkpoints: the mean by hand, and what cannot be averaged."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import torch
from omegaconf import OmegaConf
from safetensors.torch import load_file, save_file
from torch.testing import assert_close

from nmt.checkpoints.average import average_checkpoints, average_tensors
from nmt.checkpoints.checkpoint import Checkpoint, load_model
from nmt.checkpoints.checksums import SUMS_FILE, write_sums
from nmt.config import ConfigError, DataError

MODEL = "model.safetensors"


def test_mean_of_the_newest(run: Path, tmp_path: Path) -> None:
    folders = average_checkpoints([str(run)], 2, str(tmp_path / "out"))
    assert [f.name for f in folders] == ["update-00000009", "update-00000012"]
    a, b = (load_file(run / "checkpoints" / f.name / MODEL) for f in folders)
    got = load_file(tmp_path / "out" / MODEL)
    assert got.keys() == a.keys()
    for name, tensor in got.items():
        assert_close(tensor, ((a[name].double() + b[name].double()) / 2).float(), rtol=0, atol=0)
    loaded = load_model(tmp_path / "out")
    assert loaded.config.checkpoint.average_of == ["update-00000009", "update-00000012"]


def test_without_a_number_all_of_the_run(run: Path, tmp_path: Path) -> None:
    numbered = sorted(p.name for p in (run / "checkpoints").glob("update-*"))
    assert [f.name for f in average_checkpoints([str(run)], None, str(tmp_path / "out"))] == numbered


def test_a_list_of_checkpoints(run: Path, tmp_path: Path) -> None:
    paths = [run / "checkpoints" / name for name in ("last", "update-00000009", "last")]
    average_checkpoints([str(p) for p in paths], None, str(tmp_path / "out"))
    a, b = load_file(paths[0] / MODEL), load_file(paths[1] / MODEL)
    name = "encoder.norm.weight"
    assert_close(load_file(tmp_path / "out" / MODEL)[name], (2 * a[name] + b[name]) / 3)


def checkpoint_of(folder: Path, **tensors: torch.Tensor) -> Checkpoint:
    """One with nothing but tensors and their digests."""
    folder.mkdir()
    save_file(tensors, folder / MODEL)
    write_sums(folder / SUMS_FILE)
    return Checkpoint(folder)


def test_a_count_comes_from_the_last_and_dtypes_stay(tmp_path: Path) -> None:
    both = [
        checkpoint_of(tmp_path / name, half=torch.tensor([number], dtype=torch.float16), count=torch.tensor(number))
        for name, number in (("a", 1), ("b", 4))
    ]
    got = average_tensors(both)
    assert got == {"half": torch.tensor([2.5], dtype=torch.float16), "count": torch.tensor(4)}
    assert got["half"].dtype == torch.float16


def test_whole_numbers_have_no_mean(tmp_path: Path) -> None:
    a, b, c = (
        checkpoint_of(tmp_path / name, ranks=torch.tensor(ranks), mask=torch.tensor(mask))
        for name, ranks, mask in (("a", [0, 1], [True]), ("b", [0, 1], [True]), ("c", [1, 0], [True]))
    )
    assert average_tensors([a, b])["ranks"].tolist() == [0, 1]
    with pytest.raises(
        DataError, match=r"c/model\.safetensors: ranks differs from .*a/model\.safetensors: there is no"
    ):
        average_tensors([a, c])


def test_sums_are_in_float64(tmp_path: Path) -> None:
    """2^24 + 1 is no float32: there two ones would be lost, and the mean of the three be rounded to 5592405.5."""
    values = {"a": 2.0**24, "b": 1.0, "c": 1.0}
    checkpoints = [checkpoint_of(tmp_path / name, weight=torch.tensor([value])) for name, value in values.items()]
    for order in (checkpoints, checkpoints[::-1]):
        assert average_tensors(order)["weight"].tolist() == [(2**24 + 2) / 3]


def test_refusals(run: Path, checkpoint: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"^last=9: .* has 3 numbered checkpoints \(checkpoints\.keep_last says"):
        average_checkpoints([str(run)], 9, str(tmp_path / "out"))
    with pytest.raises(ConfigError, match=r"^last= is for a single run"):
        average_checkpoints([str(run), str(checkpoint)], 2, str(tmp_path / "out"))
    with pytest.raises(ConfigError, match=r"^out=.* exists; choose another folder"):
        average_checkpoints([str(run)], 2, str(tmp_path))
    with pytest.raises(ConfigError, match="no such folder"):
        average_checkpoints([str(tmp_path / "none")], None, str(tmp_path / "out"))
    assert not (tmp_path / "out").exists()


def test_other_models_do_not_fit(run: Path, checkpoint: Path, tmp_path: Path) -> None:
    last = str(run / "checkpoints" / "last")
    tensors = load_file(checkpoint / MODEL)
    save_file({**tensors, "encoder.norm.weight": torch.zeros(3)}, checkpoint / MODEL)
    write_sums(checkpoint / SUMS_FILE)
    with pytest.raises(DataError, match=r"another model than .*: their tensors differ"):
        average_checkpoints([last, str(checkpoint)], None, str(tmp_path / "out"))
    shutil.copy(Path(last) / MODEL, checkpoint / MODEL)
    config = OmegaConf.load(checkpoint / "config.yaml")
    config.checkpoint.vocabulary = "0" * 64
    OmegaConf.save(config, checkpoint / "config.yaml")
    write_sums(checkpoint / SUMS_FILE)
    with pytest.raises(DataError, match="was made with another vocabulary than"):
        average_checkpoints([str(checkpoint), last], None, str(tmp_path / "out"))


@pytest.mark.parametrize(
    ("key", "value", "shown"),
    [
        ("model.decoder.num_heads", 4, "model.decoder.num_heads: 2 there, 4 here"),
        (
            "model.encoder.feed_forward.activation",
            "gelu",
            "model.encoder.feed_forward.activation: relu there, gelu here",
        ),
        ("model.encoder.layer.norm_position", "post", "model.encoder.layer.norm_position: pre there, post here"),
        ("model.norm.eps", 0.1, "model.norm.eps: 1e-05 there, 0.1 here"),
        ("checkpoint.target_language", "in", "checkpoint.target_language: out there, in here"),
    ],
)
def test_models_that_only_look_alike_are_not_averaged(
    key: str, value: object, shown: str, run: Path, checkpoint: Path, tmp_path: Path
) -> None:
    config = OmegaConf.load(checkpoint / "config.yaml")
    OmegaConf.update(config, key, value, force_add=True)
    OmegaConf.save(config, checkpoint / "config.yaml")
    write_sums(checkpoint / SUMS_FILE)
    last = run / "checkpoints" / "last"
    with pytest.raises(DataError) as caught:
        average_checkpoints([str(checkpoint), str(last)], None, str(tmp_path / "out"))
    there, _, here = shown.removeprefix(f"{key}: ").removesuffix(" here").partition(" there, ")
    assert str(caught.value) == (f"{checkpoint}: another model than that of {last} ({key}: {there} there, {here} here)")


def test_a_default_that_is_spelled_out_is_no_difference(run: Path, checkpoint: Path, tmp_path: Path) -> None:
    config = OmegaConf.load(checkpoint / "config.yaml")
    config.model.norm.eps = 1e-5
    config.train.max_updates = 99
    OmegaConf.save(config, checkpoint / "config.yaml")
    write_sums(checkpoint / SUMS_FILE)
    average_checkpoints([str(checkpoint), str(run / "checkpoints" / "last")], None, str(tmp_path / "out"))
