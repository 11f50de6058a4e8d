"""What an importer hands over, and writing it as a checkpoint."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from omegaconf import OmegaConf
from torch import Tensor

from nmt.interchange.pieces import Aligned
from nmt.registry import build, discover
from nmt.text.vocabulary import VocabularyPair
from nmt.training.checkpoint import describe, load_tensors, model_files, model_tensors, write_folder

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
    """

    file: Path
    node: dict[str, Any]
    tensors: dict[str, Tensor]
    vocabularies: VocabularyPair
    source_language: str
    target_language: str


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
    source: Aligned, target: Aligned, matrices: tuple[Tensor, Tensor, Tensor | None], bias: Tensor | None
) -> WordTensors:
    """Bring word matrices into the order of our vocabularies.

    Args:
        source: the source's; the same object as the target's where the vocabulary is joint.
        target: the target's.
        matrices: of source, target and output; None where the output is the target's.
        bias: of the output (rows of the output's matrix,), None where there is none.
    """
    source_words, target_words, output = matrices
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


def vocabulary_pair(source: Aligned, target: Aligned) -> VocabularyPair:
    """The vocabularies of both sides; joint where they are the same object."""
    if source is target:
        return VocabularyPair.shared(source.vocabulary)
    return VocabularyPair(source.vocabulary, target.vocabulary, joint=False)


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
    config = OmegaConf.create(
        {"task": {"name": "translation"}, "plugins": [], "model": model.node, "checkpoint": checkpoint}
    )
    built = build("task", config.task, key="task").build_model(config.model, model.vocabularies)
    load_tensors(built, model.tensors, model.file)
    write_folder(out, model_files(model_tensors(built), config, model.vocabularies))
