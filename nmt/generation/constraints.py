"""Which tokens may come next: lengths, target prefixes, unknown words, repeated n-grams."""

from __future__ import annotations

import torch
from torch import Tensor

from nmt.generation.hypothesis import SearchBatch
from nmt.generation.options import SearchOptions
from nmt.text.vocabulary import BOS, EOS, PAD, UNK


class Constraints:
    """Sets the log-probability of forbidden tokens to minus infinity; all other values stay what the model said.

    But an unknown word's: ``unk_penalty`` is subtracted from it. A given prefix is free of rules, not of the penalty.
    """

    def __init__(self, batch: SearchBatch, options: SearchOptions) -> None:
        device = batch.src_tokens.device
        self.options, self.rows = options, options.rows
        self.limits = list(batch.limits)
        self.minima = [min(options.min_length, limit) for limit in batch.limits]
        self.may_repeat = torch.tensor(list(batch.may_repeat), dtype=torch.int64, device=device)
        prefixes = batch.prefixes or [()] * len(batch)
        self.prefix_lengths = [len(p) for p in prefixes]
        prefix = torch.full((len(batch), max(self.prefix_lengths)), -1)  # -1: free
        for row, ids in zip(prefix, prefixes):
            row[: len(ids)] = torch.tensor(ids, dtype=torch.int64)
        # One tensor, so that leaving sentences cost one operation: limit, minimum, prefix.
        columns = [torch.tensor(self.limits), torch.tensor(self.minima)]
        self.table = torch.cat([torch.stack(columns, dim=1), prefix], dim=1).to(device)

    def select(self, kept: list[int], sentences: Tensor) -> None:
        """Only the given sentences remain; both arguments name them."""
        self.limits = [self.limits[i] for i in kept]
        self.minima = [self.minima[i] for i in kept]
        self.prefix_lengths = [self.prefix_lengths[i] for i in kept]
        self.table = self.table.index_select(0, sentences)

    def top(self, step: int, k: int) -> int | None:
        """Of how many of a row's best tokens the k best that are allowed come; None: of any number.

        Args:
            step: tokens so far.
            k: tokens that a search reads.
        """
        options = self.options
        if options.no_repeat_ngram or options.diverse_groups > 1 or step < max(self.prefix_lengths):
            return None
        return k + UNK + 1  # PAD, BOS, EOS and UNK may be forbidden

    def apply(self, lprobs: Tensor, step: int, tokens: Tensor | None) -> None:
        """Forbid tokens, in place.

        Args:
            lprobs: log-probabilities (bsz * rows, vocab_size).
            step: tokens so far.
            tokens: the hypotheses so far (bsz * rows, step); None unless n-grams must not repeat.
        """
        if self.options.unk_penalty:
            lprobs[:, UNK] -= self.options.unk_penalty
        forced, wanted = self._prefix(lprobs, step)
        lprobs[:, : BOS + 1] = -torch.inf  # PAD and BOS
        if self.options.ban_unk:
            lprobs[:, UNK] = -torch.inf
        if tokens is not None:
            forbid_repeats(lprobs, tokens, self.options.no_repeat_ngram, self.may_repeat)
        if self.options.forced_length is not None:
            lprobs[:, EOS] = -torch.inf
        else:
            if step < max(self.minima):
                lprobs[:, EOS].masked_fill_(self._every_row(self.table[:, 1] > step), -torch.inf)
            if step >= min(self.limits):
                self._end(lprobs, step)
        if forced is not None and wanted is not None:
            token, rows = self._every_row(self.table[:, 2 + step].clamp(min=0)).unsqueeze(1), forced.unsqueeze(1)
            lprobs.masked_fill_(rows, -torch.inf)
            lprobs.scatter_(1, token, torch.where(rows, wanted, lprobs.gather(1, token)))

    def _prefix(self, lprobs: Tensor, step: int) -> tuple[Tensor | None, Tensor | None]:
        """Rows that continue a given prefix, and the given token's log-probability before anything is forbidden."""
        if step >= max(self.prefix_lengths):
            return None, None
        token = self._every_row(self.table[:, 2 + step])
        return token >= 0, lprobs.gather(1, token.clamp(min=0).unsqueeze(1))

    def _end(self, lprobs: Tensor, step: int) -> None:
        """Sentences at their longest can only end."""
        at_limit = self._every_row(self.table[:, 0] <= step).unsqueeze(1)
        eos = lprobs[:, EOS].clone()
        lprobs.masked_fill_(at_limit, -torch.inf)
        lprobs[:, EOS] = eos

    def _every_row(self, values: Tensor) -> Tensor:
        """(bsz,) to (bsz * rows,)."""
        return values.repeat_interleave(self.rows)


def forbid_repeats(lprobs: Tensor, tokens: Tensor, size: int, may_repeat: Tensor) -> None:
    """Forbid tokens that would complete an n-gram which the hypothesis has already, in place.

    Args:
        lprobs: (rows, vocab_size); PAD is forbidden already.
        tokens: (rows, length).
        size: tokens an n-gram.
        may_repeat: ids; n-grams that hold one of them are not looked at.
    """
    length = tokens.size(1)
    if length < size:
        return
    following = tokens[:, size - 1 :]  # (rows, windows): the last token of every n-gram
    if size > 1:
        windows = tokens.unfold(1, size - 1, 1)  # (rows, windows + 1, size - 1)
        same = (windows[:, :-1] == windows[:, -1:]).all(-1)
        following = following.masked_fill(~same, PAD)
    if len(may_repeat):
        free = torch.isin(tokens, may_repeat).unfold(1, size, 1).any(-1)  # (rows, windows)
        following = following.masked_fill(free, PAD)
    lprobs.scatter_(1, following, -torch.inf)
