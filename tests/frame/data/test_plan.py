import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from nmt.data.plan import batch_ends, order_by_length, padding_share, plan_batches

LENGTHS = st.lists(st.tuples(st.integers(0, 30), st.integers(0, 30)), min_size=1, max_size=80)


def as_lists(batches):
    return [batch.tolist() for batch in batches]


def test_plan_by_hand():
    # With eos the longer sides are 3, 6, 3, 2, 6: sorted, 3 + 3 + 2 of them fit into 9 cells, then 6 each.
    source = np.array([2, 5, 1, 1, 4])
    target = np.array([1, 5, 2, 0, 5])
    batches = plan_batches(source, target, max_tokens=9)
    assert as_lists(batches) == [[3, 0, 2], [4], [1]]
    assert as_lists(plan_batches(source, target, max_tokens=12)) == [[3, 0, 2], [4, 1]]
    assert as_lists(plan_batches(source, target, max_tokens=12, max_sentences=2)) == [[3, 0], [2, 4], [1]]


def test_plan_of_sources_alone():
    assert as_lists(plan_batches([3, 1, 3, 0], max_tokens=8)) == [[3, 1], [0, 2]]


def test_nothing_to_plan():
    assert plan_batches([], max_tokens=8) == []


def test_a_sentence_beyond_the_budget_is_alone():
    assert as_lists(plan_batches([50, 1, 1], max_tokens=10)) == [[1, 2], [0]]


def test_order_runs_up_and_down():
    # Longer side 2: by target minus source upwards; longer side 3: downwards.
    source = np.array([2, 2, 1, 3, 3, 1])
    target = np.array([1, 2, 2, 1, 3, 3])
    assert order_by_length(source, target).tolist() == [0, 1, 2, 5, 4, 3]


def test_ties_are_shuffled_by_the_generator_only():
    same = np.full(50, 4)
    assert order_by_length(same, same).tolist() == list(range(50))
    first, again, other = (order_by_length(same, same, np.random.default_rng(s)).tolist() for s in (1, 1, 2))
    assert first == again != other
    assert sorted(first) == list(range(50))


def test_ends_by_hand():
    # Widths 2, 2, 2, 3, 3, 9: two of 2 and one of 3 do not fit into 8 cells, nor does 9.
    ends = batch_ends(np.array([3, 2, 2, 9, 2, 3]), max_tokens=8, max_sentences=None)
    assert ends.tolist() == [3, 5]
    assert batch_ends(np.array([5, 5]), max_tokens=10, max_sentences=None).tolist() == []
    assert batch_ends(np.array([5, 5]), max_tokens=10, max_sentences=1).tolist() == [1]


def one_by_one(widths, max_tokens, max_sentences):
    """Where batches end, sentence by sentence."""
    ends, start = [], 0
    for position, width in enumerate(sorted(widths)):
        size = position - start + 1
        if size > 1 and (size * width > max_tokens or size > (max_sentences or len(widths))):
            ends.append(position)
            start = position
    return ends


@given(
    widths=st.lists(st.integers(1, 40), min_size=1, max_size=200),
    max_tokens=st.integers(1, 150),
    max_sentences=st.none() | st.integers(1, 9),
)
def test_ends_are_those_of_taking_one_sentence_after_the_other(widths, max_tokens, max_sentences):
    ends = batch_ends(np.array(widths), max_tokens=max_tokens, max_sentences=max_sentences)
    assert ends.tolist() == one_by_one(widths, max_tokens, max_sentences)


def test_padding_share_by_hand():
    # With eos: sources 3 and 5, targets 2 and 2: cells 2 x 5 + 2 x 2 = 14, tokens 8 + 4 = 12.
    sides = np.array([2, 4]), np.array([1, 1])
    assert padding_share(np.zeros(0, int), *sides) == pytest.approx(2 / 14)
    assert padding_share(np.array([1]), *sides) == 0.0
    assert padding_share(np.zeros(0, int)) == 0.0


def test_lengths_beyond_sixteen_bits_are_sorted_too():
    source = np.array([70000, 3, 40000])
    assert order_by_length(source, source).tolist() == [1, 2, 0]


@given(lengths=LENGTHS, max_tokens=st.integers(1, 120), max_sentences=st.none() | st.integers(1, 9))
def test_every_sentence_once_and_within_budget(lengths, max_tokens, max_sentences):
    source, target = np.array(lengths).T
    batches = plan_batches(source, target, max_tokens=max_tokens, max_sentences=max_sentences)
    assert sorted(i for batch in batches for i in batch) == list(range(len(lengths)))
    for batch in batches:
        longest = max(source[batch].max(), target[batch].max()) + 1
        assert len(batch) * longest <= max_tokens or len(batch) == 1
        assert max_sentences is None or len(batch) <= max_sentences
