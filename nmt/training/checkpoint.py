"""Checkpoints: folders that need nothing else, written atomically and read without unpickling.

A checkpoint holds ``model.safetensors`` (tied matrices once), ``config.yaml`` and the sentencepiece model(s). In a run,
``checkpoints/last`` and ``checkpoints/best`` are links to numbered folders, so that replacing one is a single step.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import yaml
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from nmt.config import ConfigError, DataError
from nmt.models.encoder_decoder import EncoderDecoder
from nmt.registry import build, discover
from nmt.text.vocabulary import VocabularyPair

FORMAT = 1
MODEL_FILE = "model.safetensors"
CONFIG_FILE = "config.yaml"


@dataclass
class Loaded:
    """A model read from a checkpoint, in evaluation mode."""

    model: EncoderDecoder
    vocabularies: VocabularyPair
    config: DictConfig
    path: Path


def model_tensors(model: nn.Module) -> dict[str, Tensor]:
    """Parameters and persistent buffers by name; a tied parameter stands under its first name only."""
    persistent = model.state_dict().keys()
    tensors: dict[str, Tensor] = {name: p.data for name, p in model.named_parameters()}
    tensors.update({name: b for name, b in model.named_buffers() if name in persistent})
    return tensors


def write_folder(folder: Path, files: Mapping[str, Any]) -> None:
    """Write a folder under a temporary name, flush it to disk, then rename it: it appears whole or not at all.

    An existing folder is not taken away: its files are replaced one by one, so that it is never without one.

    Args:
        folder: where the files go.
        files: name to a writer, called with the path to write.
    """
    folder.parent.mkdir(parents=True, exist_ok=True)
    temporary = folder.with_name(f".{folder.name}.{os.getpid()}.tmp")
    shutil.rmtree(temporary, ignore_errors=True)
    temporary.mkdir()
    try:
        for name, write in files.items():
            write(temporary / name)
            (temporary / name).chmod(0o644)  # safetensors makes its files private
            with open(temporary / name, "rb") as handle:
                os.fsync(handle.fileno())
        if folder.is_dir():
            for name in files:
                (temporary / name).replace(folder / name)
        else:
            temporary.rename(folder)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def model_files(tensors: Mapping[str, Tensor], config: DictConfig, vocabularies: VocabularyPair) -> dict[str, Any]:
    """Writers of the files that make a checkpoint, of the values that the tensors have now.

    Args:
        tensors: see ``model_tensors``.
        config: the run's configuration, with the node ``checkpoint`` that ``describe`` makes.
        vocabularies: carried along.
    """
    # Copied now: files are written later, when the model may hold other weights than its moving average.
    stored = {name: t.detach().to("cpu", copy=True).contiguous() for name, t in tensors.items()}
    files: dict[str, Any] = {
        MODEL_FILE: lambda path: save_file(stored, path, metadata={"format": "pt"}),
        CONFIG_FILE: lambda path: path.write_text(OmegaConf.to_yaml(config), encoding="utf-8"),
    }
    for name, vocabulary in vocabularies.files.items():
        files[name] = vocabulary.save
    return files


def describe(vocabularies: VocabularyPair, source_language: str, target_language: str, **more: Any) -> dict[str, Any]:
    """The node ``checkpoint`` of a checkpoint's configuration."""
    return {
        "format": FORMAT,
        "source_language": source_language,
        "target_language": target_language,
        "vocabulary": vocabularies.digest,
        **more,
    }


def resolve_checkpoint(path: str | Path) -> Path:
    """The checkpoint folder that a path stands for: itself, or a run's best (its last where nothing was validated).

    Raises:
        ConfigError: the path does not exist, or holds no checkpoint.
    """
    path = Path(path)
    if not path.is_dir():
        raise ConfigError(f"checkpoint={path}: no such folder; give a run or a checkpoint folder")
    if (path / MODEL_FILE).is_file():
        return path
    for name in ("best", "last"):
        if (path / "checkpoints" / name / MODEL_FILE).is_file():
            return path / "checkpoints" / name
    raise ConfigError(
        f"checkpoint={path}: neither a checkpoint (no {MODEL_FILE}) nor a run with one (no checkpoints/best or /last)"
    )


def load_config(folder: Path) -> DictConfig:
    """The configuration of a checkpoint folder.

    Raises:
        DataError: missing, not YAML, or of another format version.
    """
    path = folder / CONFIG_FILE
    try:
        config = OmegaConf.load(path)
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror})") from error
    except (yaml.YAMLError, OmegaConfBaseException, UnicodeDecodeError) as error:
        raise DataError(f"{path}: not a configuration ({' '.join(str(error).split())})") from error
    node = OmegaConf.select(config, "checkpoint") if isinstance(config, DictConfig) else None
    if not isinstance(config, DictConfig) or not isinstance(node, DictConfig) or "format" not in node:
        raise DataError(f"{path}: not the configuration of a checkpoint (no key checkpoint.format)")
    if node.format != FORMAT:
        raise DataError(f"{path}: checkpoint format {node.format}; this version reads format {FORMAT}")
    missing = [key for key in ("task", "model", "checkpoint.vocabulary") if OmegaConf.select(config, key) is None]
    if missing:
        raise DataError(f"{path}: not the configuration of a checkpoint (no key {missing[0]})")
    return config


def read_tensors(path: Path, device: str | torch.device = "cpu") -> dict[str, Tensor]:
    """Tensors of a safetensors file.

    Raises:
        DataError: missing, truncated, or another kind of file.
    """
    try:
        return load_file(path, device=str(device))
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror or error})") from error
    except (SafetensorError, ValueError) as error:
        raise DataError(f"{path}: truncated or not a safetensors file ({error})") from error


def check_tensors(own: Mapping[str, Tensor], tensors: Mapping[str, Tensor], path: Path) -> None:
    """Compare names and shapes of tensors with those of a model.

    Raises:
        DataError: a tensor is missing, unknown or of another shape.
    """
    missing, unknown = sorted(own.keys() - tensors.keys()), sorted(tensors.keys() - own.keys())
    if missing or unknown:
        raise DataError(
            f"{path}: does not fit the model of its configuration: {len(missing)} tensors missing {missing[:2]}, "
            f"{len(unknown)} unknown {unknown[:2]}"
        )
    for name, tensor in own.items():
        if tensor.shape != tensors[name].shape:
            raise DataError(
                f"{path}: {name} has shape {tuple(tensors[name].shape)}, the model needs {tuple(tensor.shape)}"
            )


def load_tensors(model: nn.Module, tensors: Mapping[str, Tensor], path: Path) -> None:
    """Copy tensors into a model; names and shapes must be exactly the model's.

    Raises:
        DataError: a tensor is missing, unknown or of another shape.
    """
    own = model_tensors(model)
    check_tensors(own, tensors, path)
    for name, tensor in own.items():
        tensor.copy_(tensors[name])


def load_model(path: str | Path, device: str | torch.device = "cpu", plugins: Iterable[str] = ()) -> Loaded:
    """Read a model for use.

    Args:
        path: a run or a checkpoint folder.
        device: where the model goes.
        plugins: modules with components that the model needs.

    Raises:
        ConfigError: no checkpoint there, or it needs a plug-in that was not given.
        DataError: a file is missing, truncated or foreign.
    """
    discover(plugins)
    folder = resolve_checkpoint(path)
    config = load_config(folder)
    vocabularies = VocabularyPair.load(folder)
    if vocabularies.digest != config.checkpoint.vocabulary:
        raise DataError(f"{folder}: its sentencepiece model is not the one that the model was trained with")
    try:
        model = build("task", config.task, key="task").build_model(config.model, vocabularies)
    except ConfigError as error:
        needed = [p for p in config.get("plugins") or [] if p not in set(plugins)]
        hint = f"; it was trained with plug-ins: give plugins=[{','.join(needed)}]" if needed else ""
        raise ConfigError(f"{folder / CONFIG_FILE}: {error}{hint}") from error
    load_tensors(model, read_tensors(folder / MODEL_FILE), folder / MODEL_FILE)
    return Loaded(model.to(device).eval(), vocabularies, config, folder)
