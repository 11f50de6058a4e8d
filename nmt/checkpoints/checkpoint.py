"""Checkpoints: folders that need nothing else, written atomically and read without unpickling.

A checkpoint holds ``model.safetensors`` (tied matrices once), ``config.yaml``, the sub-word model(s), and
``SHA256SUMS`` with the digests of all of them. `CheckpointFiles` writes it, `Checkpoint` reads it. In a run,
``checkpoints/last`` and ``checkpoints/best`` are links to numbered folders, so that replacing one is a single step.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from omegaconf import DictConfig, OmegaConf
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor

from nmt.checkpoints.checksums import (
    REMEDY,
    SUMS_FILE,
    DamagedError,
    check_file,
    read_sums,
    write_sums,
)
from nmt.checkpoints.weights import read_into
from nmt.config import ConfigError, DataError
from nmt.files import write_folder
from nmt.models.encoder_decoder import SequenceModel
from nmt.models.from_data import check_from_data
from nmt.models.planned import Unfilled, sizes_only
from nmt.models.tensors import check_shapes, model_tensors
from nmt.registry import build, discover
from nmt.text.vocabulary import VocabularyPair
from nmt.untrusted import check_inside, file_size, read_yaml, shorten

FORMAT = 1
MODEL_FILE = "model.safetensors"
CONFIG_FILE = "config.yaml"
STATE_TENSORS, STATE_FACTS = "training.safetensors", "training.json"
"""The state of a training, which the newest checkpoints of a run have."""

KEYS = {
    **{"task": dict, "model": dict, "checkpoint.vocabulary": str},
    **{"checkpoint.source_language": str, "checkpoint.target_language": str},
}
"""What the configuration of a checkpoint must have."""

MAX_HEADER_BYTES = 1 << 25
"""Of a safetensors file; 100,000 tensors take 12 MiB."""

MAX_TABLES = 1 << 25
"""Numbers that a model may compute when it is built, such as sinusoids: 16,384 positions of 1,024 features a side."""


@dataclass
class Loaded:
    """A model read from a checkpoint, in evaluation mode."""

    model: SequenceModel
    vocabularies: VocabularyPair
    config: DictConfig
    path: Path


def save_tensors(tensors: Mapping[str, Tensor], path: Path) -> None:
    """Write a safetensors file.

    Raises:
        OSError: the disk is full, or the file cannot be written (safetensors has an exception of its own for it).
    """
    try:
        save_file(dict(tensors), path, metadata={"format": "pt"})
    except SafetensorError as error:
        found = re.search(r"\(os error (\d+)\)", str(error))
        if found is None:
            raise
        number = int(found[1])
        raise OSError(number, os.strerror(number), str(path)) from error


@dataclass(frozen=True)
class CheckpointFiles:
    """What a checkpoint is made of; the one way to write one.

    Attributes:
        writers: name of each file to a function that writes it, in order.
    """

    writers: Mapping[str, Callable[[Path], object]]

    def write(self, folder: Path, *, overwrite: bool = False) -> None:
        """Write the folder with the digests of its files.

        Args:
            folder: it appears whole or not at all.
            overwrite: replace what is there.

        Raises:
            OSError: the disk is full, or the folder cannot be written; what was there before is as it was.
        """
        write_folder(folder, {**self.writers, SUMS_FILE: write_sums}, overwrite=overwrite)


def model_files(
    tensors: Mapping[str, Tensor],
    config: DictConfig,
    vocabularies: VocabularyPair,
    more: Mapping[str, Callable[[Path], object]] | None = None,
) -> CheckpointFiles:
    """The files that make a checkpoint, of the values that the tensors have now.

    Args:
        tensors: see ``model_tensors``.
        config: the run's configuration, with the node ``checkpoint`` that ``describe`` makes.
        vocabularies: carried along.
        more: writers of further files, such as the state of a training.
    """
    # Copied now: files are written later, when the model may hold other weights than its moving average.
    stored = {name: t.detach().to("cpu", copy=True).contiguous() for name, t in tensors.items()}
    files: dict[str, Callable[[Path], object]] = {
        MODEL_FILE: lambda path: save_tensors(stored, path),
        CONFIG_FILE: lambda path: path.write_text(OmegaConf.to_yaml(config, resolve=True), encoding="utf-8"),
    }
    for name, vocabulary in vocabularies.files.items():
        files[name] = vocabulary.save
    return CheckpointFiles({**files, **(more or {})})


def describe(vocabularies: VocabularyPair, source_language: str, target_language: str, **more: Any) -> dict[str, Any]:
    """The node ``checkpoint`` of a checkpoint's configuration."""
    return {
        "format": FORMAT,
        "source_language": source_language,
        "target_language": target_language,
        "vocabulary": vocabularies.digest,
        **more,
    }


def resolve_checkpoint(path: str | Path, key: str = "checkpoint") -> Path:
    """The checkpoint folder that a path stands for: itself, or a run's best (its last where nothing was validated).

    Args:
        path: a run or a checkpoint folder.
        key: where the user gave it, for messages.

    Raises:
        ConfigError: the path does not exist, or holds no checkpoint.
        DataError: a link leads out of the run.
    """
    path = Path(path)
    if not path.is_dir():
        raise ConfigError(f"{key}={path}: no such folder; give a run or a checkpoint folder")
    if (path / MODEL_FILE).is_file():
        return path
    for name in ("best", "last"):
        if (path / "checkpoints" / name / MODEL_FILE).is_file():
            check_inside(path, path / "checkpoints" / name)
            return path / "checkpoints" / name
    raise ConfigError(
        f"{key}={path}: neither a checkpoint (no {MODEL_FILE}) nor a run with one (no checkpoints/best or /last)"
    )


class Checkpoint:
    """A checkpoint folder for reading: each of its files is compared with its digest before it is looked into.

    Args:
        folder: of the checkpoint itself.

    Raises:
        DataError: there are no digests.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._sums = read_sums(folder)
        self._whole: dict[str, str] = {}

    @classmethod
    def find(cls, path: str | Path, key: str = "checkpoint") -> Checkpoint:
        """The checkpoint that a path stands for; see `resolve_checkpoint`.

        Raises:
            ConfigError: the path does not exist, or holds no checkpoint.
            DataError: a link leads out of the run, or there are no digests.
        """
        return cls(resolve_checkpoint(path, key))

    def whole(self, name: str) -> Path:
        """The path of a file that is what was written.

        Raises:
            DamagedError: it is not.
        """
        if name not in self._whole:
            self._whole[name] = check_file(self.folder, name, self._sums)
        return self.folder / name

    @property
    def model_file(self) -> Path:
        """The weights.

        Raises:
            DamagedError: they are not what was written.
        """
        return self.whole(MODEL_FILE)

    def digest(self, name: str = MODEL_FILE) -> str:
        """The sha256 (hex) of a file, by default of the weights.

        Raises:
            DamagedError: it is not what was written.
        """
        self.whole(name)
        return self._whole[name]

    @cached_property
    def config(self) -> DictConfig:
        """The configuration.

        Raises:
            DataError: missing, changed, not YAML, more than plain values, or of another format version.
        """
        try:
            self.whole(CONFIG_FILE)
        except DamagedError as error:
            raise DamagedError(f"{error}; if you changed it, `{REMEDY}` in that folder takes it as it is") from error
        return _read_config(self.folder)

    @cached_property
    def vocabularies(self) -> VocabularyPair:
        """The vocabularies.

        Raises:
            DataError: a file is missing or damaged, or they are not those that the model was trained with.
        """
        others = self._sums.keys() - {MODEL_FILE, CONFIG_FILE, STATE_TENSORS, STATE_FACTS}
        for name in sorted(others):
            self.whole(name)
        pair = VocabularyPair.load(self.folder)
        for name in pair.files:
            self.whole(name)  # one that has no digest is refused
        if pair.digest != self.config.checkpoint.vocabulary:
            raise DataError(f"{self.folder}: its vocabulary is not the one that the model was trained with")
        return pair


def _read_config(folder: Path) -> DictConfig:
    """The configuration of a checkpoint folder; see `Checkpoint.config`."""
    path = folder / CONFIG_FILE
    config = read_yaml(path)
    plain = OmegaConf.to_container(config)
    found = _at(plain, "checkpoint.format")
    if found is None:
        raise DataError(f"{path}: not the configuration of a checkpoint (no key checkpoint.format)")
    if found != FORMAT:
        raise DataError(f"{path}: checkpoint format {shorten(found)}; this version reads format {FORMAT}")
    for key, kind in KEYS.items():
        value = _at(plain, key)
        if not isinstance(value, kind):
            state = "no key" if value is None else "not a fitting"
            raise DataError(f"{path}: not the configuration of a checkpoint ({state} {key})")
    plugins = _at(plain, "plugins")
    if plugins is not None and not (isinstance(plugins, list) and all(isinstance(p, str) for p in plugins)):
        raise DataError(f"{path}: plugins is not a list of names")
    return config


def _at(value: Any, key: str) -> Any:
    """What stands at a dotted key of plain values; None where there is nothing, or what stands for nothing."""
    for name in key.split("."):
        value = value.get(name) if isinstance(value, dict) else None
    return None if value == "???" else value


def tensor_shapes(path: Path) -> dict[str, tuple[int, ...]]:
    """Shapes of the tensors of a safetensors file; their values are not read.

    Raises:
        DataError: missing, truncated, or another kind of file.
    """
    size = file_size(path)
    try:
        with open(path, "rb") as file:
            header = int.from_bytes(file.read(8), "little")
        if size < 8 or header > min(size - 8, MAX_HEADER_BYTES):
            raise ValueError(f"a header of {header} bytes")
        with safe_open(path, framework="pt") as tensors:
            return {name: tuple(tensors.get_slice(name).get_shape()) for name in tensors.keys()}  # noqa: SIM118
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror or error})") from error
    except (SafetensorError, ValueError, OverflowError, RuntimeError) as error:
        raise DataError(f"{path}: truncated or not a safetensors file ({shorten(error)})") from error


def read_tensors(path: Path, device: str | torch.device = "cpu") -> dict[str, Tensor]:
    """Tensors of a safetensors file.

    Raises:
        DataError: missing, truncated, or another kind of file.
    """
    tensor_shapes(path)
    try:
        return load_file(path, device=str(device))
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror or error})") from error
    except (SafetensorError, ValueError, TypeError, KeyError, AttributeError, RuntimeError) as error:
        raise DataError(f"{path}: truncated or not a safetensors file ({shorten(error)})") from error


def build_to_fit(
    config: DictConfig, vocabularies: VocabularyPair, shapes: Mapping[str, tuple[int, ...]], path: Path
) -> SequenceModel:
    """Build the model of a configuration if it has the size that a file holds; memory is taken after that is known.

    Args:
        config: of a checkpoint.
        vocabularies: its.
        shapes: names and shapes of the tensors that will be loaded.
        path: where they lie, for messages.

    Raises:
        ConfigError: the configuration is wrong, or names what is not registered.
        DataError: the model has other tensors.
    """

    def make() -> SequenceModel:
        model: SequenceModel = build("task", config.task, key="task").build_model(config.model, vocabularies)
        return model

    try:
        with sizes_only(len(shapes)):
            planned = make()
    except ConfigError:
        raise
    except Exception as error:  # whatever a component does with numbers that nobody would choose
        raise DataError(f"{path}: does not fit the model of its configuration ({shorten(error)})") from error
    own = model_tensors(planned)
    check_shapes(own, shapes, path)
    tables = sum(buffer.numel() for name, buffer in planned.named_buffers() if name not in own)
    if tables > MAX_TABLES:
        raise DataError(f"{path}: its model has tables of {tables} numbers beside the file; {MAX_TABLES} at most")
    with Unfilled():
        return make()


def load_model(path: str | Path, device: str | torch.device = "cpu", plugins: Iterable[str] = ()) -> Loaded:
    """Read a model for use.

    Args:
        path: a run or a checkpoint folder.
        device: where the model goes.
        plugins: modules with components that the model needs.

    Raises:
        ConfigError: no checkpoint there, or it needs a plug-in that was not given.
        DataError: a file is missing, truncated, foreign or hostile.
    """
    discover(plugins)
    checkpoint = Checkpoint.find(path)
    config, vocabularies, file = checkpoint.config, checkpoint.vocabularies, checkpoint.model_file
    try:
        model = build_to_fit(config, vocabularies, tensor_shapes(file), file)
    except ConfigError as error:
        needed = [p for p in config.get("plugins") or [] if p not in set(plugins)]
        hint = f"; it was trained with plug-ins: give plugins=[{','.join(needed)}]" if needed else ""
        raise ConfigError(f"{checkpoint.folder / CONFIG_FILE}: {shorten(error, 1000)}{hint}") from error
    read_into(file, model_tensors(model))
    check_from_data(model, model_tensors(model), file)
    return Loaded(model.to(device).eval(), vocabularies, config, checkpoint.folder)
