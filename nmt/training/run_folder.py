"""The folder of a run: its configuration, its manifest and its checkpoints."""

from __future__ import annotations

import json
import logging
import os
import platform
import shutil
import subprocess
import sys
import time
from collections.abc import Mapping
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf

from nmt.config import ConfigError, DataError
from nmt.training.checkpoint import MODEL_FILE, write_folder

logger = logging.getLogger(__name__)

STATE_FILES = ("training.safetensors", "training.json")
EXTENDABLE = ("train.max_updates", "train.max_epochs", "train.patience")
"""Keys that may change when a run goes on: they say when to stop, not what is learned."""
IRRELEVANT = ("run", "device", "threads", "train.parallel")
ACCUMULATE, BATCHES = "train.accumulate", "processes x train.accumulate"
PACKAGES = ("nmt", "torch", "numpy", "sentencepiece", "sacrebleu", "hydra-core", "safetensors")


def write_text(path: Path, text: str) -> None:
    """Write a file under a temporary name, then rename it."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    temporary.write_text(text, encoding="utf-8")
    temporary.replace(path)


def flatten(config: Any, prefix: str = "") -> dict[str, Any]:
    """A nested mapping as dotted keys."""
    if not isinstance(config, Mapping) or not config:
        return {prefix: config}
    flat: dict[str, Any] = {}
    for key, value in config.items():
        flat.update(flatten(value, f"{prefix}.{key}" if prefix else str(key)))
    return flat


def adopt_config(folder: Path, config: DictConfig, *, extendable: bool, processes: int = 1) -> None:
    """Record the configuration of a new run, or check it against that of an existing one.

    ``train.accumulate`` may change with the number of processes, so that an update takes as many batches as before.

    Args:
        folder: the run.
        config: as composed.
        extendable: whether the end of training may move (no schedule depends on it).
        processes: how many train together now.

    Raises:
        ConfigError: the run exists with another configuration; lists the differences.
    """
    path = folder / "config.yaml"
    if folder.exists() and not folder.is_dir():
        raise ConfigError(f"run={folder} is not a folder; choose another run=")
    if path.exists():
        old, new = flatten(OmegaConf.to_container(OmegaConf.load(path))), flatten(OmegaConf.to_container(config))
        ignored = IRRELEVANT + (EXTENDABLE if extendable else ())
        before, now = _batches_of_an_update(folder, old, new, processes)
        if before == now:
            ignored += (ACCUMULATE,)
        elif not extendable:
            old[BATCHES], new[BATCHES] = before, now
        different = sorted(k for k in old.keys() | new.keys() if old.get(k) != new.get(k) and k not in ignored)
        if different:
            listed = "; ".join(f"{k}: {old.get(k)} there, {new.get(k)} now" for k in different)
            raise ConfigError(f"run={folder} exists with another configuration ({listed}); choose another run=")
        if before != now:
            logger.info("run=%s: an update takes %d batches from now on, not %d", folder, now, before)
    elif folder.exists() and any(folder.iterdir()):
        raise ConfigError(f"run={folder} exists, is not empty and is not a run (no config.yaml); choose another run=")
    try:
        folder.mkdir(parents=True, exist_ok=True)
        write_text(path, OmegaConf.to_yaml(config))
    except OSError as error:
        raise ConfigError(f"run={folder}: cannot be written ({error.strerror})") from error


def _batches_of_an_update(folder: Path, old: dict[str, Any], new: dict[str, Any], processes: int) -> tuple[int, int]:
    """How many an update took when the run was last started, and how many it takes now."""
    try:
        before = json.loads((folder / "manifest.json").read_text(encoding="utf-8"))[-1].get("processes", 1)
    except (OSError, ValueError, LookupError, AttributeError):
        before = processes  # nothing was trained yet, or the manifest will be found damaged when it is continued
    return before * old.get(ACCUMULATE, 1), processes * new.get(ACCUMULATE, 1)


def append_manifest(folder: Path, *, corpora: dict[str, str], **facts: Any) -> None:
    """Add an entry to ``manifest.json``: when, where and with what versions this run was started or continued.

    Args:
        folder: the run.
        corpora: content hash of each corpus.
        facts: whatever else describes the start.

    Raises:
        ConfigError: a corpus is not what it was when the run began.
        DataError: the manifest cannot be read.
    """
    path = folder / "manifest.json"
    try:
        entries = json.loads(path.read_text(encoding="utf-8")) if path.exists() else []
        before = entries[0]["corpora"] if entries else corpora
    except (ValueError, LookupError, TypeError) as error:
        raise DataError(f"{path}: not the manifest of a run ({error})") from error
    changed = [name for name, digest in corpora.items() if before.get(name, digest) != digest]
    if changed:
        raise ConfigError(f"run={folder}: corpus {changed[0]} has changed since the run began; choose another run=")
    entries.append(
        {
            "time": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
            "command": sys.orig_argv,  # as typed; sys.argv holds what Hydra is given
            "python": platform.python_version(),
            "platform": platform.platform(),
            "versions": {name: _version(name) for name in PACKAGES},
            "git": _git_revision(),
            "corpora": corpora,
            **facts,
        }
    )
    write_text(path, json.dumps(entries, indent=1))


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def _git_revision() -> str | None:
    """Revision of the source that runs, with ``-dirty`` where it was changed; None outside a repository."""
    command = ["git", "-C", str(Path(__file__).parent), "describe", "--always", "--dirty", "--abbrev=12"]
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True, timeout=10).stdout.strip()
    except (OSError, subprocess.SubprocessError):
        return None


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

    def clean(self) -> None:
        """Remove what a killed process left half-written."""
        for path in self.folder.glob(".*.tmp"):
            if path.is_dir() and not path.is_symlink():
                shutil.rmtree(path)
            else:
                path.unlink()

    def numbered(self) -> list[Path]:
        """All kept checkpoints, oldest first."""
        return sorted(p for p in self.folder.glob("update-*") if (p / MODEL_FILE).is_file())

    def last(self) -> Path | None:
        """The newest checkpoint that training can go on from."""
        complete = [p for p in self.numbered() if all((p / name).is_file() for name in STATE_FILES)]
        return complete[-1] if complete else None

    @staticmethod
    def name(update: int) -> str:
        """Folder of the checkpoint after an update."""
        return f"update-{update:08d}"

    def save(self, update: int, files: Mapping[str, Any], ranking: list[str]) -> None:
        """Write a checkpoint, move the links and remove what is not kept any more.

        Args:
            update: number of updates done.
            files: see ``write_folder``.
            ranking: names of the validated checkpoints, best first.
        """
        target = self.folder / self.name(update)
        write_folder(target, files)
        self.link("last", target.name)
        if ranking and (self.folder / ranking[0]).is_dir():
            self.link("best", ranking[0])
        numbered = self.numbered()
        kept = {p.name for p in numbered[-self.keep_last :]} | set(ranking[: self.keep_best])
        for path in numbered:
            if path.name not in kept:
                shutil.rmtree(path)
            elif path not in numbered[-2:]:  # the one before the last serves should the last be damaged
                for name in STATE_FILES:
                    (path / name).unlink(missing_ok=True)

    def save_aside(self, name: str, files: Mapping[str, Any]) -> None:
        """Write a checkpoint that is no moment of the training, such as an average."""
        write_folder(self.folder / name, files)

    def link(self, name: str, target: str) -> None:
        """Make ``name`` point to a checkpoint, in one step."""
        temporary = self.folder / f".{name}.{os.getpid()}.tmp"
        temporary.unlink(missing_ok=True)
        temporary.symlink_to(target)
        temporary.replace(self.folder / name)
