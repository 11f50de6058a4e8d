"""Text comes back from any vocabulary: every character of Unicode, with the exceptions that docs/data.md names."""

import logging
import random

import pytest
import sentencepiece
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from nmt.config import ConfigError, DataError
from nmt.text.subword import Normalisation, SubwordSampler, VocabularyTraining, VocabularyType, train_vocabulary
from nmt.text.vocabulary import UNK, Vocabulary

SPECIAL_WORDS = ["<s>", "</s>", "<pad>", "<unk>", "<0x41>", "\u2585", "\u001f", "\U0010fffd", "⁇", "＜s＞"]
EXCEPTIONS = "\n\0\u2581"  # a line feed ends a line; the others have their own tests
PLANE = 0x10000
PER_LINE = 64

NORMALISATIONS = [Normalisation.identity, Normalisation.nmt_nfkc]
COMMON = [0, 1]  # planes that every kind of vocabulary is tested on in the fast tests


@pytest.fixture(autouse=True)
def _no_notes_on_sizes(caplog):
    caplog.set_level(logging.ERROR)


NORMALISERS = {
    n: sentencepiece.SentencePieceNormalizer(
        rule_name=n.value,
        add_dummy_prefix=False,
        escape_whitespaces=False,
        remove_extra_whitespaces=n is not Normalisation.identity,
    )
    for n in NORMALISATIONS
}


def normalised(line: str, normalisation: Normalisation) -> str:
    """What the documented normalisation makes of a line."""
    return NORMALISERS[normalisation].normalize(line)


def train(lines: list[str], **values) -> Vocabulary:
    return train_vocabulary(lines, VocabularyTraining(**{"size": PLANE + 500, "character_coverage": 1.0, **values}))


def assert_comes_back(vocabulary: Vocabulary, lines: list[str], normalisation: Normalisation) -> None:
    encoded = vocabulary.encode_batch(lines)
    for line, ids in zip(lines, encoded):
        assert vocabulary.decode(ids) == normalised(line, normalisation), [hex(ord(c)) for c in line]
        assert min(ids, default=UNK + 1) > UNK, line


# --- every character --------------------------------------------------------------------------------------------------


def plane(number: int) -> list[str]:
    """All characters of a plane, in lines."""
    codes = range(number * PLANE, (number + 1) * PLANE)
    characters = [chr(code) for code in codes if not 0xD800 <= code < 0xE000 and chr(code) not in EXCEPTIONS]
    lines = [characters[start : start + PER_LINE] for start in range(0, len(characters), PER_LINE)]
    return ["|".join(line) for line in lines]


def slow_beyond(cases: list[tuple[int, VocabularyType, Normalisation]]) -> list:
    fast = [c for c in cases if c[0] in COMMON or c[1:] == (VocabularyType.word, Normalisation.identity)]
    return [pytest.param(*case, marks=() if case in fast else pytest.mark.slow) for case in cases]


@pytest.mark.parametrize(
    ("number", "kind", "normalisation"),
    slow_beyond([(p, k, n) for p in range(17) for k in VocabularyType for n in NORMALISATIONS]),
)
def test_every_character_of_the_training_text_comes_back(number, kind, normalisation):
    lines = plane(number)
    if kind is VocabularyType.word:  # characters that are spaces after normalisation stand between words
        lines = [line.replace("|", " x") for line in lines]
    assert_comes_back(train(lines, kind=kind, normalisation=normalisation), lines, normalisation)


@pytest.mark.parametrize("kind", [VocabularyType.unigram, VocabularyType.bpe])
@pytest.mark.parametrize("normalisation", NORMALISATIONS)
@pytest.mark.parametrize("number", [p if p in COMMON else pytest.param(p, marks=pytest.mark.slow) for p in range(17)])
def test_bytes_spell_every_character(number, kind, normalisation):
    vocabulary = train(["a b c"] * 5, kind=kind, normalisation=normalisation, byte_fallback=True)
    assert_comes_back(vocabulary, plane(number), normalisation)


# --- every text -------------------------------------------------------------------------------------------------------

texts = st.lists(
    st.one_of(
        st.sampled_from([*SPECIAL_WORDS, " ", "  ", "a"]),
        st.text(st.characters(exclude_categories=["Cs"], exclude_characters=EXCEPTIONS), max_size=8),
    ),
    max_size=12,
).map("".join)


@settings(max_examples=60, deadline=None)
@given(lines=st.lists(texts, min_size=1, max_size=4))
@pytest.mark.parametrize("kind", VocabularyType)
@pytest.mark.parametrize("normalisation", NORMALISATIONS)
def test_the_training_text_comes_back(kind, normalisation, lines):
    assume(any(normalised(line, normalisation).strip(" ") for line in lines))
    assert_comes_back(train(lines, kind=kind, normalisation=normalisation), lines, normalisation)


@pytest.fixture(scope="module")
def of_bytes() -> dict[Normalisation, Vocabulary]:
    return {n: train(["a b c <s>"] * 5, normalisation=n, byte_fallback=True) for n in NORMALISATIONS}


@settings(max_examples=200, deadline=None)
@given(line=texts)
@pytest.mark.parametrize("normalisation", NORMALISATIONS)
def test_any_text_comes_back_from_bytes(of_bytes, normalisation, line):
    assert_comes_back(of_bytes[normalisation], [line], normalisation)


# --- the names of special pieces --------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", VocabularyType)
@pytest.mark.parametrize("word", SPECIAL_WORDS)
def test_special_words_in_the_text_are_text(kind, word):
    lines = [f"{word} low {word}", f"new{word}low", word] * 20
    vocabulary = train(lines, kind=kind)
    assert_comes_back(vocabulary, lines, Normalisation.nmt_nfkc)
    assert [vocabulary.piece(i) for i in range(4)] == ["<pad>", "<s>", "</s>", "<unk>"]
    if kind is not VocabularyType.word:
        (sampled,) = SubwordSampler(alpha=0.5).encode([(vocabulary, lines)], seed=1)
        assert vocabulary.decode_batch(sampled) == [normalised(line, Normalisation.nmt_nfkc) for line in lines]
        assert min((i for ids in sampled for i in ids), default=UNK + 1) > UNK


def test_private_characters_of_the_text_are_not_taken_for_marks():
    lines = ["\U0010fffd\u2585", "\U0010fffc\u001f"] * 3
    vocabulary = train(lines, normalisation=Normalisation.identity)
    assert_comes_back(vocabulary, lines, Normalisation.identity)


def test_ordinary_text_makes_the_same_vocabulary_as_the_trainer_alone(tmp_path):
    lines = ["low new", "lower newer", "lowest newest wide", "wider low"] * 8
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(lines),
        model_prefix=str(tmp_path / "plain"),
        vocab_size=20,
        character_coverage=1.0,
        normalization_rule_name="nmt_nfkc",
        remove_extra_whitespaces=True,
        max_sentence_length=16384,
        pad_id=0,
        bos_id=1,
        eos_id=2,
        unk_id=3,
        num_threads=4,
        minloglevel=2,
    )
    plain = sentencepiece.SentencePieceProcessor(model_file=str(tmp_path / "plain.model"))
    vocabulary = train(lines, size=20)
    pieces = [(plain.id_to_piece(i), plain.get_score(i)) for i in range(20)]
    ours = sentencepiece.SentencePieceProcessor(model_proto=vocabulary.model)
    assert [(ours.id_to_piece(i), ours.get_score(i)) for i in range(len(vocabulary))] == pieces


@pytest.mark.parametrize("kind", VocabularyType)
def test_lines_that_the_trainer_finds_too_long_count_too(kind):
    words = [f"w{i}" for i in range(4000)]
    lines = ["ж " + " ".join(words), "ö" * 20000]
    assert_comes_back(train(lines[:1], kind=kind), lines[:1], Normalisation.nmt_nfkc)
    if kind is not VocabularyType.word:  # a word of that length is cut
        assert_comes_back(train(lines, kind=kind), lines, Normalisation.nmt_nfkc)


# --- the exceptions ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", [VocabularyType.unigram, VocabularyType.bpe])
def test_nul_is_unknown_unless_bytes_spell_it(kind):
    lines = ["low \0 new", "low new"] * 5
    plain, bytewise = train(lines, kind=kind), train(lines, kind=kind, byte_fallback=True)
    assert UNK in plain.encode(lines[0])
    assert plain.decode(plain.encode(lines[0])) == "low  ⁇  new"
    assert bytewise.decode(bytewise.encode(lines[0])) == lines[0]


@pytest.mark.parametrize("byte_fallback", [False, True])
def test_the_mark_of_a_space_becomes_a_space(byte_fallback):
    vocabulary = train(["low▁new low"] * 5, normalisation=Normalisation.identity, byte_fallback=byte_fallback)
    assert vocabulary.decode(vocabulary.encode("low▁new low")) == "low new low"


def test_characters_beyond_the_training_text_are_unknown():
    vocabulary = train(["low new"] * 5)
    assert vocabulary.decode(vocabulary.encode("low ж")) == "low  ⁇ "


def test_text_of_nul_alone_is_refused():
    with pytest.raises(ConfigError, match="nothing to train a vocabulary on: no character of this text can be a piece"):
        train(["\0"], kind=VocabularyType.word)


def test_half_a_surrogate_pair_is_no_character(of_bytes):
    vocabulary = of_bytes[Normalisation.identity]
    message = r"U\+D83D cannot be encoded: half of a surrogate pair is no character"
    for encode in (vocabulary.encode, vocabulary.pieces, lambda line: vocabulary.encode_batch(["a", line])):
        with pytest.raises(DataError, match=message):
            encode("a\ud83d")
    with pytest.raises(DataError, match=message):
        vocabulary.sample("\ud83d", alpha=0.1, nbest=-1, draw=random.random)
