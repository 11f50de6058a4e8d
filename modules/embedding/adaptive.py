"""Adaptive input embeddings (Baevski and Auli 2019, arXiv:1809.10853): rare words have narrower vectors."""

from __future__ import annotations

from dataclasses import dataclass
from typing import cast

from torch import nn

from nmt.config import ConfigError, option
from nmt.limits import MAX_VOCABULARY, MAX_WIDTH
from nmt.models.bands import BandedVectors, Bands
from nmt.models.interfaces import VocabularySizes
from nmt.registry import register

from .learned import LearnedEmbedding, LearnedEmbeddingOptions, Share


@dataclass
class AdaptiveEmbeddingOptions(LearnedEmbeddingOptions):
    """Options of ``adaptive`` (embedding): those of ``learned``, and the bands."""

    share: Share = option(
        Share.none,
        "the same vectors for: all (source, target, output; joint vocabulary), decoder (target, output), none; "
        "all and decoder need model.output.name=adaptive with the same bands",
    )
    cutoffs: list[int] | None = option(
        None,
        "frequency ranks at which the bands after the first begin, ascending; [] = one band; "
        "null = a twelfth (8 at least) and a third of the vocabulary",
        minimum=1,
        maximum=MAX_VOCABULARY,
    )
    div_value: float = option(
        4.0, "a band is narrower than the one before it by this factor", minimum=1, maximum=MAX_WIDTH
    )


@register("embedding", "adaptive", options=AdaptiveEmbeddingOptions, paper="Baevski and Auli 2019, arXiv:1809.10853")
class AdaptiveEmbedding(LearnedEmbedding):
    """Vectors in bands by frequency, rarer words narrower; an adaptive output may share them.

    A word of rank r in band i has the vector E_i[r - c_{i-1}] P_i, with E_i of d / q^i columns; band 0 has no P.
    """

    def __init__(self, options: AdaptiveEmbeddingOptions, *, sizes: VocabularySizes) -> None:
        super().__init__(options, sizes=sizes)
        for name in ("source", "target") if sizes.source else ("target",):
            cast(BandedVectors, getattr(self, name).words).order.sides.add(name)  # of one for both all tokens count

    def make_words(self, options: AdaptiveEmbeddingOptions, vocab_size: int, dim: int) -> BandedVectors:
        cutoffs, div_value = options.cutoffs, options.div_value
        return BandedVectors(Bands.make(cutoffs, div_value, key="model.embedding", vocab_size=vocab_size, dim=dim))

    def output_weight(self) -> nn.Parameter | None:
        if self.tied_output:
            raise ConfigError(
                "model.embedding.name=adaptive shares its vectors with model.output.name=adaptive only; "
                "valid options: that output, or model.embedding.share=none"
            )
        return None

    def output_bands(self) -> BandedVectors | None:
        return cast(BandedVectors, self.target.words) if self.tied_output else None
