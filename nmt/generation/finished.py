"""The finished hypotheses of a running beam search, and when there are enough of them."""

from __future__ import annotations

import torch
from torch import Tensor

from nmt.generation.hypothesis import SearchBatch
from nmt.generation.options import SearchOptions

_CHOICE_BITS = (1 << 32) - 1


class Finished:
    """The best finished hypotheses of every group, best first, as tensors.

    Letters: B sentences, G groups, W hypotheses a group.
    """

    def __init__(self, batch: SearchBatch, options: SearchOptions) -> None:
        device, groups, width = batch.src_tokens.device, options.diverse_groups, options.beam // options.diverse_groups
        self.options = options
        self.scores = torch.full((len(batch), groups, width), -torch.inf, device=device)
        self.totals = torch.zeros_like(self.scores)  # log-probabilities less penalties
        self.ends = torch.zeros((len(batch), groups, width), dtype=torch.int64, device=device)  # step, then choice
        self.count = torch.zeros((len(batch), groups), dtype=torch.int64, device=device)
        # A group stops when its best live log-probability is not above its bar.
        self.bar = torch.full((len(batch), groups), -torch.inf, dtype=torch.float64, device=device)
        self.longest = torch.tensor(batch.limits, dtype=torch.float64, device=device).add(1).unsqueeze(1)  # with EOS

    def add(self, group: int, ends: Tensor, totals: Tensor, choices: Tensor, step: int) -> None:
        """Take in what ends at a step; of equal scores the earlier hypothesis stays ahead.

        Args:
            group: whose they are.
            ends: which of its first W candidates end (B, W).
            totals: log-probabilities of its candidates (B, >= W).
            choices: parent * vocab_size + token of the same.
            step: tokens before the last one.
        """
        width = ends.size(1)
        scores = (totals[:, :width] / self.options.norm(step + 1)).masked_fill(~ends, -torch.inf)
        scores, order = torch.cat([self.scores[:, group], scores], 1).sort(dim=1, descending=True, stable=True)
        order = order[:, :width]
        self.scores[:, group] = scores[:, :width]
        self.totals[:, group] = torch.cat([self.totals[:, group], totals[:, :width]], 1).gather(1, order)
        packed = choices[:, :width] | (step << 32)
        self.ends[:, group] = torch.cat([self.ends[:, group], packed], 1).gather(1, order)
        self.count[:, group] += ends.sum(1)
        self._set_bar(step)

    def _set_bar(self, step: int) -> None:
        """What a live log-probability must exceed (see ``beam_search``).

        A score that is below the n-th best by less than float32 can tell is a tie, and ties change nothing: so it is
        enough to compare with the precision of float64.
        """
        if self.options.early_stop:
            reach = self.longest if self.options.length_penalty >= 0 else torch.full_like(self.longest, step + 2)
            worst_kept = self.scores[:, :, min(self.options.nbest, self.scores.size(2)) - 1]
            self.bar = worst_kept * self.options.norm(reach)
        enough = self.options.patience * self.scores.size(2)
        self.bar.masked_fill_(self.count >= enough, torch.inf)

    def stopped(self, live: Tensor, step: int) -> Tensor:
        """Which groups have stopped (B, G), given the live log-probabilities (B, G, W)."""
        if self.options.length_penalty < 0:
            self._set_bar(step)
        return ~(live.amax(2) > self.bar)  # true for nan, too

    def select(self, sentences: Tensor) -> None:
        """Only the given sentences remain."""
        self.scores, self.totals = self.scores.index_select(0, sentences), self.totals.index_select(0, sentences)
        self.ends, self.count = self.ends.index_select(0, sentences), self.count.index_select(0, sentences)
        self.bar, self.longest = self.bar.index_select(0, sentences), self.longest.index_select(0, sentences)

    def best(self, sentences: Tensor) -> list[list[tuple[float, float, int, int]]]:
        """(score, log-probability, step, choice) of all hypotheses of the given sentences, best score first."""
        scores, order = self.scores.index_select(0, sentences).flatten(1).sort(dim=1, descending=True, stable=True)
        totals = self.totals.index_select(0, sentences).flatten(1).gather(1, order)
        ends = self.ends.index_select(0, sentences).flatten(1).gather(1, order)
        rows = zip(scores.tolist(), totals.tolist(), (ends >> 32).tolist(), (ends & _CHOICE_BITS).tolist())
        return [[found for found in zip(*row) if found[0] > -torch.inf] for row in rows]
