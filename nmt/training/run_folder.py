"""The folder of a run: its configuration, its manifest and its checkpoints."""

from __future__ import annotations

import json
import logging
import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf

from nmt.config import ConfigError, DataError
from nmt.provenance import provenance
from nmt.training.checkpoint import MODEL_FILE, write_folder
from nmt.untrusted import read_json, read_yaml, shorten, typed

logger = logging.getLogger(__name__)

STATE_FILES = ("training.safetensors", "training.json")
EXTENDABLE = ("train.max_updates", "train.max_epochs", "train.patience")
"""Keys that may change when a run goes on: they say when to stop, not what is learned."""
IRRELEVANT = ("run", "device", "threads")


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


def adopt_config(folder: Path, config: DictConfig, *, extendable: bool) -> None:
    """Record the configuration of a new run, or check it against that of an existing one.

    Args:
        folder: the run.
        config: as composed.
        extendable: whether the end of training may move (no schedule depends on it).

    Raises:
        ConfigError: the run exists with another configuration; lists the differences.
    """
    path = folder / "config.yaml"
    if folder.exists() and not folder.is_dir():
        raise ConfigError(f"run={folder} is not a folder; choose another run=")
    if path.exists():
        old, new = (
            flatten(OmegaConf.to_container(read_yaml(path))),
            flatten(OmegaConf.to_container(config, resolve=True)),
        )
        ignored = IRRELEVANT + (EXTENDABLE if extendable else ())
        different = sorted(k for k in old.keys() | new.keys() if old.get(k) != new.get(k) and k not in ignored)
        if different:
            listed = "; ".join(f"{k}: {old.get(k)} there, {new.get(k)} now" for k in different)
            raise ConfigError(f"run={folder} exists with another configuration ({listed}); choose another run=")
    elif folder.exists() and any(folder.iterdir()):
        raise ConfigError(f"run={folder} exists, is not empty and is not a run (no config.yaml); choose another run=")
    try:
        folder.mkdir(parents=True, exist_ok=True)
        write_text(path, OmegaConf.to_yaml(config, resolve=True))
    except OSError as error:
        raise ConfigError(f"run={folder}: cannot be written ({error.strerror})") from error


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
        entries = typed(list[dict[str, Any]], read_json(path)) if path.exists() else []
        before = typed(dict[str, str], entries[0]["corpora"], "corpora") if entries else corpora
    except (DataError, KeyError, TypeError) as error:
        raise DataError(f"{path}: not the manifest of a run ({shorten(error)})") from error
    changed = [name for name, digest in corpora.items() if before.get(name, digest) != digest]
    if changed:
        raise ConfigError(f"run={folder}: corpus {changed[0]} has changed since the run began; choose another run=")
    entries.append(
        {
            **provenance(),
            "corpora": corpora,
            **facts,
        }
    )
    write_text(path, json.dumps(entries, indent=1))


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
