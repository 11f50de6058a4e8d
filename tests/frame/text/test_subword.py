import math
import random
from collections import Counter

import pytest
import sentencepiece
from hypothesis import given, settings
from hypothesis import strategies as st

from nmt.config import ConfigError
from nmt.text.subword import Normalisation, SubwordSampler, VocabularyTraining, VocabularyType, train_vocabulary
from nmt.text.vocabulary import UNK, Vocabulary

WORDS = ["lower", "lowest", "newer", "newest", "wider", "widest", "low", "new", "wide"]
SIZE = 24


def lines(number: int = 200) -> list[str]:
    rng = random.Random(0)
    return [" ".join(rng.choices(WORDS, k=rng.randint(2, 7))) for _ in range(number)]


@pytest.fixture(scope="module")
def unigram() -> Vocabulary:
    return train_vocabulary(lines(), VocabularyTraining(size=SIZE))


@pytest.fixture(scope="module")
def bpe() -> Vocabulary:
    return train_vocabulary(lines(), VocabularyTraining(size=SIZE, kind=VocabularyType.bpe))


@pytest.mark.parametrize("kind", VocabularyType)
def test_the_same_lines_give_the_same_bytes(kind):
    training = VocabularyTraining(size=10 if kind is VocabularyType.word else SIZE, kind=kind)
    assert train_vocabulary(lines(), training).model == train_vocabulary(iter(lines()), training).model


def test_the_first_merge_of_bpe_is_the_most_frequent_pair():
    # "ab" occurs 8 times, every other pair of neighbours less often.
    vocabulary = train_vocabulary(["abc", "abd"] * 4, VocabularyTraining(size=10, kind=VocabularyType.bpe))
    assert vocabulary.piece(4) == "ab"


@pytest.mark.parametrize("kind", VocabularyType)
def test_a_size_that_is_too_large_gives_what_the_text_supports_and_a_note(kind, caplog):
    vocabulary = train_vocabulary(lines(), VocabularyTraining(size=5000, kind=kind))
    pieces = len(vocabulary)
    assert [r.getMessage() for r in caplog.records] == [
        f"vocab_size=5000 is more than this text supports: the vocabulary has {pieces} pieces"
    ]
    assert train_vocabulary(lines(), VocabularyTraining(size=4000, kind=kind)) == vocabulary
    caplog.clear()
    assert len(train_vocabulary(lines(), VocabularyTraining(size=pieces, kind=kind))) == pieces
    assert not caplog.records


def test_of_words_every_one_is_what_the_text_supports():
    vocabulary = train_vocabulary(lines(), VocabularyTraining(size=5000, kind=VocabularyType.word))
    assert sorted(vocabulary.piece(i) for i in range(4, len(vocabulary))) == sorted(f"▁{word}" for word in WORDS)


def test_a_size_that_is_too_small_is_answered_with_the_smallest():
    # 4 special pieces, and the characters of WORDS with the mark of a space: ▁ l o w e r s t n i d
    with pytest.raises(
        ConfigError, match="vocab_size=8 is too small for the text of en: its characters need at least 15"
    ):
        train_vocabulary(lines(), VocabularyTraining(size=8), text="the text of en")


@pytest.mark.parametrize("text", [[], ["", ""], [" ", "   "]])
def test_no_text_is_refused(text):
    with pytest.raises(ConfigError, match="nothing to train a vocabulary on: this text has no lines"):
        train_vocabulary(text, VocabularyTraining(size=30))


def test_byte_fallback_leaves_nothing_unknown():
    plain = train_vocabulary(lines(), VocabularyTraining(size=SIZE))
    bytewise = train_vocabulary(lines(), VocabularyTraining(size=SIZE + 256, byte_fallback=True))
    assert UNK in plain.encode("low ж")
    assert UNK not in bytewise.encode("low ж")
    assert bytewise.decode(bytewise.encode("low ж")) == "low ж"


@pytest.fixture(scope="module")
def reversible() -> Vocabulary:
    training = VocabularyTraining(size=SIZE + 256, byte_fallback=True, normalisation=Normalisation.identity)
    return train_vocabulary(lines(), training)


@settings(max_examples=200)
@given(line=st.text(alphabet=st.characters(exclude_categories=["Cs"], exclude_characters="\n▁")))
def test_identity_and_byte_fallback_give_every_line_back(reversible, line):
    assert reversible.decode(reversible.encode(line)) == line


def test_case_folding_normalisation():
    vocabulary = train_vocabulary(lines(), VocabularyTraining(size=SIZE, normalisation=Normalisation.nmt_nfkc_cf))
    assert vocabulary.encode("LOWER") == vocabulary.encode("lower")


@pytest.mark.parametrize("name", ["unigram", "bpe"])
def test_sampling_depends_on_the_seed_alone(name, request):
    vocabulary = request.getfixturevalue(name)
    sampler, text = SubwordSampler(alpha=0.3), lines(30)
    first = sampler.encode([(vocabulary, text)], seed=7)
    sampler.encode([(vocabulary, text[:3])], seed=8)
    assert sampler.encode([(vocabulary, text)], seed=7) == first
    assert sampler.encode([(vocabulary, text)], seed=8) != first
    assert first[0] != [vocabulary.encode(line) for line in text]


@pytest.mark.parametrize("name", ["unigram", "bpe"])
def test_samples_spell_the_same_text(name, request):
    vocabulary = request.getfixturevalue(name)
    (sampled,) = SubwordSampler(alpha=0.5).encode([(vocabulary, lines(30))], seed=3)
    assert vocabulary.decode_batch(sampled) == lines(30)


def test_bpe_dropout_at_one_leaves_characters_and_at_zero_changes_nothing(bpe):
    (characters,) = SubwordSampler(alpha=1.0).encode([(bpe, ["new low"])], seed=1)
    assert [bpe.piece(i) for i in characters[0]] == ["▁", "n", "e", "w", "▁", "l", "o", "w"]
    (usual,) = SubwordSampler(alpha=0.0).encode([(bpe, lines(20))], seed=1)
    assert usual == [bpe.encode(line) for line in lines(20)]


def test_unigram_samples_follow_the_smoothed_probabilities(unigram):
    processor = sentencepiece.SentencePieceProcessor(model_proto=unigram.model)
    best_two = processor.nbest_encode("newest", nbest_size=2)
    scores = [sum(processor.get_score(i) for i in ids) for ids in best_two]  # log probabilities
    alpha = 0.4
    expected = 1 / (1 + math.exp(alpha * (scores[1] - scores[0])))  # p1^a / (p1^a + p2^a)
    (sampled,) = SubwordSampler(alpha=alpha, nbest=2).encode([(unigram, ["newest"] * 4000)], seed=5)
    counts = Counter(map(tuple, sampled))
    assert set(counts) == set(map(tuple, best_two))
    assert counts[tuple(best_two[0])] / 4000 == pytest.approx(expected, abs=0.03)


def test_both_sides_are_sampled_in_their_own_vocabulary(unigram, bpe):
    source, target = SubwordSampler(alpha=0.2).encode([(unigram, ["new low"]), (bpe, ["wide", ""])], seed=2)
    assert unigram.decode_batch(source) == ["new low"]
    assert bpe.decode_batch(target) == ["wide", ""]


@pytest.mark.parametrize("nbest", [-2, 0, 1, 513])
def test_nbest_out_of_range(nbest):
    with pytest.raises(ConfigError, match=rf"subword\.nbest={nbest} is out of range: it must be -1 \(all\) or from 2"):
        SubwordSampler(alpha=0.1, nbest=nbest)
