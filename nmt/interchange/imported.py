"""What an importer hands over, and writing it as a checkpoint."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from omegaconf import OmegaConf
from torch import Tensor

from nmt.checkpoints.checkpoint import build_to_fit, describe, model_files
from nmt.config import ConfigError, DataError, parse_options
from nmt.generation.options import SearchOptions
from nmt.interchange.pieces import Aligned
from nmt.interchange.stream import reorder_stream, turns_from_halves
from nmt.models.tensors import load_tensors, model_tensors
from nmt.registry import discover
from nmt.text.vocabulary import VocabularyPair
from nmt.untrusted import shorten

NEVER = -1e9
"""Output bias of words that the foreign model cannot produce: their probability is zero."""


@dataclass(frozen=True)
class Imported:
    """A foreign model in our terms.

    Attributes:
        file: where its weights come from, for messages.
        node: the node ``model`` of its configuration.
        tensors: under the names of our checkpoints.
        vocabularies: of both sides.
        source_language: its code.
        target_language: its code.
        halves: its sinusoidal positions list all sines, then all cosines; ours take turns.
        search: how its toolkit searches by default: keys of ``SearchOptions``.
    """

    file: Path
    node: dict[str, Any]
    tensors: dict[str, Tensor]
    vocabularies: VocabularyPair
    source_language: str
    target_language: str
    halves: bool = False
    search: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class WordTensors:
    """Word matrices with their rows in our order.

    Attributes:
        share: which are one: ``all``, ``decoder`` or ``none``.
        tensors: under the names of our checkpoints.
        output_bias: whether there is one.
    """

    share: str
    tensors: dict[str, Tensor]
    output_bias: bool


def order_words(
    source: Aligned, target: Aligned, matrices: tuple[Tensor, Tensor, Tensor | None], bias: Tensor | None, file: str
) -> WordTensors:
    """Bring word matrices into the order of our vocabularies.

    Args:
        source: the source's; the same object as the target's where the vocabulary is joint.
        target: the target's.
        matrices: of source, target and output; None where the output is the target's.
        bias: of the output (rows of the output's matrix,), None where there is none.
        file: for messages.

    Raises:
        DataError: matrix and bias of the output are not of the target's shape.
    """
    source_words, target_words, output = matrices
    if output is not None and output.shape != target_words.shape:
        raise DataError(f"{file}: the output's matrix has another shape than the words of the target")
    if bias is not None and len(bias) != len(target_words):
        raise DataError(f"{file}: the output's bias has another length than the words of the target")
    tied_inputs = source is target and source_words is target_words
    share = "none" if output is not None else "all" if tied_inputs else "decoder"
    tensors = {"embedding.source.words.weight": source_words[source.rows]}
    if share != "all":
        tensors["embedding.target.words.weight"] = target_words[target.rows]
    if output is not None:
        tensors["output.projection.weight"] = output[target.rows]
    output_bias = bool(target.never.any()) or (bias is not None and bool(bias.any()))
    if output_bias:
        ordered = torch.zeros(len(target.rows)) if bias is None else bias[target.rows]
        tensors["output.projection.bias"] = ordered.masked_fill(target.never, NEVER)
    return WordTensors(share, tensors, output_bias)


def check_tensors(tensors: Mapping[str, Tensor], file: str) -> None:
    """Refuse tensors that are no weights: neither vectors nor matrices, or with values that are not finite.

    Raises:
        DataError: there is one.
    """
    for name, tensor in tensors.items():
        if tensor.dim() not in (1, 2):
            raise DataError(
                f"{file}: {shorten(name)} has {tensor.dim()} dimensions; a Transformer has vectors and matrices"
            )
        if not tensor.isfinite().all():
            raise DataError(f"{file}: {shorten(name)} holds values that are not finite (nan or infinity)")


def vocabulary_pair(source: Aligned, target: Aligned) -> VocabularyPair:
    """The vocabularies of both sides; joint where they are the same object."""
    if source is target:
        return VocabularyPair.shared(source.vocabulary)
    return VocabularyPair(source.vocabulary, target.vocabulary, joint=False)


def _search_node(model: Imported) -> dict[str, Any]:
    """The node ``search`` of its configuration: what differs from our own defaults."""
    try:
        parse_options(SearchOptions, model.search, key="search")
    except ConfigError as error:
        raise DataError(f"{model.file}: its search cannot be carried: {error}") from error
    usual = SearchOptions()
    search = {key: value for key, value in model.search.items() if value != getattr(usual, key)}
    return {"search": search} if search else {}


def write_imported(model: Imported, out: Path, origin: str) -> None:
    """Write a foreign model as a checkpoint of ours.

    Args:
        model: what was read.
        out: absolute path of the folder.
        origin: the format that it comes from, kept in the configuration.

    Raises:
        DataError: a tensor is missing, or has another shape than its configuration says.
    """
    discover()
    checkpoint = describe(model.vocabularies, model.source_language, model.target_language, imported_from=origin)
    node = {"task": {"name": "translation"}, "plugins": [], "model": model.node, "checkpoint": checkpoint}
    config = OmegaConf.create({**node, **_search_node(model)})
    shapes = {name: tuple(tensor.shape) for name, tensor in model.tensors.items()}
    built = build_to_fit(config, model.vocabularies, shapes, model.file)
    load_tensors(built, model.tensors, model.file)
    tensors = model_tensors(built)
    if model.halves:
        tensors = reorder_stream(tensors, turns_from_halves(model.node["encoder"]["embed_dim"]))
    model_files(tensors, config, model.vocabularies).write(out)
