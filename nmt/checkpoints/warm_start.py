"""Start a training from the weights of a checkpoint, also where its model differs in some components."""

from __future__ import annotations

import logging

from omegaconf import DictConfig
from torch import Tensor

from nmt.checkpoints.checkpoint import Checkpoint, read_tensors
from nmt.checkpoints.differences import model_differences
from nmt.config import ConfigError
from nmt.models.encoder_decoder import SequenceModel
from nmt.models.from_data import check_from_data
from nmt.models.interfaces import Part
from nmt.models.tensors import model_tensors
from nmt.text.vocabulary import VocabularyPair
from nmt.untrusted import shorten

logger = logging.getLogger(__name__)


def weights_digest(path: str) -> str:
    """The sha256 (hex) of the weights in a run or a checkpoint folder.

    Raises:
        ConfigError: no checkpoint there.
        DataError: it is damaged.
    """
    return Checkpoint.find(path, "init_from").digest()


def warm_start(model: SequenceModel, path: str, vocabularies: VocabularyPair, config: DictConfig) -> set[str]:
    """Give a new model the weights of a checkpoint, as far as they fit.

    A parameter of the same name and shape is taken as it is; components convert what they can of the others
    (``Part.adopt``). What was taken and what was not is logged, and so is every key in which the models differ: equal
    shapes do not mean that a model does the same with them.

    Args:
        model: changed in place.
        path: a run or a checkpoint folder.
        vocabularies: of the model.
        config: as a checkpoint of it would have it.

    Returns:
        The names of the tensors that now have values of the checkpoint.

    Raises:
        ConfigError: no checkpoint there, its vocabulary is another one, or nothing fits.
        DataError: the checkpoint is damaged.
    """
    checkpoint = Checkpoint.find(path, "init_from")
    if checkpoint.config.checkpoint.vocabulary != vocabularies.digest:
        raise ConfigError(f"init_from={path}: was trained with another vocabulary than that of the corpus")
    found = read_tensors(checkpoint.model_file)
    own = model_tensors(model)
    taken = {name for name, tensor in own.items() if name in found and _fits(tensor, found[name])}
    for name in taken:
        own[name].copy_(found[name])
    converted, used = _convert(model, {name: own[name] for name in own.keys() - taken}, found)
    if not (taken or converted):
        raise ConfigError(f"init_from={path}: no tensor of it fits the model; leave init_from out, or choose another")
    logger.info(
        "weights from %s: %d tensors taken, %d converted, %d left new%s; %d of the checkpoint left over%s",
        checkpoint.folder,
        len(taken),
        len(converted),
        *_named(own.keys() - taken - converted),
        *_named(found.keys() - taken - used),
    )
    if differences := model_differences(checkpoint.config, config):
        logger.warning(
            "init_from=%s: its model is another one, and what fits was taken as it is (%s)",
            path,
            shorten(differences, 1000),
        )
    check_from_data(model, own, checkpoint.model_file)
    return taken | converted


def _fits(own: Tensor, found: Tensor) -> bool:
    return own.shape == found.shape and own.is_floating_point() == found.is_floating_point()


def _convert(model: SequenceModel, missing: dict[str, Tensor], found: dict[str, Tensor]) -> tuple[set[str], set[str]]:
    """Fill tensors from what stood in the same places.

    Returns:
        The names of those filled, and the names of what stood in these places.
    """
    converted: set[str] = set()
    used: set[str] = set()
    for place, part in model.named_modules():
        prefix = f"{place}."
        if not isinstance(part, Part) or not any(name.startswith(prefix) for name in missing):
            continue
        there = {name.removeprefix(prefix): tensor for name, tensor in found.items() if name.startswith(prefix)}
        for name, value in part.adopt(there).items():
            target = missing.get(prefix + name)
            if target is not None and _fits(target, value):
                target.copy_(value)
                converted.add(prefix + name)
                used.update(prefix + name for name in there)
    return converted, used


def _named(names: set[str]) -> tuple[int, str]:
    """How many, and the first of them."""
    listed = sorted(names)
    return len(listed), f" ({', '.join(listed[:3])}{', ...' if len(listed) > 3 else ''})" if listed else ""
