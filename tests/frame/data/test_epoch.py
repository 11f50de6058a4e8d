"""Epochs of several chunks: the same promises as those of one."""

import itertools
import pickle
from collections import Counter

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from nmt.data import epoch as epochs
from nmt.data.corpus import Corpus
from nmt.data.epoch import EpochPlanner
from nmt.data.iteration import TrainBatches
from nmt.data.options import BatchOptions, SubwordOptions


class Lengths:
    """A split of which only the lengths are looked at."""

    def __init__(self, lengths):
        self.sides = dict(zip(("source", "target"), np.array(lengths, dtype=np.int32).reshape(-1, 2).T))
        self.most_read = 0

    def __len__(self):
        return len(self.sides["source"])

    def lengths(self, side, start, stop):
        self.most_read = max(self.most_read, stop - start)
        return self.sides[side][start:stop]


def shrink(patch):
    """Chunks of 40 pairs in blocks of 4 lines."""
    for name, size in (("CHUNK_PAIRS", 40), ("BLOCK_LINES", 4), ("BLOCK_ITEMS", 8)):
        patch.setattr(epochs, name, size)


@pytest.fixture
def small(monkeypatch):
    shrink(monkeypatch)


def planner(*lengths, weights=None, seed=1, max_tokens=100, max_sentences=None, limit=60):
    weighted = list(zip(map(Lengths, lengths), weights or [1.0] * len(lengths)))
    return EpochPlanner(weighted, BatchOptions(max_tokens, max_sentences, None, 0), seed, limit=limit)


def lines(plan):
    return [plan[number].tolist() for number in range(len(plan))]


LENGTHS = st.lists(st.tuples(st.integers(0, 30), st.integers(0, 30)), min_size=1, max_size=300)


@given(
    lengths=LENGTHS,
    max_tokens=st.integers(31, 150),
    max_sentences=st.none() | st.integers(1, 8),
    seed=st.integers(0, 2**63),
    epoch=st.integers(1, 1000),
)
def test_every_pair_once_an_epoch_within_the_budget(lengths, max_tokens, max_sentences, seed, epoch):
    values = {"seed": seed, "max_tokens": max_tokens, "max_sentences": max_sentences, "limit": 25}
    usable = [i for i, pair in enumerate(lengths) if max(pair) <= 25]
    with pytest.MonkeyPatch.context() as patch:
        shrink(patch)
        one = planner(lengths, **values)
        plan = lines(one.plan(epoch))
        assert lines(planner(lengths, **values).plan(epoch)) == plan
    assert (one.num_pairs, one.num_left_out) == (len(usable), len(lengths) - len(usable))
    assert sorted(itertools.chain(*plan)) == usable
    for batch in plan:
        assert batch == sorted(batch)
        assert len(batch) * (max(max(lengths[i]) for i in batch) + 1) <= max_tokens
        assert max_sentences is None or len(batch) <= max_sentences


def test_batches_are_the_same_in_any_order_of_asking(small):
    lengths = [(n % 11, n % 7) for n in range(200)]
    whole = lines(planner(lengths).plan(3))
    plan = planner(lengths).plan(3)
    assert len(plan._chunks) == 5
    for number in np.random.default_rng(0).permutation(len(plan)):
        assert plan[number].tolist() == whole[number]
    again = pickle.loads(pickle.dumps(plan))  # as a process that prepares batches gets it
    assert lines(again) == whole
    with pytest.raises(IndexError, match=f"batch {len(plan)} of an epoch of {len(plan)}"):
        plan[len(plan)]


def test_every_epoch_has_other_chunks_and_other_batches(small):
    lengths = [(n % 11, n % 7) for n in range(200)]
    first, second = (planner(lengths).plan(epoch) for epoch in (1, 2))
    chunk_of = [
        {
            pair: chunk
            for chunk in range(5)
            for n in range(*plan._starts[chunk : chunk + 2])
            for pair in plan[n].tolist()
        }
        for plan in (first, second)
    ]
    stay = sum(chunk_of[0][pair] == chunk_of[1][pair] for pair in range(200))
    assert 10 < stay < 80  # a fifth by chance
    shared = set(map(tuple, lines(first))) & set(map(tuple, lines(second)))
    assert len(shared) < len(first) / 4
    assert lines(planner(lengths, seed=2).plan(1)) != lines(first)


def test_neighbours_are_spread_over_the_epoch(small):
    """A corpus in order of something, such as its sources, is not read in this order."""
    plan = planner([(5, 5)] * 1000).plan(1)
    order = list(itertools.chain(*lines(plan)))
    assert abs(np.corrcoef(order, range(1000))[0, 1]) < 0.1


def test_lengths_are_mixed_within_a_chunk_and_in_each_chunk_otherwise(small):
    plan = planner([(n % 20, n % 20) for n in range(1000)], max_sentences=4).plan(1)
    widths = [max(n % 20 for n in batch) for batch in lines(plan)]
    rising = sum(a < b for a, b in itertools.pairwise(widths)) / len(widths)
    assert 0.3 < rising < 0.6
    even = planner([(5, 5)] * 400, max_sentences=4).plan(1)  # chunks that differ in their random numbers alone
    assert len({tuple(even._chunk(chunk).shuffled) for chunk in range(10)}) > 5


def test_chunks_get_the_same_share_of_every_corpus(small):
    plan = planner([(5, 5)] * 400, [(6, 6)] * 100, weights=[1.0, 4.5]).plan(2)
    assert len(plan._chunks) == 22  # 400 + 450 pairs, 40 in each
    counts = Counter(itertools.chain(*lines(plan)))
    assert [counts[i] for i in range(400)] == [1] * 400
    small_corpus = [counts[i] for i in range(400, 500)]
    assert sorted(set(small_corpus)) == [4, 5]
    assert sum(small_corpus) == 450
    for chunk in range(22):
        numbers = range(*plan._starts[chunk : chunk + 2])
        of_second = sum(i >= 400 for n in numbers for i in plan[n].tolist())
        assert 10 <= of_second <= 32, "450 over 22 chunks are 20 each, in blocks of 4"


def test_drawn_pairs_differ_between_epochs_and_add_up(small):
    seen = []
    for epoch in (1, 2, 3):
        plan = planner([(5, 5)] * 500, weights=[0.3]).plan(epoch)
        drawn = sorted(itertools.chain(*lines(plan)))
        assert len(plan._chunks) == 4
        assert len(drawn) == len(set(drawn)) == 150
        seen.append(tuple(drawn))
    assert len(set(seen)) == 3


def test_a_plan_never_reads_more_than_a_chunk(small):
    one = planner([(n % 20, n % 20) for n in range(4000)])
    plan = one.plan(1)
    list(plan)
    assert one._splits[0].most_read <= 40
    assert len(plan._planned[1].numbers) <= 50


def test_what_fits_into_one_chunk_is_one():
    plan = planner([(n % 20, n % 20) for n in range(4000)]).plan(1)
    assert len(plan._chunks) == 1


def test_padding_is_that_of_the_first_chunk(small):
    # All pairs of one length but for those of the last batch of a chunk: none is padded.
    assert planner([(5, 5)] * 200).plan(1).padding_share == 0.0
    assert 0 < planner([(n % 20, 5) for n in range(200)]).plan(1).padding_share < 1


@pytest.mark.parametrize("subword", [None, SubwordOptions(alpha=0.2, nbest=-1)])
def test_resuming_and_worker_processes_across_chunks(corpus_folder, small, subword):
    def batches(workers=0):
        corpus = Corpus.open(corpus_folder)
        options = BatchOptions(200, None, None, workers)
        return TrainBatches([(corpus.split("train"), 1.0)], options, 1, corpus.vocabularies, subword)

    whole = [batch.ids for batch in batches().epoch(2)]
    assert sorted(itertools.chain(*whole)) == list(range(300))
    assert len(whole) == batches().num_batches(2) > 12
    for start in (0, 3, 11, len(whole)):
        assert [batch.ids for batch in batches().epoch(2, start=start)] == whole[start:]
    ranks = [[batch.ids for batch in batches().epoch(2, start=6, rank=rank, world=3)] for rank in range(3)]
    assert [ranks[n % 3][n // 3] for n in range(len(whole) - 6)] == whole[6:]
    assert [batch.ids for batch in batches(workers=2).epoch(2, start=5)] == whole[5:]
