"""The folder of a run: whose configuration it is."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf

from nmt.checkpoints.differences import differing, flat, listed
from nmt.config import ConfigError, DataError
from nmt.files import write_text
from nmt.leftovers import is_leftover
from nmt.training.run.lock import LOCK_FILE
from nmt.training.run.manifest import read_entries
from nmt.untrusted import check_inside, read_yaml, typed

logger = logging.getLogger(__name__)

EXTENDABLE = ("train.max_updates", "train.max_epochs", "train.patience")
"""Keys that may change when a run goes on: they say when to stop, not what is learned."""
IRRELEVANT = ("run", "device", "threads", "train.parallel", "batch.workers", "verify")
"""Keys that say where and by how many processes the same is computed, and whether its data is looked at first."""
PLACES, INIT_FROM = ("corpus", "plugins"), "init_from"
"""Keys that say where something lies. What it is, is compared by content (``manifest.py``); components have names."""
ACCUMULATE, BATCHES = "train.accumulate", "processes x train.accumulate"


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
        old, new = flat(read_yaml(path)), flat(config)
        ignored = IRRELEVANT + PLACES + (EXTENDABLE if extendable else ())
        if None not in (old.get(INIT_FROM), new.get(INIT_FROM)):
            ignored += (INIT_FROM,)
        before, now = _batches_of_an_update(folder, old, new, processes)
        if before == now:
            ignored += (ACCUMULATE,)
        elif not extendable:
            old[BATCHES], new[BATCHES] = before, now
        different = [key for key in differing(old, new) if key not in ignored]
        if different:
            shown = listed(different, old, new, "now")
            raise ConfigError(f"run={folder} exists with another configuration ({shown}); choose another run=")
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
        before, now = _batches_of_an_update(folder, flat(read_yaml(path)), flat(config), processes)
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
