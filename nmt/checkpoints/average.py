"""Averaging of checkpoints (Junczys-Dowmunt et al. 2016, arXiv:1605.04809, section 3; Vaswani et al. 2017)."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
from omegaconf import OmegaConf
from torch import Tensor

from nmt.checkpoints.checkpoint import Checkpoint, model_files, read_tensors
from nmt.checkpoints.differences import model_differences
from nmt.checkpoints.store import CheckpointStore
from nmt.config import ConfigError, DataError
from nmt.registry import discover
from nmt.untrusted import shorten


def average_tensors(checkpoints: Sequence[Checkpoint]) -> dict[str, Tensor]:
    """Mean of every tensor of some checkpoints of one model, summed in float64.

    Whole numbers have no mean: a single one, a count, comes from the last; several, such as ranks, must be equal.

    Raises:
        DataError: the checkpoints are damaged or of different models.
    """
    assert checkpoints, "nothing to average"
    totals: dict[str, Tensor] = {}
    for checkpoint in checkpoints:
        path = checkpoint.model_file
        tensors = read_tensors(path)
        if totals and ({k: v.shape for k, v in totals.items()} != {k: v.shape for k, v in tensors.items()}):
            raise DataError(f"{path}: another model than {checkpoints[0].model_file}: their tensors differ")
        for name, tensor in tensors.items():
            if name not in totals:
                totals[name] = tensor.double() if tensor.is_floating_point() else tensor
            elif tensor.is_floating_point():
                totals[name] += tensor.double()
            elif tensor.numel() > 1 and not tensor.equal(totals[name]):
                raise DataError(f"{path}: {name} differs from {checkpoints[0].model_file}: there is no mean of it")
            else:
                totals[name] = tensor
    dtypes = {name: tensor.dtype for name, tensor in read_tensors(checkpoints[-1].model_file).items()}
    return {
        name: (total / len(checkpoints)).to(dtypes[name]) if total.dtype == torch.float64 else total
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
    sources = [Checkpoint.find(path) for path in paths]
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
        sources = [Checkpoint(folder) for folder in numbered[-wanted:]]
    elif last is not None:
        raise ConfigError("last= is for a single run; with a list of checkpoints all are averaged")
    newest = sources[-1]
    discover()
    config, vocabularies = newest.config, newest.vocabularies
    for source in sources:
        if source.config.checkpoint.vocabulary != vocabularies.digest:
            raise DataError(f"{source.folder}: was made with another vocabulary than {newest.folder}")
        if found := model_differences(newest.config, source.config):
            raise DataError(f"{source.folder}: another model than that of {newest.folder} ({shorten(found, 1000)})")
    OmegaConf.update(config, "checkpoint.average_of", [source.folder.name for source in sources], force_add=True)
    tensors = average_tensors(sources)
    try:
        model_files(tensors, config, vocabularies).write(target.absolute())
    except OSError as error:
        raise ConfigError(f"out={out}: cannot be written ({error.strerror})") from error
    return [source.folder for source in sources]
