"""The folder of a run: its configuration and its checkpoints."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf

from nmt.config import ConfigError, DataError
from nmt.files import remove_folder, sync, write_text
from nmt.leftovers import is_leftover, scratch_name
from nmt.training.checkpoint import MODEL_FILE, STATE_FACTS, STATE_TENSORS, CheckpointFiles
from nmt.training.run_lock import LOCK_FILE
from nmt.training.run_manifest import read_entries
from nmt.training.update import TrainingError
from nmt.untrusted import check_inside, read_yaml, typed

logger = logging.getLogger(__name__)

EXTENDABLE = ("train.max_updates", "train.max_epochs", "train.patience")
"""Keys that may change when a run goes on: they say when to stop, not what is learned."""
IRRELEVANT = ("run", "device", "threads", "train.parallel", "batch.workers", "verify")
"""Keys that say where and by how many processes the same is computed, and whether its data is looked at first."""
PLACES, INIT_FROM = ("corpus", "plugins"), "init_from"
"""Keys that say where something lies. What it is, is compared by content (``run_manifest``); components have names."""
ACCUMULATE, BATCHES = "train.accumulate", "processes x train.accumulate"


def flatten(config: Any, prefix: str = "") -> dict[str, Any]:
    """A nested mapping as dotted keys."""
    if not isinstance(config, Mapping) or not config:
        return {prefix: config}
    flat: dict[str, Any] = {}
    for key, value in config.items():
        flat.update(flatten(value, f"{prefix}.{key}" if prefix else str(key)))
    return flat


def _flat(config: DictConfig) -> dict[str, Any]:
    return flatten(OmegaConf.to_container(config, resolve=True))


def check_links(folder: Path) -> None:
    """Refuse a run in which links lead out of it: what is written and removed there would lie elsewhere.

    Raises:
        DataError: there is one.
    """
    for place in (folder, folder / "checkpoints"):
        for path in sorted(place.iterdir()) if place.is_dir() else []:
            check_inside(folder, path)


def check_config(folder: Path, config: DictConfig, *, extendable: bool, processes: int = 1) -> None:
    """Check the configuration of a run against what is there already, without writing anything.

    ``train.accumulate`` may change with the number of processes, so that an update takes as many batches as before.

    Args:
        folder: the run.
        config: as composed.
        extendable: whether the end of training may move (no schedule depends on it).
        processes: how many train together now.

    Raises:
        ConfigError: the run exists with another configuration (lists the differences), or is something else.
    """
    path = folder / "config.yaml"
    if folder.exists() and not folder.is_dir():
        raise ConfigError(f"run={folder} is not a folder; choose another run=")
    if path.exists():
        old, new = _flat(read_yaml(path)), _flat(config)
        ignored = IRRELEVANT + PLACES + (EXTENDABLE if extendable else ())
        if None not in (old.get(INIT_FROM), new.get(INIT_FROM)):
            ignored += (INIT_FROM,)
        before, now = _batches_of_an_update(folder, old, new, processes)
        if before == now:
            ignored += (ACCUMULATE,)
        elif not extendable:
            old[BATCHES], new[BATCHES] = before, now
        different = sorted(k for k in old.keys() | new.keys() if old.get(k) != new.get(k) and k not in ignored)
        if different:
            listed = "; ".join(f"{k}: {old.get(k)} there, {new.get(k)} now" for k in different)
            raise ConfigError(f"run={folder} exists with another configuration ({listed}); choose another run=")
    elif folder.exists() and not all(p.name == LOCK_FILE or is_leftover(p) for p in folder.iterdir()):
        raise ConfigError(f"run={folder} exists, is not empty and is not a run (no config.yaml); choose another run=")


def adopt_config(folder: Path, config: DictConfig, *, extendable: bool, processes: int = 1) -> None:
    """Record the configuration of a run, old or new; for the one process that has the run's lock.

    Raises:
        ConfigError: see `check_config`; or the folder cannot be written.
    """
    check_config(folder, config, extendable=extendable, processes=processes)
    path = folder / "config.yaml"
    if path.exists():
        before, now = _batches_of_an_update(folder, _flat(read_yaml(path)), _flat(config), processes)
        if before != now:
            logger.info("run=%s: an update takes %d batches from now on, not %d", folder, now, before)
    try:
        write_text(path, OmegaConf.to_yaml(config, resolve=True))
    except OSError as error:
        raise ConfigError(f"run={folder}: cannot be written ({error.strerror})") from error


def _batches_of_an_update(folder: Path, old: dict[str, Any], new: dict[str, Any], processes: int) -> tuple[int, int]:
    """How many an update took when the run was last started, and how many it takes now."""
    try:
        before = typed(int, read_entries(folder)[-1].get("processes", 1))
    except (DataError, LookupError, TypeError):
        before = processes  # nothing was trained yet, or the manifest will be found damaged when it is continued
    accumulated = old.get(ACCUMULATE, 1)
    return before * (accumulated if isinstance(accumulated, int) else 0), processes * new.get(ACCUMULATE, 1)


class CheckpointStore:
    """Numbered checkpoints of a run, with links ``last`` and ``best``.

    Args:
        folder: ``run/checkpoints``.
        keep_last: newest checkpoints kept.
        keep_best: best checkpoints kept.
    """

    def __init__(self, folder: Path, *, keep_last: int, keep_best: int) -> None:
        self.folder = folder
        self.keep_last = keep_last
        self.keep_best = keep_best

    def numbered(self) -> list[Path]:
        """All kept checkpoints, oldest first."""
        return sorted(p for p in self.folder.glob("update-*") if (p / MODEL_FILE).is_file())

    def newest_first(self) -> list[Path]:
        """All numbered folders, damaged or not."""
        return sorted((p for p in self.folder.glob("update-*") if p.is_dir()), reverse=True)

    @staticmethod
    def name(update: int) -> str:
        """Folder of the checkpoint after an update."""
        return f"update-{update:08d}"

    def save(self, update: int, files: CheckpointFiles, ranking: list[str]) -> None:
        """Write a checkpoint, move the links and remove what is not kept any more.

        Args:
            update: number of updates done.
            files: what it is made of.
            ranking: names of the validated checkpoints, best first.

        Raises:
            TrainingError: it cannot be written; the checkpoints before it are as they were.
        """
        self.save_aside(self.name(update), files)
        self.settle(ranking)

    def settle(self, ranking: list[str]) -> None:
        """Move the links and remove what is not kept any more, as after the newest checkpoint was written.

        Args:
            ranking: names of the validated checkpoints, best first.
        """
        numbered = self.numbered()
        self.link("last", numbered[-1].name)
        best = next((name for name in ranking if (self.folder / name / MODEL_FILE).is_file()), None)
        if best is not None:
            self.link("best", best)
        else:
            (self.folder / "best").unlink(missing_ok=True)
        kept = {p.name for p in numbered[-self.keep_last :]} | set(ranking[: self.keep_best])
        for path in numbered:
            if path.name not in kept:
                remove_folder(path)
            elif path not in numbered[-2:]:  # the one before the last serves should the last be damaged
                for name in (STATE_TENSORS, STATE_FACTS):
                    (path / name).unlink(missing_ok=True)

    def save_aside(self, name: str, files: CheckpointFiles) -> None:
        """Write a checkpoint that is no moment of the training, such as an average.

        Raises:
            TrainingError: it cannot be written.
        """
        try:
            files.write(self.folder / name, overwrite=True)
        except OSError as error:
            raise TrainingError(
                f"{self.folder / name}: cannot be written ({error.strerror or error}); what was saved before is whole, "
                "and the same command goes on from there"
            ) from error

    def set_aside(self, path: Path) -> Path:
        """Rename a damaged checkpoint, so that nothing takes it for one any more; its new place."""
        aside = path.with_name(f"damaged-{path.name}")
        if aside.exists():
            remove_folder(aside)
        path.rename(aside)
        sync(self.folder)
        return aside

    def link(self, name: str, target: str) -> None:
        """Make ``name`` point to a checkpoint, in one step."""
        temporary = scratch_name(self.folder / name)
        temporary.symlink_to(target)
        temporary.replace(self.folder / name)
        sync(self.folder)
