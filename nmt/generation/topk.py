"""Exact top-k of the continuations of a beam, with a tie rule that no batch size, device or algorithm can change."""

from __future__ import annotations

import torch
from torch import Tensor

BLOCK = 128
"""Tokens a block; a reduction over so many runs at memory speed, and few blocks remain."""

MAX_CANDIDATES = (1 << 29) - 1
"""Most hypotheses x words."""

_INDEX_BITS = (1 << 29) - 1
_LEAST, _GREATEST = -(2.0**1000), -(2.0**-200)
"""Stand for minus infinity and 0 among the keys: as float32 they are that again."""


def top_candidates(scores: Tensor, lprobs: Tensor, k: int, *, block: int = BLOCK) -> tuple[Tensor, Tensor]:
    """The k best of ``scores + lprobs``; of equal ones the first (lower row, then lower token) wins.

    In two stages where the vocabulary is large: the k blocks with the largest maxima hold the k best elements (an
    element outside of them has k maxima before it, in the same order with the same tie rule), so all that is read
    twice is k blocks. Rounding is monotone, so adding the score to a block's maximum gives the maximum of the sums.

    Args:
        scores: log-probability of each hypothesis so far (bsz, beam), fp32.
        lprobs: log-probabilities of the next token (bsz, beam, vocab_size), fp32.
        k: at most beam * vocab_size, which is at most ``MAX_CANDIDATES``.
        block: tokens a block.

    Returns:
        values (bsz, k), descending, and indices (bsz, k) int64 into beam * vocab_size.
    """
    bsz, beam, vocab_size = lprobs.shape
    if vocab_size < 4 * block:
        index = torch.arange(beam * vocab_size, device=lprobs.device)
        return _ordered_top((lprobs + scores.unsqueeze(2)).flatten(1), index, k)
    maxima = _block_maxima(lprobs, block) + scores.unsqueeze(2)  # (bsz, beam, num_blocks)
    num_blocks = maxima.size(2)
    index = torch.arange(beam * num_blocks, device=lprobs.device)
    _, chosen = _ordered_top(maxima.flatten(1), index, min(k, beam * num_blocks))
    row = chosen // num_blocks  # (bsz, k)
    token = (chosen % num_blocks).unsqueeze(2) * block + torch.arange(block, device=lprobs.device)  # (bsz, k, block)
    flat = row.unsqueeze(2) * vocab_size + token
    outside = token >= vocab_size  # only in the last block of a row
    values = lprobs.reshape(bsz, -1).gather(1, flat.clamp(max=beam * vocab_size - 1).flatten(1)).view_as(flat)
    values = values + scores.gather(1, row).unsqueeze(2)
    values = values.masked_fill(outside, -torch.inf)
    flat = flat.masked_fill(outside, _INDEX_BITS)  # behind every real element, which there are enough of
    return _ordered_top(values.flatten(1), flat.flatten(1), k)


def _block_maxima(lprobs: Tensor, block: int) -> Tensor:
    """Largest element of every block (..., ceil(vocab_size / block))."""
    whole = lprobs.size(-1) // block
    maxima = lprobs[..., : whole * block].view(*lprobs.shape[:-1], whole, block).amax(-1)
    if whole * block == lprobs.size(-1):
        return maxima
    return torch.cat([maxima, lprobs[..., whole * block :].amax(-1, keepdim=True)], dim=-1)


def _ordered_top(values: Tensor, index: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """Top k by (value descending, index ascending).

    A float32 leaves the low 29 bits of a float64 empty. With the index added there, equal values differ: a negative
    number grows in magnitude with its bits, so the lower index is the greater number. Values are log-probabilities:
    what rounding put above 0 counts as 0.
    """
    keys = values.double().clamp(_LEAST, _GREATEST).view(torch.int64) + index
    top = keys.view(torch.float64).topk(k, dim=1).values
    return top.float(), top.view(torch.int64) & _INDEX_BITS
