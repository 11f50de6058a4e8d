"""The policy algorithm of arXiv:1906.11024, section 3, and the divergence it rests on."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor
from torch.testing import assert_close

from nmt.compression.sharing_policy import block_similarity, greedy_policy, jensen_shannon_similarity


def by_hand(p: list[float], q: list[float]) -> float:
    def divergence(a: list[float], b: list[float]) -> float:
        return sum(x * math.log2(x / y) for x, y in zip(a, b) if x > 0)

    middle = [(x + y) / 2 for x, y in zip(p, q)]
    return 1 - (divergence(p, middle) + divergence(q, middle)) / 2


@pytest.mark.parametrize(
    ("p", "q", "expected"),
    [
        ([0.5, 0.5, 0.0], [0.5, 0.5, 0.0], 1.0),
        ([1.0, 0.0], [0.0, 1.0], 0.0),
        ([1.0, 0.0], [0.5, 0.5], by_hand([1.0, 0.0], [0.5, 0.5])),
        ([0.2, 0.3, 0.5], [0.6, 0.3, 0.1], by_hand([0.2, 0.3, 0.5], [0.6, 0.3, 0.1])),
    ],
)
def test_similarity_of_two_distributions(p: list[float], q: list[float], expected: float) -> None:
    assert float(jensen_shannon_similarity(torch.tensor(p), torch.tensor(q))) == pytest.approx(expected, abs=1e-7)


def rows(seed: int) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.softmax(8 * torch.randn(7, 5, generator=generator, dtype=torch.float64), dim=-1)


@given(seed=st.integers(0, 1000))
def test_similarity_is_symmetric_bounded_and_blind_to_padding(seed: int) -> None:
    p, q = rows(seed), rows(seed + 1)
    got = jensen_shannon_similarity(p, q)
    assert_close(got, jensen_shannon_similarity(q, p), rtol=0, atol=1e-15)
    assert bool(((got >= 0) & (got <= 1)).all())
    pads = torch.zeros(7, 3, dtype=torch.float64)
    assert_close(jensen_shannon_similarity(torch.cat([p, pads], 1), torch.cat([q, pads], 1)), got)
    assert_close(jensen_shannon_similarity(p, p), torch.ones(7, dtype=torch.float64))


MATRIX = torch.tensor([[1.0, 0.9, 0.4], [0.9, 1.0, 0.8], [0.4, 0.8, 1.0]], dtype=torch.float64)


def test_similarity_of_a_block() -> None:
    assert block_similarity(MATRIX, 0, 2) == pytest.approx((0.9 + 0.4 + 0.8) / 3)
    assert block_similarity(MATRIX, 1, 2) == pytest.approx(0.8)
    assert block_similarity(MATRIX, 1, 1) == 1.0


@pytest.mark.parametrize(
    ("theta", "expected"), [(0.6, [3]), (0.75, [2, 1]), (0.85, [2, 1]), (0.9, [1, 1, 1]), (1.0, [1, 1, 1]), (0.0, [3])]
)
def test_blocks_from_the_bottom(theta: float, expected: list[int]) -> None:
    assert greedy_policy(MATRIX, theta) == expected


def test_a_block_as_similar_as_the_threshold_is_not_above_it() -> None:
    """Powers of two, so that means are exact: two layers at 0.75, all three at 0.5."""
    matrix = torch.tensor([[1.0, 0.75, 0.25], [0.75, 1.0, 0.5], [0.25, 0.5, 1.0]], dtype=torch.float64)
    assert block_similarity(matrix, 0, 2) == 0.5
    got = [greedy_policy(matrix, theta) for theta in (0.49, 0.5, 0.74, 0.75)]
    assert got == [[3], [2, 1], [2, 1], [1, 1, 1]]


def test_the_largest_block_is_taken_not_the_first_that_fits() -> None:
    """Layers 0 and 1 are less alike than all three are in the mean."""
    matrix = torch.tensor([[1.0, 0.5, 0.9], [0.5, 1.0, 0.9], [0.9, 0.9, 1.0]])
    assert greedy_policy(matrix, 0.7) == [3]


@given(layers=st.integers(1, 7), theta=st.floats(0, 1), seed=st.integers(0, 100))
def test_sizes_add_up(layers: int, theta: float, seed: int) -> None:
    matrix = torch.rand(layers, layers, generator=torch.Generator().manual_seed(seed))
    matrix = ((matrix + matrix.t()) / 2).fill_diagonal_(1)
    policy = greedy_policy(matrix, theta)
    assert sum(policy) == layers
    assert min(policy) >= 1
    assert greedy_policy(torch.ones(layers, layers), 0.99) == [layers]
    assert greedy_policy(matrix, 1.0) == [1] * layers
