"""Learned word vectors with position information (Vaswani et al. 2017, arXiv:1706.03762, sections 3.4 and 3.5).

Sharing the target's input and output matrices: Press and Wolf 2017, arXiv:1608.05859.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from enum import Enum
from typing import Any, cast

import torch
from torch import Tensor, nn

from nmt.config import ConfigError, option
from nmt.limits import MAX_LENGTH
from nmt.models.bands import BandedVectors
from nmt.models.dropout import Dropout
from nmt.models.initialisation import init_embedding
from nmt.models.interfaces import Embedding, VocabularySizes
from nmt.registry import register
from nmt.text.vocabulary import PAD


class Share(Enum):
    """Which matrices are one."""

    none = "none"
    decoder = "decoder"
    all = "all"


class Positions(Enum):
    """How a position is represented."""

    sinusoidal = "sinusoidal"
    learned = "learned"
    none = "none"


@dataclass
class LearnedEmbeddingOptions:
    """Options of ``learned`` (embedding)."""

    share: Share = option(
        Share.all, "one matrix for: all (source, target, output; joint vocabulary), decoder (target, output), none"
    )
    positions: Positions = option(Positions.sinusoidal, "sinusoidal, learned or none")
    max_positions: int = option(1024, "longest sequence, end of sentence included", minimum=1, maximum=MAX_LENGTH)
    scale: bool = option(True, "multiply word vectors by sqrt(embed_dim)")


def sinusoids(length: int, dim: int) -> Tensor:
    """Sine and cosine of geometrically spaced frequencies (arXiv:1706.03762, section 3.5), float32 (length, dim)."""
    if torch.get_default_device().type == "meta":
        return torch.empty(length, dim)  # only the size is asked for
    position = torch.arange(length, dtype=torch.float64)[:, None]
    frequency = torch.exp(torch.arange(0, dim, 2, dtype=torch.float64) * (-math.log(10000.0) / dim))
    table = torch.zeros(length, dim, dtype=torch.float64)
    table[:, 0::2] = torch.sin(position * frequency)
    table[:, 1::2] = torch.cos(position * frequency)[:, : dim // 2]
    return table.float()


class _Side(nn.Module):
    """Words and positions of one side."""

    def __init__(self, words: nn.Embedding | BandedVectors, options: LearnedEmbeddingOptions, dropout: float) -> None:
        super().__init__()
        dim = words.embedding_dim
        self.words = words
        self.scale = math.sqrt(dim) if options.scale else 1.0
        self.dropout = Dropout(dropout)
        self.positions: nn.Parameter | None = None
        self.table: Tensor | None
        if options.positions is Positions.learned:
            self.positions = nn.Parameter(torch.empty(options.max_positions, dim).normal_(std=dim**-0.5))
        table = sinusoids(options.max_positions, dim) if options.positions is Positions.sinusoidal else None
        self.register_buffer("table", table, persistent=False)

    def forward(self, tokens: Tensor, start: int = 0) -> Tensor:
        x = self.words(tokens) * self.scale
        table = self.table if self.positions is None else self.positions
        if table is not None:
            x = x + table[start : start + tokens.size(1)]
        return self.dropout(x)


@register("embedding", "learned", options=LearnedEmbeddingOptions, paper="Vaswani et al. 2017, arXiv:1706.03762")
class LearnedEmbedding(Embedding):
    """A vector per word, scaled, plus its position; matrices may be shared."""

    def __init__(self, options: LearnedEmbeddingOptions, *, sizes: VocabularySizes) -> None:
        super().__init__()
        self.max_positions = options.max_positions
        target_words = self.make_words(options, sizes.target, sizes.decoder_dim)
        if options.share is Share.all:
            if not sizes.joint:
                raise ConfigError(
                    "model.embedding.share=all needs a joint vocabulary, but this corpus has one per language; "
                    "valid options: decoder, none (or prepare the corpus with joint=true)"
                )
            if sizes.encoder_dim != sizes.decoder_dim:
                raise ConfigError(
                    "model.embedding.share=all needs equal widths, but "
                    f"model.encoder.embed_dim={sizes.encoder_dim} and model.decoder.embed_dim={sizes.decoder_dim}; "
                    "valid options: decoder, none"
                )
            source_words = target_words
        elif sizes.source:
            source_words = self.make_words(options, sizes.source, sizes.encoder_dim)
        if sizes.source:
            self.source = _Side(source_words, options, sizes.dropout)
        self.target = _Side(target_words, options, sizes.dropout)
        self.tied_output = options.share is not Share.none

    def make_words(self, options: Any, vocab_size: int, dim: int) -> Any:
        """Vectors of the words of a side, or of both: a module from ids (...) to (..., dim), with ``embedding_dim``."""
        words = nn.Embedding(vocab_size, dim, padding_idx=PAD)
        init_embedding(words)
        return words

    def embed_source(self, tokens: Tensor) -> Tensor:
        return self.source(tokens)

    def embed_target(self, tokens: Tensor, start: int = 0) -> Tensor:
        return self.target(tokens, start)

    def output_weight(self) -> nn.Parameter | None:
        return cast(nn.Parameter, self.target.words.weight) if self.tied_output else None
