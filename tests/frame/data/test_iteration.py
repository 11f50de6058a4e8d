import subprocess
import sys
from collections import Counter
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from nmt.config import ConfigError, DataError
from nmt.data.corpus import Corpus
from nmt.data.iteration import TrainBatches, evaluation_batches, training_splits
from nmt.data.options import BatchOptions, SubwordOptions
from nmt.text.vocabulary import PAD

OPTIONS = BatchOptions(max_tokens=200, max_sentences=None, max_length=None, workers=0)


class Lengths:
    """A split of which only the lengths are looked at."""

    def __init__(self, lengths):
        self.sides = dict(zip(("source", "target"), np.array(lengths, dtype=np.int32).reshape(-1, 2).T))

    def __len__(self):
        return len(self.sides["source"])

    def lengths(self, side, start, stop):
        return self.sides[side][start:stop]


def planner(lengths, weights=None, seed=1, **options):
    splits = [Lengths(part) for part in lengths]
    weighted = list(zip(splits, weights or [1.0] * len(splits)))
    return TrainBatches(weighted, replace(OPTIONS, **options), seed, vocabularies=None)


def batches_of(corpus, options=OPTIONS, seed=1, subword=None):
    return TrainBatches([(corpus.split("train"), 1.0)], options, seed, corpus.vocabularies, subword)


def same(first, second):
    return (
        first.ids == second.ids
        and first.num_tokens == second.num_tokens
        and torch.equal(first.src_tokens, second.src_tokens)
        and torch.equal(first.prev_output_tokens, second.prev_output_tokens)
        and torch.equal(first.target, second.target)
    )


def all_same(first, second):
    first, second = list(first), list(second)
    return len(first) == len(second) and all(map(same, first, second))


# --- the plan ---------------------------------------------------------------------------------------------------------

LENGTHS = st.lists(st.tuples(st.integers(0, 20), st.integers(0, 20)), min_size=1, max_size=60)


@given(
    lengths=LENGTHS,
    max_tokens=st.integers(21, 150),
    max_sentences=st.none() | st.integers(1, 8),
    seed=st.integers(0, 2**40),
    epoch=st.integers(1, 1000),
)
def test_every_pair_once_an_epoch_within_the_budget(lengths, max_tokens, max_sentences, seed, epoch):
    batches = planner([lengths], seed=seed, max_tokens=max_tokens, max_sentences=max_sentences)
    plan = batches.plan(epoch)
    assert sorted(np.concatenate(plan)) == list(range(len(lengths)))
    for batch in plan:
        longest = max(max(lengths[i]) for i in batch) + 1
        assert len(batch) * longest <= max_tokens
        assert max_sentences is None or len(batch) <= max_sentences
    assert batches.num_batches(epoch) == len(plan)
    again = planner([lengths], seed=seed, max_tokens=max_tokens, max_sentences=max_sentences)
    again.plan(epoch + 1)
    assert [b.tolist() for b in again.plan(epoch)] == [b.tolist() for b in plan]


def test_seed_and_epoch_change_the_plan():
    lengths = [(n % 7, n % 5) for n in range(200)]
    plans = [planner([lengths], seed=seed).plan(epoch) for seed, epoch in ((1, 1), (1, 2), (2, 1))]
    assert len({tuple(map(tuple, plan)) for plan in plans}) == 3


def test_long_pairs_are_left_out_and_counted():
    lengths = [(3, 3), (10, 3), (3, 11), (10, 10)]
    assert np.concatenate(planner([lengths], max_length=10).plan(1)).tolist().count(2) == 0
    batches = planner([lengths], max_length=10)
    assert (batches.num_pairs, batches.num_left_out) == (3, 1)
    # With an end of sentence, 9 tokens are the most that fit into 10 cells.
    batches = planner([lengths], max_tokens=10)
    assert (batches.num_pairs, batches.num_left_out) == (1, 3)
    assert [b.tolist() for b in batches.plan(1)] == [[0]]


def test_nothing_left_to_train_on():
    with pytest.raises(ConfigError, match=r"batch\.max_tokens=200 and batch\.max_length=2 leave out all 2"):
        planner([[(3, 3), (1, 4)]], max_length=2)


def test_padding_is_little_on_captions():
    rng = np.random.default_rng(0)
    source = rng.normal(14, 4, 20000).clip(3, 45).astype(int)
    target = (source * rng.normal(1.05, 0.2, 20000)).clip(2, 50).astype(int)
    lengths = list(zip(source, target))
    shares = [planner([lengths], max_tokens=size).padding_share(1) for size in (1024, 2048, 4096)]
    assert shares == sorted(shares)
    assert shares[-1] < 0.05


def test_batches_of_close_lengths_come_in_random_order():
    lengths = [(n % 20, n % 20) for n in range(400)]
    widths = [max(lengths[i][0] for i in batch) for batch in planner([lengths], max_sentences=10).plan(1)]
    assert np.corrcoef(widths, range(len(widths)))[0, 1] < 0.5


# --- mixing -----------------------------------------------------------------------------------------------------------


def test_weights_by_hand():
    first, second = [(3, 3)] * 10, [(4, 4)] * 20
    batches = planner([first, second], weights=[2.0, 0.25])
    seen = []
    for epoch in (1, 2, 3):
        counts = Counter(np.concatenate(batches.plan(epoch)).tolist())
        assert {i: counts[i] for i in range(10)} == dict.fromkeys(range(10), 2)
        drawn = sorted(i for i in counts if i >= 10)
        assert len(drawn) == 5
        assert all(counts[i] == 1 for i in drawn)
        seen.append(tuple(drawn))
    assert len(set(seen)) > 1


def test_mixed_splits_are_read_from_the_right_corpus(corpus):
    parts = [corpus.split("train"), corpus.split("valid")]
    batches = TrainBatches([(part, 1.0) for part in parts], OPTIONS, 1, corpus.vocabularies)
    decode = corpus.vocabularies.source.decode
    seen = [text for batch in batches.epoch(1) for text in map(decode, batch.src_tokens.tolist())]
    assert sorted(seen) == sorted(parts[0].source_texts() + parts[1].source_texts())


def test_splits_of_corpora(corpus):
    assert training_splits([corpus], None) == [(corpus.split("train"), 1.0)]
    assert [weight for _, weight in training_splits([corpus, corpus], [1.0, 0.5])] == [1.0, 0.5]


@pytest.mark.parametrize(
    ("mix", "message"),
    [([1.0], r"mix=\[1\.0\] has 1 weights for 2 corpora: give one for each"), ([1.0, 0.0], "must be greater than 0")],
)
def test_weights_that_do_not_fit(corpus, mix, message):
    with pytest.raises(ConfigError, match=message):
        training_splits([corpus, corpus], mix)


def test_corpora_must_share_a_vocabulary(corpus, raw, prepare, tmp_path):
    texts = {name: str(raw / name) for name in ("train", "valid")}
    prepare(**texts, out=str(tmp_path / "other"), vocab_size=22)
    with pytest.raises(ConfigError, match=r"have different vocabularies; prepare the second with vocabulary=.*toy"):
        training_splits([corpus, Corpus.open(tmp_path / "other")], None)


# --- the batches ------------------------------------------------------------------------------------------------------


def test_an_epoch_holds_every_pair_of_the_corpus_once(corpus):
    split, pair = corpus.split("train"), corpus.vocabularies
    batches = list(batches_of(corpus).epoch(3))
    assert sorted(i for batch in batches for i in batch.ids) == list(range(300))
    assert sum(batch.num_tokens for batch in batches) == split.target_lengths.sum() + 300
    for batch in batches:
        longest = max(batch.src_tokens.shape[1], batch.target.shape[1])
        assert len(batch) * longest <= OPTIONS.max_tokens
        assert pair.source.decode_batch(batch.src_tokens.tolist()) == split.texts("source", batch.ids)
        assert pair.target.decode_batch(batch.target.tolist()) == split.texts("target", batch.ids)


@pytest.mark.parametrize("subword", [None, SubwordOptions(alpha=0.2, nbest=-1)])
@pytest.mark.parametrize("world", [1, 3])
def test_resuming_gives_the_rest(corpus, subword, world):
    """Of one process, or of one of three, which have seen ``start`` batches together."""
    batches = batches_of(corpus, subword=subword)
    whole = list(batches.epoch(2))
    assert len(whole) == batches.num_batches(2) > 5
    for start in (0, 3, len(whole) - 1, len(whole)):
        rest = batches_of(corpus, subword=subword).epoch(2, start=start, rank=world - 1, world=world)
        assert all_same(rest, whole[start + world - 1 :: world])


def test_ids_beyond_the_vocabulary_are_refused(corpus):
    few = SimpleNamespace(source=range(5), target=range(5))
    batches = TrainBatches([(corpus.split("train"), 1.0)], OPTIONS, 1, few)
    with pytest.raises(DataError, match=r"damaged \(source id \d+ of a training pair is not in the vocabulary\)"):
        list(batches.epoch(1))


def test_ranks_take_turns(corpus):
    batches = batches_of(corpus)
    ranks = [list(batches.epoch(1, rank=rank, world=2)) for rank in (0, 1)]
    plan = batches.plan(1)
    assert len(plan) == len(ranks[0]) + len(ranks[1])
    for number, lines in enumerate(plan):
        assert ranks[number % 2][number // 2].ids == lines.tolist()


@pytest.mark.parametrize("subword", [None, SubwordOptions(alpha=0.2, nbest=-1)])
def test_worker_processes_change_nothing(corpus, subword):
    alone = batches_of(corpus, subword=subword).epoch(1, start=2)
    torch.manual_seed(5)
    with_workers = list(batches_of(corpus, replace(OPTIONS, workers=2), subword=subword).epoch(1, start=2))
    drawn = torch.rand(1)
    assert all_same(with_workers, alone)
    torch.manual_seed(5)
    assert torch.equal(torch.rand(1), drawn), "preparing batches must leave the generator of dropout alone"


def test_evaluation_takes_every_pair_in_order_of_length(corpus):
    options = replace(OPTIONS, max_tokens=60, max_length=1)
    batches = list(evaluation_batches(corpus.split("test"), options))
    assert sorted(i for batch in batches for i in batch.ids) == list(range(25))
    widths = [max(batch.src_tokens.shape[1], batch.target.shape[1]) for batch in batches]
    assert widths == sorted(widths)
    ranks = [list(evaluation_batches(corpus.split("test"), options, rank, 2)) for rank in (0, 1)]
    assert sorted(i for rank in ranks for batch in rank for i in batch.ids) == list(range(25))


# --- random segmentation ----------------------------------------------------------------------------------------------

SAMPLED = SubwordOptions(alpha=0.3, nbest=-1)


def test_sampled_batches_spell_the_same_text_in_other_pieces(corpus):
    split, pair = corpus.split("train"), corpus.vocabularies
    changed = 0
    for batch in batches_of(corpus, subword=SAMPLED).epoch(1):
        assert pair.source.decode_batch(batch.src_tokens.tolist()) == split.texts("source", batch.ids)
        assert pair.target.decode_batch(batch.target.tolist()) == split.texts("target", batch.ids)
        rows = [[i for i in row if i != PAD][:-1] for row in batch.src_tokens.tolist()]
        changed += sum(row != split.source_ids(i).tolist() for row, i in zip(rows, batch.ids))
    assert changed > 150


def test_sampling_differs_between_epochs_and_seeds_but_repeats(corpus):
    def pieces(seed, epoch):
        batches = batches_of(corpus, seed=seed, subword=SAMPLED)
        rows = {i: row for b in batches.epoch(epoch) for i, row in zip(b.ids, b.src_tokens.tolist())}
        return [tuple(t for t in rows[i] if t != PAD) for i in range(300)]

    first = pieces(1, 1)
    assert pieces(1, 1) == first
    assert pieces(1, 2) != first
    assert pieces(2, 1) != first


def test_segmentation_of_a_batch_depends_on_its_epoch_number_and_seed(corpus):
    """The same pairs each time: in a whole epoch the plan alone would make a difference."""

    def pieces(seed=1, epoch=1, number=0):
        roomy = replace(OPTIONS, max_tokens=4000)  # else most rows keep their usual segmentation
        batch = batches_of(corpus, roomy, seed, SAMPLED).make(np.arange(40), epoch, number)
        return batch.src_tokens.tolist(), batch.target.tolist()

    assert pieces() == pieces()
    others = [pieces(epoch=2), pieces(number=1), pieces(seed=2)]
    assert all(side != other for found in others for side, other in zip(found, pieces()))


SCRIPT = """
import sys
from nmt.data.corpus import Corpus
from nmt.data.iteration import TrainBatches
from nmt.data.options import BatchOptions, SubwordOptions
corpus = Corpus.open(sys.argv[1])
splits = [(corpus.split("train"), 1.0)]
batches = TrainBatches(splits, BatchOptions(200, None, None, 0), 1, corpus.vocabularies, SubwordOptions(0.3, -1))
print([[batch.ids, batch.src_tokens.tolist()] for batch in batches.epoch(2)])
"""


def test_every_process_plans_and_samples_the_same(corpus, corpus_folder):
    command = [sys.executable, "-c", SCRIPT, str(corpus_folder)]
    other = subprocess.run(command, capture_output=True, text=True, check=True, timeout=120)
    here = [[batch.ids, batch.src_tokens.tolist()] for batch in batches_of(corpus, subword=SAMPLED).epoch(2)]
    assert other.stdout.strip() == repr(here)


def test_alpha_zero_is_the_usual_segmentation(corpus):
    assert all_same(batches_of(corpus, subword=SubwordOptions(0.0, -1)).epoch(1), batches_of(corpus).epoch(1))


@pytest.mark.parametrize("max_length", [None, 25])
def test_sampled_batches_keep_the_limits(corpus, max_length):
    options = replace(OPTIONS, max_tokens=90, max_length=max_length)
    batches = batches_of(corpus, options, subword=SubwordOptions(alpha=0.01, nbest=-1))
    for batch in batches.epoch(1):
        longest = max(batch.src_tokens.shape[1], batch.target.shape[1])
        assert len(batch) * longest <= 90
        assert max_length is None or longest <= max_length + 1
    assert batches.num_left_out == batches_of(corpus, options).num_left_out


def test_the_plan_leaves_room_for_longer_segmentations(corpus):
    assert batches_of(corpus, subword=SAMPLED).num_batches(1) > batches_of(corpus).num_batches(1)
