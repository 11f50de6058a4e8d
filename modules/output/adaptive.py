"""Adaptive softmax (Grave et al. 2017, arXiv:1609.04309): frequent words first, rare ones behind a cluster.

Sharing vectors with the embedding, band by band: Baevski and Auli 2019, arXiv:1809.10853.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import cast

import torch
from torch import Tensor, nn

from nmt.config import ConfigError, option
from nmt.limits import MAX_VOCABULARY, MAX_WIDTH
from nmt.models.bands import Bands, FrequencyOrder
from nmt.models.cross_entropy import chunked_cross_entropy
from nmt.models.dropout import Dropout
from nmt.models.interfaces import Embedding, Output
from nmt.models.linear import LinearMaker, LinearMap
from nmt.models.precision import at_least_float32
from nmt.registry import register

CHEAP_TO_ASK = ("cpu",)
"""Devices where reading a value costs nothing."""


@dataclass
class AdaptiveOutputOptions:
    """Options of ``adaptive`` (output). Label smoothing: see ``AdaptiveOutput.loss``."""

    cutoffs: list[int] | None = option(
        None,
        "frequency ranks at which the tails begin, ascending; [] = no tail, the plain softmax; "
        "null = a twelfth (8 at least) and a third of the vocabulary",
        minimum=1,
        maximum=MAX_VOCABULARY,
    )
    div_value: float = option(
        4.0, "a tail is narrower than what comes before it by this factor", minimum=1, maximum=MAX_WIDTH
    )
    head_bias: bool = option(False, "a bias per word and cluster of the head")
    tail_dropout: float = option(0.0, "of the narrow states of the tails", minimum=0, below=1, training_only=True)


class _Tail(nn.Module):
    """Words of one band: a narrower state, and a vector of that width per word."""

    def __init__(self, dim: int, width: int, size: int, dropout: float, make_linear: LinearMaker) -> None:
        super().__init__()
        self.down = make_linear("output", dim, width, bias=False)
        self.dropout = Dropout(dropout)
        self.words = make_linear("output", width, size, bias=False)
        self.down.init()
        self.words.init()

    def narrow(self, hidden: Tensor) -> Tensor:
        return self.dropout(self.down(hidden))

    def forward(self, hidden: Tensor) -> Tensor:
        """(..., dim) to log-probabilities within the band (..., size)."""
        return torch.log_softmax(at_least_float32(self.words(self.narrow(hidden))), dim=-1)


@register("output", "adaptive", options=AdaptiveOutputOptions, paper="Grave et al. 2017, arXiv:1609.04309")
class AdaptiveOutput(Output):
    """A softmax over frequent words and clusters; rare words have narrow softmaxes behind those.

    With ranks r in an order by frequency, tail i holding ranks c_i to c_{i+1} - 1, and a head of c_0 words and a
    cluster a tail:

        log p(w) = log softmax(W_0 h)[r]                                                 r < c_0
        log p(w) = log softmax(W_0 h)[c_0 + i] + log softmax(W_i P_i h)[r - c_i]         in tail i

    Raises:
        ConfigError: cutoffs that do not fit the vocabulary, or other bands than those of the embedding that shares.
    """

    def __init__(
        self,
        options: AdaptiveOutputOptions,
        *,
        embed_dim: int,
        vocab_size: int,
        embedding: Embedding,
        make_linear: LinearMaker,
    ) -> None:
        super().__init__()
        self.bands = bands = Bands.make(
            options.cutoffs, options.div_value, key="model.output", vocab_size=vocab_size, dim=embed_dim
        )
        self.head_size = bands.bounds[1]
        self.words = make_linear("output", embed_dim, self.head_size, bias=options.head_bias)
        self.words.init()
        self.tails = nn.ModuleList(
            _Tail(embed_dim, width, size, options.tail_dropout, make_linear)
            for width, size in zip(bands.widths[1:], bands.sizes[1:])
        )
        self.clusters: LinearMap | None = None
        if self.tails:
            self.clusters = make_linear("output", embed_dim, len(self.tails), bias=options.head_bias)
            self.clusters.init()
        shared = embedding.output_bands()
        if shared is None:
            self.order = FrequencyOrder(vocab_size)
            self.order.sides.add("target")
            return
        if shared.bands != bands:
            raise ConfigError(
                f"model.output: its bands begin at {list(bands.bounds[1:-1])} with widths {list(bands.widths)}, those "
                f"of model.embedding at {list(shared.bands.bounds[1:-1])} with widths {list(shared.bands.widths)}; "
                "to share vectors give both the same cutoffs and div_value, or give model.embedding.share=none"
            )
        self.order = shared.order
        self.words.tie(shared.tables[0])
        for (tail, _, _), table, projection in zip(self._tails(), shared.tables[1:], shared.projections):
            tail.words.tie(table)
            tail.down.tie(projection)

    def _tails(self) -> Iterator[tuple[_Tail, int, int]]:
        """Every tail with the ranks at which it begins and ends."""
        bounds = self.bands.bounds
        for tail, start, end in zip(self.tails, bounds[1:-1], bounds[2:]):
            yield cast(_Tail, tail), start, end

    def _head(self, hidden: Tensor) -> Tensor:
        """Log-probabilities of the head's words and clusters, by rank (..., head_size + tails)."""
        logits = self.words(hidden)
        if self.clusters is not None:
            logits = torch.cat([logits, self.clusters(hidden)], dim=-1)
        return torch.log_softmax(at_least_float32(logits), dim=-1)

    def log_probs(self, hidden: Tensor) -> Tensor:
        head = self._head(hidden)
        parts = [head[..., : self.head_size]]
        for index, tail in enumerate(self.tails, start=self.head_size):
            parts.append(head[..., index : index + 1] + tail(hidden))
        return torch.cat(parts, dim=-1).index_select(-1, self.order.ranks)

    def top_log_probs(self, hidden: Tensor, k: int) -> Tensor:
        """See ``Output.top_log_probs``: no word is more probable than its cluster.

        So a tail runs for the rows alone whose cluster reaches their k-th best word so far. Which rows these are must
        be read, which costs nothing on a CPU; elsewhere it would stall the queue, and all tails run for all rows.
        """
        if hidden.device.type not in CHEAP_TO_ASK:
            return self.log_probs(hidden)
        head = self._head(hidden)
        ranked = head.new_full((len(hidden), len(self.order.ranks)), -torch.inf)
        ranked[:, : self.head_size] = head[:, : self.head_size]
        best = head[:, : self.head_size].topk(min(k, self.head_size), dim=1).values  # of the words so far
        for cluster, (tail, start, end) in enumerate(self._tails(), start=self.head_size):
            bound = head[:, cluster]
            rows = (bound >= best[:, -1]).nonzero().squeeze(1) if best.size(1) == k else torch.arange(len(hidden))
            if not len(rows):
                continue
            found = bound[rows].unsqueeze(1) + tail(hidden[rows])
            ranked[rows, start:end] = found
            if best.size(1) == k:
                best[rows] = torch.cat([best[rows], found], dim=1).topk(k, dim=1).values
            else:
                known = torch.cat([best, found], dim=1)
                best = known.topk(min(k, known.size(1)), dim=1).values
        return ranked.index_select(1, self.order.ranks)

    def loss(self, hidden: Tensor, target: Tensor, label_smoothing: float) -> tuple[Tensor, Tensor]:
        """See ``Output.loss``; a tail runs for its own tokens only.

        Label smoothing gives every word epsilon / V, so in the head a cluster has epsilon / V times its words. Left
        out are the terms of tails in which a token's target does not lie: to make these uniform within, each tail
        would have to run for every token. Without tails that is the smoothing of the full softmax.
        """
        ranks = self.order.ranks[target]
        each = label_smoothing / len(self.order.ranks)
        weight: Tensor = self.words.matrix()
        bias: Tensor | None = self.words.bias
        spread: float | Tensor = each
        head_target = ranks
        if self.clusters is not None:
            weight = torch.cat([weight, self.clusters.matrix()])
            if bias is not None and self.clusters.bias is not None:
                bias = torch.cat([bias, self.clusters.bias])
            for cluster, (_, start, end) in enumerate(self._tails(), start=self.head_size):
                head_target = head_target.masked_fill((ranks >= start) & (ranks < end), cluster)
            if label_smoothing:
                words = torch.tensor(
                    [1] * self.head_size + self.bands.sizes[1:], dtype=torch.float64, device=hidden.device
                )
                spread = (words * each).to(at_least_float32(hidden).dtype)
        loss, nll = chunked_cross_entropy(hidden, weight, bias, head_target, kept=1 - label_smoothing, spread=spread)
        for tail, start, end in self._tails():
            rows = ((ranks >= start) & (ranks < end)).nonzero().squeeze(1)
            # Without such a token it runs too: processes that shard a model need the gradients of the same parameters.
            more, more_nll = chunked_cross_entropy(
                tail.narrow(hidden.index_select(0, rows)),
                tail.words.matrix(),
                None,
                ranks.index_select(0, rows) - start,
                kept=1 - label_smoothing,
                spread=each,
                mass=1 - label_smoothing + each * (end - start),
            )
            loss, nll = loss + more, nll + more_nll
        return loss, nll
