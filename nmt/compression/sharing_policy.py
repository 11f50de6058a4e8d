"""Which adjacent layers share their attention, from how alike it is (Xiao et al. 2019, arXiv:1906.11024, section 3)."""

from __future__ import annotations

import torch
from torch import Tensor


def jensen_shannon_similarity(p: Tensor, q: Tensor) -> Tensor:
    """1 - the Jensen-Shannon divergence in bits: 1 for equal distributions, 0 for those without common support.

    Args:
        p: (..., n), each row adding up to 1.
        q: the same.

    Returns:
        (...), within [0, 1], float64.
    """
    p, q = p.double(), q.double()
    divergence = _entropy((p + q) / 2) - (_entropy(p) + _entropy(q)) / 2
    return 1 - divergence.clamp(0, 1)


def _entropy(p: Tensor) -> Tensor:
    """In bits."""
    return -torch.xlogy(p, p).sum(-1) / torch.log(p.new_tensor(2.0))


def block_similarity(similarity: Tensor, first: int, last: int) -> float:
    """sim(m, n): the mean similarity of two different layers out of ``first`` to ``last``; of one layer 1.

    Args:
        similarity: (layers, layers), symmetric.
        first: lowest layer of the block, from 0.
        last: highest layer of the block.
    """
    size = last - first + 1
    if size == 1:
        return 1.0
    block = similarity[first : last + 1, first : last + 1]
    return float((block.sum() - block.diagonal().sum()) / (size * (size - 1)))


def greedy_policy(similarity: Tensor, theta: float) -> list[int]:
    """Sizes of the blocks: from the bottom, each as large as possible with a similarity above ``theta``.

    Args:
        similarity: (layers, layers), symmetric.
        theta: with 1 no layers share.
    """
    layers = len(similarity)
    policy: list[int] = []
    while (start := sum(policy)) < layers:
        sizes = range(layers - start, 1, -1)
        policy.append(next((n for n in sizes if block_similarity(similarity, start, start + n - 1) > theta), 1))
    return policy
