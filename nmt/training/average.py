"""Averaging of checkpoints (Junczys-Dowmunt et al. 2016, arXiv:1605.04809, section 3; Vaswani et al. 2017)."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
from omegaconf import OmegaConf
from torch import Tensor

from nmt.config import ConfigError, DataError
from nmt.files import write_folder
from nmt.text.vocabulary import VocabularyPair
from nmt.training.checkpoint import (
    MODEL_FILE,
    load_config,
    model_files,
    read_tensors,
    resolve_checkpoint,
)
from nmt.training.run_folder import CheckpointStore


def average_tensors(folders: Sequence[Path]) -> dict[str, Tensor]:
    """Mean of every tensor of some checkpoints of one model, summed in float64; whole numbers come from the last.

    Raises:
        DataError: the checkpoints are of different models.
    """
    assert folders, "nothing to average"
    totals: dict[str, Tensor] = {}
    for folder in folders:
        path = folder / MODEL_FILE
        tensors = read_tensors(path)
        if totals and ({k: v.shape for k, v in totals.items()} != {k: v.shape for k, v in tensors.items()}):
            raise DataError(f"{path}: another model than {folders[0] / MODEL_FILE}: their tensors differ")
        for name, tensor in tensors.items():
            if name not in totals:
                totals[name] = tensor.double() if tensor.is_floating_point() else tensor
            elif tensor.is_floating_point():
                totals[name] += tensor.double()
            else:
                totals[name] = tensor
    dtypes = {name: tensor.dtype for name, tensor in read_tensors(folders[-1] / MODEL_FILE).items()}
    return {
        name: (total / len(folders)).to(dtypes[name]) if total.dtype == torch.float64 else total
        for name, total in totals.items()
    }


def average_checkpoints(paths: Sequence[str], last: int | None, out: str) -> list[Path]:
    """Write the average of several checkpoints as a checkpoint of its own.

    Args:
        paths: checkpoint folders; or one run, of which the newest ``last`` checkpoints are taken.
        last: how many of a run.
        out: folder to write; must not exist.

    Returns:
        The checkpoints that were averaged.

    Raises:
        ConfigError: nothing to average, or ``out`` exists.
        DataError: the checkpoints do not fit together.
    """
    target = Path(out)
    if target.exists():
        raise ConfigError(f"out={out} exists; choose another folder")
    if not paths:
        raise ConfigError("checkpoint=[]: give a run or a list of checkpoint folders")
    folders = [resolve_checkpoint(path) for path in paths]
    if len(paths) == 1:
        store = CheckpointStore(Path(paths[0]) / "checkpoints", keep_last=1, keep_best=1)
        numbered = store.numbered()
        if not numbered:
            raise ConfigError(f"checkpoint={paths[0]} is not a run; give a run or a list of checkpoint folders")
        wanted = len(numbered) if last is None else last
        if len(numbered) < wanted:
            raise ConfigError(
                f"last={last}: {paths[0]} has {len(numbered)} numbered checkpoints "
                "(checkpoints.keep_last says how many a run keeps)"
            )
        folders = numbered[-wanted:]
    elif last is not None:
        raise ConfigError("last= is for a single run; with a list of checkpoints all are averaged")
    config = load_config(folders[-1])
    vocabularies = VocabularyPair.load(folders[-1])
    for folder in folders:
        if load_config(folder).checkpoint.vocabulary != vocabularies.digest:
            raise DataError(f"{folder}: was made with another vocabulary than {folders[-1]}")
    OmegaConf.update(config, "checkpoint.average_of", [folder.name for folder in folders], force_add=True)
    tensors = average_tensors(folders)
    try:
        write_folder(target.absolute(), model_files(tensors, config, vocabularies))
    except OSError as error:
        raise ConfigError(f"out={out}: cannot be written ({error.strerror})") from error
    return folders
