import pickle

import numpy as np
import pytest
import sentencepiece

from nmt.config import DataError
from nmt.text.subword import VocabularyTraining, train_vocabulary
from nmt.text.vocabulary import BOS, EOS, PAD, UNK, Vocabulary, VocabularyPair

LINES = ["the cat sat on the mat", "a dog ran to the cat", "the dog sat", "a mat on a mat"]
SIZE = 20


@pytest.fixture(scope="module")
def vocabulary() -> Vocabulary:
    return train_vocabulary(LINES, VocabularyTraining(size=SIZE))


@pytest.fixture(scope="module")
def other() -> Vocabulary:
    return train_vocabulary(LINES, VocabularyTraining(size=SIZE + 1))


def test_special_ids_are_the_first_four(vocabulary):
    assert (PAD, BOS, EOS, UNK) == (0, 1, 2, 3)
    assert [vocabulary.piece(i) for i in range(4)] == ["<pad>", "<s>", "</s>", "<unk>"]
    assert len(vocabulary) == SIZE


@pytest.mark.parametrize("line", LINES)
def test_decoding_gives_the_text_back(vocabulary, line):
    ids = vocabulary.encode(line)
    assert min(ids) > UNK
    assert vocabulary.decode(ids) == line


def test_encoding_adds_no_special_ids_even_if_the_text_spells_them(vocabulary):
    assert not {PAD, BOS, EOS} & set(vocabulary.encode("</s> <s> <pad> the cat"))
    assert vocabulary.encode("") == []


def test_decoding_drops_pad_bos_eos_anywhere_and_shows_unknowns(vocabulary):
    cat, dog = vocabulary.encode("the cat"), vocabulary.encode("dog")
    assert vocabulary.decode([BOS, *cat, EOS, PAD, *dog, EOS, PAD, PAD]) == "the cat dog"
    assert vocabulary.decode(np.array([PAD, EOS])) == ""
    assert vocabulary.decode([]) == ""
    assert "⁇" in vocabulary.decode([*cat, UNK])
    assert UNK in vocabulary.encode("the ж")


def test_decoding_takes_arrays(vocabulary):
    assert vocabulary.decode(np.array(vocabulary.encode("the cat"), dtype=np.uint16)) == "the cat"


@pytest.mark.parametrize("wrong", [-1, SIZE])
def test_decoding_refuses_ids_outside_of_the_vocabulary(vocabulary, wrong):
    with pytest.raises(ValueError, match=f"id {wrong} is not in the vocabulary of 20 pieces"):
        vocabulary.decode([4, wrong])


def test_batches_agree_with_single_lines(vocabulary):
    lines = [*LINES, "", "the"]
    ids = vocabulary.encode_batch(lines)
    assert ids == [vocabulary.encode(line) for line in lines]
    assert vocabulary.decode_batch(ids) == lines
    assert vocabulary.encode_batch([]) == []


def test_pieces_spell_the_line(vocabulary):
    pieces = vocabulary.pieces("the cat")
    assert "".join(pieces) == "▁the▁cat"
    assert [vocabulary.piece(i) for i in vocabulary.encode("the cat")] == pieces


def test_saving_keeps_every_byte(vocabulary, tmp_path):
    vocabulary.save(tmp_path / "a.model")
    again = Vocabulary.load(tmp_path / "a.model")
    assert again.model == vocabulary.model
    assert again.digest == vocabulary.digest
    assert again == vocabulary
    assert [p.name for p in tmp_path.iterdir()] == ["a.model"]


def test_a_vocabulary_can_be_sent_to_another_process(vocabulary):
    again = pickle.loads(pickle.dumps(vocabulary))
    assert again.encode("the cat") == vocabulary.encode("the cat")


@pytest.mark.parametrize("content", [b"", b"not a model", b"\0" * 50, None])
def test_foreign_and_truncated_files_are_refused(vocabulary, tmp_path, content, capfd):
    path = tmp_path / "bad.model"
    path.write_bytes(vocabulary.model[:-20] if content is None else content)
    with pytest.raises(DataError, match=r"bad\.model: not a sentencepiece model"):
        Vocabulary.load(path)
    assert capfd.readouterr().err == ""


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(DataError, match=r"none\.model: cannot be read \(No such file"):
        Vocabulary.load(tmp_path / "none.model")


def test_other_special_ids_are_refused(tmp_path):
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(LINES), model_prefix=str(tmp_path / "default"), vocab_size=SIZE, minloglevel=2
    )
    with pytest.raises(DataError, match=r"default\.model: its special ids are .*'unk': 0.* are needed"):
        Vocabulary.load(tmp_path / "default.model")


def test_a_joint_pair_is_one_file(vocabulary, tmp_path):
    VocabularyPair.shared(vocabulary).save(tmp_path)
    assert [p.name for p in tmp_path.iterdir()] == ["sentencepiece.model"]
    pair = VocabularyPair.load(tmp_path)
    assert pair.joint
    assert pair.source is pair.target
    assert pair.digest == VocabularyPair.shared(vocabulary).digest


def test_a_separate_pair_is_two_files(vocabulary, other, tmp_path):
    VocabularyPair(vocabulary, other, joint=False).save(tmp_path)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["sentencepiece.source.model", "sentencepiece.target.model"]
    pair = VocabularyPair.load(tmp_path)
    assert not pair.joint
    assert (pair.source, pair.target) == (vocabulary, other)


def test_digests_tell_pairs_apart(vocabulary, other):
    pairs = [
        VocabularyPair.shared(vocabulary),
        VocabularyPair.shared(other),
        VocabularyPair(vocabulary, other, joint=False),
        VocabularyPair(other, vocabulary, joint=False),
    ]
    assert len({pair.digest for pair in pairs}) == 4


def test_a_folder_without_vocabulary_is_refused(vocabulary, tmp_path):
    vocabulary.save(tmp_path / "sentencepiece.source.model")
    with pytest.raises(DataError, match=r"no vocabulary here: neither sentencepiece\.model nor"):
        VocabularyPair.load(tmp_path)
