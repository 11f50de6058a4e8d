"""The folder of a run: whose configuration it is, and which checkpoints stay."""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import Any

import pytest
from omegaconf import OmegaConf

from nmt.checkpoints.checkpoint import CheckpointFiles
from nmt.checkpoints.differences import flatten
from nmt.checkpoints.store import CheckpointStore
from nmt.config import ConfigError
from nmt.leftovers import scratch_name, settle_all
from nmt.training.run.folder import adopt_config

CONFIG = {"model": {"dropout": 0.1, "layers": 2}, "train": {"max_updates": 5}, "run": "x", "threads": 1}


def adopt(folder: Path, *, extendable: bool = True, **changes: Any) -> None:
    folder.mkdir(exist_ok=True)  # as the lock does
    config = OmegaConf.create(CONFIG)
    for key, value in changes.items():
        OmegaConf.update(config, key.replace("__", "."), value, force_add=True)
    adopt_config(folder, config, extendable=extendable)


def test_flatten() -> None:
    assert flatten({"a": {"b": 1, "c": {}}, "d": [1]}) == {"a.b": 1, "a.c": {}, "d": [1]}


def test_same_configuration_goes_on_and_where_it_runs_does_not_matter(tmp_path: Path) -> None:
    adopt(tmp_path / "run")
    adopt(tmp_path / "run")
    adopt(tmp_path / "run", threads=2, run="elsewhere", device="cpu", batch__workers=3)


def test_where_things_lie_does_not_matter(tmp_path: Path) -> None:
    """What lies there is compared by `Continued`."""
    adopt(tmp_path / "run", corpus="../c", init_from="a/x", plugins=["p"])
    adopt(tmp_path / "run", corpus=["/data/c"], init_from="b/x", plugins=["q", "p"])
    with pytest.raises(ConfigError, match=r"\(init_from: b/x there, None now\)"):
        adopt(tmp_path / "run")
    adopt(tmp_path / "new")
    with pytest.raises(ConfigError, match=r"\(init_from: None there, a now\)"):
        adopt(tmp_path / "new", init_from="a")


def test_the_end_may_move_unless_the_schedule_depends_on_it(tmp_path: Path) -> None:
    adopt(tmp_path / "run", extendable=False)
    adopt(tmp_path / "run", train__max_updates=9)
    assert OmegaConf.load(tmp_path / "run" / "config.yaml").train.max_updates == 9
    with pytest.raises(ConfigError, match=r"\(train\.max_updates: 9 there, 12 now\)"):
        adopt(tmp_path / "run", extendable=False, train__max_updates=12)


def test_another_configuration_is_refused_with_every_difference(tmp_path: Path) -> None:
    adopt(tmp_path / "run")
    before = (tmp_path / "run" / "config.yaml").read_bytes()
    with pytest.raises(ConfigError) as caught:
        adopt(tmp_path / "run", model__dropout=0.3, model__new="y")
    assert str(caught.value) == (
        f"run={tmp_path / 'run'} exists with another configuration "
        "(model.dropout: 0.1 there, 0.3 now; model.new: None there, y now); choose another run="
    )
    assert (tmp_path / "run" / "config.yaml").read_bytes() == before


def test_a_folder_of_something_else_is_refused(tmp_path: Path) -> None:
    (tmp_path / "letter.txt").write_text("dear")
    with pytest.raises(ConfigError, match=r"exists, is not empty and is not a run \(no config\.yaml\)"):
        adopt(tmp_path)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["letter.txt"]


# --- checkpoints ------------------------------------------------------------------------------------------------------

NAMES = ("model.safetensors", "config.yaml", "training.safetensors", "training.json")


def save(store: CheckpointStore, update: int, ranking: list[int]) -> None:
    files = CheckpointFiles({name: lambda path: path.write_text(str(update)) for name in NAMES})
    store.save(update, files, [store.name(u) for u in ranking])


def kept(store: CheckpointStore) -> list[int]:
    return [int(path.name.removeprefix("update-")) for path in store.numbered()]


def test_newest_and_best_stay_and_the_links_follow(tmp_path: Path) -> None:
    store = CheckpointStore(tmp_path, keep_last=2, keep_best=1)
    best = {10: 10, 20: 20, 30: 20, 40: 20, 50: 50}
    seen = []
    for update, winner in best.items():
        save(store, update, [winner])
        seen.append(kept(store))
        links = [(tmp_path / name).resolve().name for name in ("last", "best")]
        assert links == [store.name(update), store.name(winner)]
    assert seen == [[10], [10, 20], [20, 30], [20, 30, 40], [40, 50]]


def test_only_the_last_two_can_be_continued(tmp_path: Path) -> None:
    store = CheckpointStore(tmp_path, keep_last=5, keep_best=1)
    for update in (1, 2, 3, 4):
        save(store, update, [])
    assert [p.name for p in store.numbered() if (p / "training.json").exists()] == [store.name(3), store.name(4)]
    assert not (tmp_path / "best").exists()  # nothing was validated


def test_a_new_store_is_empty(tmp_path: Path) -> None:
    store = CheckpointStore(tmp_path / "none", keep_last=1, keep_best=1)
    assert (store.numbered(), store.newest_first()) == ([], [])


def test_half_written_leftovers_are_removed(tmp_path: Path) -> None:
    store = CheckpointStore(tmp_path, keep_last=1, keep_best=1)
    save(store, 1, [1])
    scratch_name(tmp_path / "update-00000002").mkdir()
    scratch_name(tmp_path / "last").symlink_to("update-00000001")
    settle_all(tmp_path)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["best", "last", "update-00000001"]


@pytest.mark.parametrize(
    ("processes", "accumulate", "extendable", "message"),
    [
        (1, 4, False, None),  # as many batches an update as before
        (4, 1, False, None),
        (1, 2, True, None),  # fewer, by another number of processes
        (1, 2, False, r"\(processes x train\.accumulate: 4 there, 2 now\)"),
        (2, 1, True, r"\(train\.accumulate: 2 there, 1 now\)"),
    ],
)
def test_batches_of_an_update(
    processes: int, accumulate: int, extendable: bool, message: str | None, tmp_path: Path
) -> None:
    """Two processes began with two batches each."""
    adopt_config(tmp_path, OmegaConf.create({"train": {"accumulate": 2}}), extendable=True, processes=2)
    (tmp_path / "manifest.json").write_text('[{"processes": 1}, {"processes": 2}]')
    config = OmegaConf.create({"train": {"accumulate": accumulate}})
    refused: Any = contextlib.nullcontext() if message is None else pytest.raises(ConfigError, match=message)
    with refused:
        adopt_config(tmp_path, config, extendable=extendable, processes=processes)
