"""Checkpoints of random models over the golden vocabulary, and what to ask of both sides of an exchange."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TypeAlias

import pytest
import torch
from omegaconf import OmegaConf

from nmt.checkpoints.checkpoint import Checkpoint, model_files
from nmt.models.encoder_decoder import build_model
from nmt.models.tensors import model_tensors
from nmt.text.subword import VocabularyTraining, train_vocabulary
from nmt.text.vocabulary import BOS, EOS, PAD, VocabularyPair

GOLDEN = Path(__file__).parents[2] / "golden"

WriteCheckpoint: TypeAlias = Callable[..., Path]


def lines(name: str, count: int) -> list[str]:
    return (GOLDEN / name).read_text(encoding="utf-8").splitlines()[:count]


@pytest.fixture(scope="session")
def sources() -> list[str]:
    """Sentences of different lengths."""
    return lines("valid.en", 10)


@pytest.fixture(scope="session")
def references() -> list[str]:
    """Their translations."""
    return lines("valid.eo", 10)


@pytest.fixture(scope="session")
def texts() -> tuple[list[str], list[str]]:
    """Text to train sub-words on: both languages."""
    return lines("train.en", 300), lines("train.eo", 300)


@pytest.fixture(scope="session")
def two_vocabularies(texts: tuple[list[str], list[str]]) -> VocabularyPair:
    """A vocabulary a language, of different sizes."""
    source, target = (train_vocabulary(t, VocabularyTraining(size)) for t, size in zip(texts, (29, 31)))
    return VocabularyPair(source, target, joint=False)


@pytest.fixture(scope="session")
def golden() -> Path:
    """A trained checkpoint, pre-norm, 2+2 layers."""
    return GOLDEN / "checkpoint"


@pytest.fixture
def write_checkpoint(tmp_path: Path, golden: Path) -> WriteCheckpoint:
    """``write_checkpoint(*overrides, vocabularies=, ends=, seed=)``: a random model; overrides below ``model``.

    Norms and biases are drawn, too, so that none can be left out unnoticed. With ``ends`` (output.bias=true) words
    differ in probability, sentences end, and padding and begin of sentence, which only our search forbids, are
    improbable: beams can be compared.
    """

    def write(*overrides: str, vocabularies: VocabularyPair | None = None, ends: float = 0.0, seed: int = 3) -> Path:
        config = Checkpoint(golden).config
        pair = vocabularies or VocabularyPair.load(golden)
        for override in overrides:
            key, value = override.split("=")
            OmegaConf.update(config.model, key, OmegaConf.create(f"value: {value}").value, merge=False, force_add=True)
        config.checkpoint.vocabulary = pair.digest
        torch.manual_seed(seed)
        model = build_model(config.model, source_size=len(pair.source), target_size=len(pair.target), joint=pair.joint)
        for parameter in model.parameters():
            if parameter.dim() == 1:
                parameter.data.add_(torch.randn_like(parameter), alpha=0.2)
        if ends:
            model.output.projection.weight.data.mul_(2)
            model.output.projection.bias.data[EOS] += ends
            model.output.projection.bias.data[[PAD, BOS]] = -1e4
        folder = tmp_path / "checkpoint"
        model_files(model_tensors(model), config, pair).write(folder, overwrite=True)
        return folder

    return write
