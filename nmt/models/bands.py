"""Words in bands by frequency, for the output (Grave et al. 2017, arXiv:1609.04309, section 4) and the embedding
(Baevski and Auli 2019, arXiv:1809.10853, section 3.1): frequent words at full width, rarer ones at less and less.

Ranks: a word's place in a vocabulary that is sorted by frequency. Band 0 holds the most frequent words.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from nmt.config import ConfigError
from nmt.models.from_data import FromData
from nmt.models.initialisation import init_embedding
from nmt.text.vocabulary import PAD, SPECIAL_IDS

NUM_SPECIAL = len(SPECIAL_IDS)


def default_cutoffs(vocab_size: int) -> list[int]:
    """A twelfth of the vocabulary (8 words at least) in band 0, a quarter in band 1, the rest in band 2.

    These are about the proportions of arXiv:1809.10853 (20,000, 40,000 and 208,000 words). A band that would be empty
    is left out: 24 words or fewer have two bands, 8 or fewer have one.
    """
    cutoffs: list[int] = []
    for cutoff in (max(8, vocab_size // 12), vocab_size // 3):
        if (cutoffs[-1] if cutoffs else NUM_SPECIAL) < cutoff < vocab_size:
            cutoffs.append(cutoff)
    return cutoffs


@dataclass(frozen=True)
class Bands:
    """Where the bands begin and how wide their vectors are.

    Attributes:
        bounds: ranks at which the bands begin, then the size of the vocabulary.
        widths: of the vectors of each band.
    """

    bounds: tuple[int, ...]
    widths: tuple[int, ...]

    @classmethod
    def make(cls, cutoffs: Sequence[int] | None, div_value: float, *, key: str, vocab_size: int, dim: int) -> Bands:
        """Bands of a vocabulary.

        Args:
            cutoffs: ranks at which the bands after the first begin; None = ``default_cutoffs``.
            div_value: each band's vectors are narrower than those of the band before by this factor, but 1 at least.
            key: full key of the component, for messages.
            vocab_size: number of words.
            dim: width of band 0.

        Raises:
            ConfigError: the cutoffs do not ascend, or lie outside of the vocabulary.
        """
        chosen = default_cutoffs(vocab_size) if cutoffs is None else list(cutoffs)
        bounds = [0, *chosen, vocab_size]
        ascending = all(start < end for start, end in pairwise(bounds))
        if not ascending or (chosen and chosen[0] < NUM_SPECIAL):
            raise ConfigError(
                f"{key}.cutoffs={chosen} do not fit a vocabulary of {vocab_size} words; valid options: null, or "
                f"ascending numbers from {NUM_SPECIAL} (special words stay in the first band) to {vocab_size - 1}"
            )
        widths, width = [dim], float(dim)
        for _ in chosen:
            width /= div_value
            widths.append(max(1, int(width)))
        return cls(tuple(bounds), tuple(widths))

    @property
    def sizes(self) -> list[int]:
        """Words of each band."""
        return [end - start for start, end in pairwise(self.bounds)]


class FrequencyOrder(FromData):
    """Ranks of the words of a vocabulary; special words come first, so that they are in band 0 of any bands.

    Words are ranked by id until counts or a checkpoint say otherwise.

    Attributes:
        ranks: int64 (vocab_size,), the rank of every id.
    """

    ranks: Tensor
    sides: set[str]

    def __init__(self, vocab_size: int) -> None:
        super().__init__()
        self.sides = set()
        self.register_buffer("ranks", torch.arange(vocab_size))

    def use(self, counts: Tensor) -> None:
        """Rank words by how often they occur, the most frequent first; of equals the lower id comes first."""
        special = torch.arange(NUM_SPECIAL)
        others = counts[NUM_SPECIAL:].argsort(descending=True, stable=True) + NUM_SPECIAL
        self.ranks.copy_(torch.cat([special, others]).argsort())

    def why_not(self, buffers: Mapping[str, Tensor]) -> str | None:
        """Ranks must name every word once, and begin with the special ones: they are used as places."""
        ranks = buffers["ranks"].long()
        expected = torch.arange(len(ranks), device=ranks.device)
        fits = ranks.sort().values.equal(expected) and ranks[:NUM_SPECIAL].equal(expected[:NUM_SPECIAL])
        return None if fits else f"ranks is not an order of the model's {len(ranks)} words"


class BandedVectors(nn.Module):
    """Vectors of all words: a table a band, and for all bands but the first a projection to the full width.

    Attributes:
        bands: the geometry.
        order: the words' ranks.
        tables: (words of the band, its width).
        projections: (width of the band, full width), of the bands after the first.
    """

    def __init__(self, bands: Bands) -> None:
        super().__init__()
        self.bands = bands
        self.embedding_dim = dim = bands.widths[0]
        self.order = FrequencyOrder(bands.bounds[-1])
        tables = [
            nn.Embedding(size, width, padding_idx=None if index else PAD)
            for index, (size, width) in enumerate(zip(bands.sizes, bands.widths))
        ]
        for table in tables:
            init_embedding(table)
        self.tables = nn.ParameterList([table.weight for table in tables])
        # With tables of variance 1 / width, words of all bands begin with the same variance, here and as an output.
        self.projections = nn.ParameterList(
            [nn.Parameter(torch.empty(width, dim).normal_(std=dim**-0.5)) for width in bands.widths[1:]]
        )

    def forward(self, tokens: Tensor) -> Tensor:
        """(...) int64 to (..., full width).

        Every band looks every token up: shapes do not depend on the words, nothing waits for the device, and the
        projections cost a small part of a layer.
        """
        ranks = self.order.ranks[tokens]
        bounds = self.bands.bounds
        x = F.embedding(ranks.clamp(max=bounds[1] - 1), self.tables[0], padding_idx=PAD)
        for start, end, table, projection in zip(bounds[1:-1], bounds[2:], self.tables[1:], self.projections):
            narrow = F.embedding((ranks - start).clamp(0, end - start - 1), table)
            x = torch.where((ranks >= start).unsqueeze(-1), narrow @ projection, x)
        return x
