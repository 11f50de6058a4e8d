"""Our random segmentations against the library's: the same where nothing is random, the same probabilities else."""

import itertools
import math
import random
import subprocess
import sys
from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sentencepiece import sentencepiece_model_pb2 as messages

from nmt.text.model_proto import BYTE, NORMAL, UNUSED, USER_DEFINED
from nmt.text.random_segmentation import MergeDropout, Pieces, UnigramLattice
from nmt.text.subword import Normalisation, SubwordSampler, VocabularyTraining, VocabularyType, train_vocabulary
from nmt.text.vocabulary import UNK, Vocabulary

WORDS = ["lower", "lowest", "newer", "newest", "wider", "widest", "low", "new", "wide"]
LINES = [" ".join(random.Random(i).choices(WORDS, k=5)) for i in range(200)]


def trained(kind: VocabularyType, **values) -> Vocabulary:
    return train_vocabulary(LINES, VocabularyTraining(**{"size": 24, "kind": kind, **values}))


def changed(vocabulary: Vocabulary, kinds: dict[str, int]) -> Vocabulary:
    """The same model with some pieces of another type."""
    proto = messages.ModelProto.FromString(vocabulary.model)
    for piece in proto.pieces:
        piece.type = kinds.get(piece.piece, piece.type)
    return Vocabulary(proto.SerializeToString())


@pytest.fixture(scope="module")
def models() -> dict[str, Vocabulary]:
    found = {}
    for kind in (VocabularyType.unigram, VocabularyType.bpe):
        plain = trained(kind)
        multi = [piece for i in range(4, len(plain)) if len(piece := plain.piece(i)) > 2]
        found[kind.value] = plain
        found[f"{kind.value}, bytes"] = trained(kind, size=280, byte_fallback=True)
        found[f"{kind.value}, identity"] = trained(kind, normalisation=Normalisation.identity)
        found[f"{kind.value}, unused"] = changed(plain, dict.fromkeys(multi[:3], UNUSED))
        found[f"{kind.value}, user-defined"] = changed(plain, {multi[0]: USER_DEFINED})
    return found


NAMES = [
    f"{kind}{suffix}"
    for kind in ("unigram", "bpe")
    for suffix in ("", ", bytes", ", identity", ", unused", ", user-defined")
]
TEXTS = st.lists(st.sampled_from([*WORDS, " ", "  ", "ж", "ö", "▁", "e", "w", "\0", "ﬁ", "lo"]), max_size=10).map(
    "".join
)
NOTHING_LEFT_OUT = 0.0
THE_BEST = 1e4
"""An alpha at which a unigram model draws nothing but its best segmentation."""


@pytest.mark.parametrize("name", NAMES)
@settings(deadline=None)
@given(line=TEXTS)
def test_without_chance_it_is_the_library_s_segmentation(models, name, line):
    alpha = THE_BEST if name.startswith("unigram") else NOTHING_LEFT_OUT
    sampled = models[name].sample(line, alpha=alpha, nbest=-1, draw=lambda: 0.5)
    usual = models[name].encode(line)
    if sampled != usual:  # two that are equally good, up to the library's float32
        scores = models[name]._segmentation._pieces.scores
        assert "unigram" in name
        assert sum(scores[i] for i in sampled) == pytest.approx(sum(scores[i] for i in usual), rel=1e-5)


def library(vocabulary: Vocabulary, line: str, alpha: float, number: int) -> Counter:
    processor = vocabulary._segmentation._processor
    rows = (processor.encode(line, enable_sampling=True, alpha=alpha, nbest_size=-1) for _ in range(number))
    return Counter(map(tuple, rows))


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("alpha", [0.1, 0.4])
def test_probabilities_are_the_library_s(models, name, alpha):
    number, line = 3000, "newest жwider lowest"
    theirs = library(models[name], line, alpha, number)
    (rows,) = SubwordSampler(alpha=alpha).encode([(models[name], [line] * number)], seed=1)
    ours = Counter(map(tuple, rows))
    assert len(ours) > 3
    for ids in set(ours) | set(theirs):
        share = (ours[ids] + theirs[ids]) / (2 * number)
        limit = 6 * math.sqrt(2 * share * (1 - share) / number)  # six standard deviations: the library has no seed
        assert abs(ours[ids] - theirs[ids]) / number < max(limit, 10 / number), ids


def test_unigram_probabilities_by_enumeration(models):
    vocabulary, alpha, number = models["unigram"], 0.3, 20000
    word = "widest"
    scores = vocabulary._segmentation._pieces.scores
    every = vocabulary._segmentation._processor.nbest_encode(word, nbest_size=500)
    assert len(every) < 500
    weights = [math.exp(alpha * sum(scores[i] for i in ids)) for ids in every]
    (rows,) = SubwordSampler(alpha=alpha).encode([(vocabulary, [word] * number)], seed=1)
    counts = Counter(map(tuple, rows))
    assert set(counts) <= set(map(tuple, every))
    for ids, weight in zip(every, weights):
        share = weight / sum(weights)
        assert counts[tuple(ids)] / number == pytest.approx(share, abs=4 * math.sqrt(share / number))


def test_merges_by_hand():
    proto = messages.ModelProto()
    pieces = [("<pad>", 3), ("<s>", 3), ("</s>", 3), ("<unk>", 2), ("ab", NORMAL), ("abc", NORMAL), ("bc", NORMAL)]
    for number, (piece, kind) in enumerate([*pieces, ("a", NORMAL), ("b", NORMAL), ("c", NORMAL)]):
        proto.pieces.add(piece=piece, type=kind, score=-float(number))
    dropout = MergeDropout(Pieces(proto), alpha=0.5)

    def cut(*draws: float) -> list[str]:
        left = iter(draws)
        ids = dropout.segment("abc", lambda: next(left))
        assert next(left, None) is None, "every number is drawn"
        return [proto.pieces[i].piece for i in ids]

    # The agenda: a + b before b + c; if a + b was merged, ab + c, after which b + c has gone.
    assert cut(0.5, 0.5) == ["abc"]
    assert cut(0.5, 0.4) == ["ab", "c"]
    assert cut(0.4, 0.5, 0.5) == ["abc"]  # a + bc is another merge
    assert cut(0.4, 0.5, 0.4) == ["a", "bc"]
    assert cut(0.4, 0.4) == ["a", "b", "c"]


def test_lattice_by_hand():
    proto = messages.ModelProto()
    scores = {
        "<pad>": 0,
        "<s>": 0,
        "</s>": 0,
        "<unk>": 0,
        "a": math.log(0.5),
        "b": math.log(0.25),
        "ab": math.log(0.25),
    }
    for number, (piece, score) in enumerate(scores.items()):
        proto.pieces.add(piece=piece, type=NORMAL if number > 3 else 3, score=score)
    lattice = UnigramLattice(Pieces(proto), alpha=1.0)
    # ab: 1/4, a + b: 1/8. Of the pieces that end the word the longest stands first.
    assert lattice.segment("ab", lambda: 0.66) == [6]
    assert lattice.segment("ab", lambda: 0.67) == [4, 5]
    uniform = UnigramLattice(Pieces(proto), alpha=0.0)
    assert [uniform.segment("ab", lambda draw=draw: draw) for draw in (0.49, 0.51)] == [[6], [4, 5]]
    assert lattice.segment("axx", lambda: 0.5) == [4, UNK]
    assert lattice.segment("", lambda: 0.5) == []


def test_pieces_that_reach_into_the_next_word_are_drawn_too():
    proto = messages.ModelProto.FromString(trained(VocabularyType.unigram).model)
    proto.pieces.add(piece="▁low▁new", type=NORMAL, score=-1.0)
    proto.trainer_spec.vocab_size += 1
    vocabulary = Vocabulary(proto.SerializeToString())
    sampled = vocabulary.sample("low new", alpha=THE_BEST, nbest=-1, draw=lambda: 0.5)
    assert [vocabulary.piece(i) for i in sampled] == ["▁low▁new"]
    assert vocabulary.encode("low new") == sampled


def test_bytes_of_unknown_characters_stay_in_order(models):
    vocabulary = models["unigram, bytes"]
    proto = messages.ModelProto.FromString(vocabulary.model)
    (sampled,) = SubwordSampler(alpha=0.5).encode([(vocabulary, ["жö low"])], seed=1)
    spelt = [i for i in sampled[0] if proto.pieces[i].type == BYTE]
    assert [proto.pieces[i].piece for i in spelt] == ["<0xD0>", "<0xB6>", "<0xC3>", "<0xB6>"]
    assert vocabulary.decode(sampled[0]) == "жö low"


SCRIPT = """
import sys
from nmt.text.subword import SubwordSampler
from nmt.text.vocabulary import Vocabulary
for path in sys.argv[1:]:
    for nbest in (-1, 4):
        sampler = SubwordSampler(alpha=0.3, nbest=nbest)
        print(sampler.encode([(Vocabulary.load(path), ["lower newest wide"] * 20)], seed=7))
"""


def test_every_process_draws_the_same(models, tmp_path):
    paths = []
    for number, name in enumerate(("unigram", "bpe")):
        paths.append(str(tmp_path / f"{number}.model"))
        models[name].save(paths[-1])
    other = subprocess.run(
        [sys.executable, "-c", SCRIPT, *paths], capture_output=True, text=True, check=True, timeout=120
    )
    here = [
        SubwordSampler(alpha=0.3, nbest=nbest).encode([(models[name], ["lower newest wide"] * 20)], seed=7)
        for name, nbest in itertools.product(("unigram", "bpe"), (-1, 4))
    ]
    assert other.stdout.splitlines() == [repr(rows) for rows in here]
