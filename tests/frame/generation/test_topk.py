"""Two-stage top-k against sorting everything."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from nmt.generation.topk import top_candidates


def by_sorting(scores: torch.Tensor, lprobs: torch.Tensor, k: int) -> tuple[torch.Tensor, torch.Tensor]:
    values, order = (lprobs + scores.unsqueeze(2)).flatten(1).sort(dim=1, descending=True, stable=True)
    return values[:, :k], order[:, :k]


def check(scores: torch.Tensor, lprobs: torch.Tensor, k: int, block: int) -> None:
    values, index = top_candidates(scores, lprobs, k, block=block)
    expected_values, expected_index = by_sorting(scores, lprobs, k)
    assert values.tolist() == expected_values.tolist()
    assert index.tolist() == expected_index.tolist()


@pytest.mark.parametrize("vocab_size", [511, 512, 513, 1000, 8000])
@pytest.mark.parametrize(("beam", "k"), [(1, 2), (5, 10), (4, 8)])
def test_real_sizes(vocab_size: int, beam: int, k: int) -> None:
    lprobs = torch.log_softmax(3 * torch.randn(3, beam, vocab_size), -1)
    check(torch.randn(3, beam) - 5, lprobs, k, 128)


@given(st.data())
@settings(max_examples=60)
def test_ties_and_infinities(data: st.DataObject) -> None:
    """Few distinct values, so that nearly everything ties, with forbidden tokens and dead hypotheses."""
    bsz, beam, block = (data.draw(st.integers(1, 3)) for _ in range(3))
    vocab_size = data.draw(st.integers(4 * block, 6 * block + 3))
    values = torch.tensor([-2.0, -1.0, -0.5, 0.0, -0.0, -torch.inf])
    generator = torch.Generator().manual_seed(data.draw(st.integers(0, 10**6)))
    lprobs = values[torch.randint(6, (bsz, beam, vocab_size), generator=generator)]
    scores = values[torch.randint(6, (bsz, beam), generator=generator)]
    check(scores, lprobs, data.draw(st.integers(1, beam * vocab_size)), block)


def test_first_of_equal_values_wins_whatever_the_block() -> None:
    lprobs = torch.full((1, 2, 20), -1.0)
    for block in (1, 2, 5, 20):
        assert top_candidates(torch.zeros(1, 2), lprobs, 3, block=block)[1].tolist() == [[0, 1, 2]]


def test_rounding_of_sums_is_that_of_the_whole() -> None:
    """A score so large that distinct log-probabilities fall together once it is added."""
    lprobs = torch.log_softmax(torch.randn(1, 3, 700), -1)
    check(torch.full((1, 3), -(2.0**20)), lprobs, 6, 128)
