"""Corpora of one language, and vocabularies of whole words."""

from __future__ import annotations

from pathlib import Path

import pytest

from nmt.config import ConfigError, DataError, compose, parse_options
from nmt.data.corpus import Corpus
from nmt.data.iteration import TrainBatches, evaluation_batches
from nmt.data.options import BatchOptions
from nmt.data.prepare import PreprocessOptions, prepare_corpus
from nmt.data.report import report
from nmt.text.subword import VocabularyTraining, VocabularyType, train_vocabulary
from nmt.text.vocabulary import EOS, UNK

LINES = ["the cat sat .", "a cat , the cat", "the dog", "", "a very long line of words"]


@pytest.fixture
def prepare(tmp_path: Path):
    for name, lines in (("train", LINES), ("valid", ["the zebra saw giraffes", "", "a cat"])):
        (tmp_path / f"{name}.en").write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")

    def run(**options: object):
        values = {"target": "en", "train": tmp_path / "train", "valid": tmp_path / "valid", "out": tmp_path / "out"}
        values |= {"vocab_type": "word", "vocab_size": 16, **options}
        config = compose("preprocess", [f"{key}={value}" for key, value in values.items()])
        return prepare_corpus(parse_options(PreprocessOptions, config))

    return run


@pytest.mark.parametrize("workers", [1, 2])
def test_round_trip(prepare, workers: int) -> None:
    summary = prepare(workers=workers)
    corpus = Corpus.open(summary.folder)
    assert (corpus.parallel, corpus.source_language, corpus.target_language) == (False, None, "en")
    split = corpus.split("train")
    assert split.target_texts() == [line for line in LINES if line]  # cleaning drops the empty line
    assert split.source_texts() == [""] * 4
    assert split.source_lengths.tolist() == [0] * 4
    assert sorted(p.name.split(".")[0] for p in (summary.folder / "train").iterdir()) == ["target"] * 4
    vocabulary = corpus.vocabularies.target
    assert vocabulary.decode(split.target_ids(0)) == "the cat sat ."
    assert "16 pieces\n" in report(summary)
    assert "tokens en" in report(summary)


def test_every_unknown_word_is_one_unk(prepare) -> None:
    split = Corpus.open(prepare().folder).split("valid")
    assert split.target_lengths.tolist() == [4, 0, 2]
    assert split.target_ids(0).tolist()[1:] == [UNK] * 3


def test_batches_have_the_lines_as_targets_and_empty_sources(prepare) -> None:
    corpus = Corpus.open(prepare().folder)
    options = BatchOptions(max_tokens=16, max_sentences=None, max_length=5, workers=0)
    batches = TrainBatches([(corpus.split("train"), 1.0)], options, seed=1, vocabularies=corpus.vocabularies)
    assert batches.num_left_out == 1
    assert 0 <= batches.padding_share(1) < 0.5
    seen = []
    for batch in batches.epoch(1):
        assert batch.src_tokens.tolist() == [[EOS]] * len(batch)
        seen += [corpus.vocabularies.target.decode(row) for row in batch.target.tolist()]
    assert len(seen) == 3
    assert sum(b.num_tokens for b in evaluation_batches(corpus.split("valid"), options)) == 4 + 0 + 2 + 3


def test_vocabulary_of_two_sides_is_refused(prepare, make_corpus) -> None:
    with pytest.raises(ConfigError, match="has one vocabulary a side; text of one language"):
        prepare(vocabulary=make_corpus(20, joint="false", vocab_size=16))


def test_missing_file_of_the_only_side(prepare) -> None:
    folder = prepare().folder
    (folder / "train" / "target.ids").unlink()
    with pytest.raises(DataError, match="missing file of the corpus"):
        Corpus.open(folder).split("train")


def test_large_word_vocabulary_is_sorted_by_frequency() -> None:
    lines = [" ".join(f"w{i}" for i in range(start, 50_000, 1 + start)) for start in range(3)]
    lines = [" ".join(line.split()[i : i + 500]) for line in lines for i in range(0, 50_000, 500)]
    training = VocabularyTraining(size=50_004, kind=VocabularyType.word)
    vocabulary = train_vocabulary([line for line in lines if line], training)
    assert len(vocabulary) == 50_004
    ids = vocabulary.encode("w49999 w2 w31234 ?!")
    assert ids[-1] == UNK
    assert vocabulary.decode(ids[:-1]) == "w49999 w2 w31234"
    assert all(vocabulary.piece(i).startswith("▁") for i in range(4, len(vocabulary)))


def test_bytes_do_not_go_with_words(prepare) -> None:
    with pytest.raises(ConfigError, match="byte_fallback=true: vocab_type=word has no bytes"):
        prepare(byte_fallback="true")
