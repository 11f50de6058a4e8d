import json
import os
import pickle
import shutil

import numpy as np
import pytest

from nmt.config import ConfigError, DataError
from nmt.data import corpus as corpus_module
from nmt.data.corpus import Corpus


def lines_of(raw, name, language):
    return (raw / f"{name}.{language}").read_text(encoding="utf-8").split("\n")[:-1]


@pytest.fixture
def copy(corpus_folder, tmp_path):
    """A corpus that a test may damage."""
    return shutil.copytree(corpus_folder, tmp_path / "copy")


def test_what_a_corpus_says(corpus):
    assert (corpus.source_language, corpus.target_language) == ("en", "de")
    assert corpus.splits == ["train", "valid", "test"]
    assert [len(corpus.split(name)) for name in corpus.splits] == [300, 20, 25]
    assert corpus.vocabularies.joint
    assert len(corpus.vocabularies.source) == 24
    assert corpus.split("train") is corpus.split("train")


@pytest.mark.parametrize("name", ["train", "valid", "test"])
def test_text_and_ids_come_back(corpus, raw, name):
    split, vocabularies = corpus.split(name), corpus.vocabularies
    source, target = lines_of(raw, name, "en"), lines_of(raw, name, "de")
    assert split.source_texts() == source
    assert split.target_texts() == target
    for i in range(len(split)):
        assert split.source_ids(i).tolist() == vocabularies.source.encode(source[i])
        assert split.target_ids(i).tolist() == vocabularies.target.encode(target[i])
        assert split.source_text(i) == source[i]
        assert split.target_text(i) == target[i]
    assert split.source_lengths.tolist() == [len(ids) for ids in vocabularies.source.encode_batch(source)]
    assert split.target_lengths.tolist() == [len(ids) for ids in vocabularies.target.encode_batch(target)]
    assert split.source_lengths.dtype == split.target_lengths.dtype == np.int32


@pytest.mark.parametrize("lines", [[0, 69, 70, 139, 140, 299], [299, 3, 150, 3], [75], []])
def test_gathering_equals_reading_line_by_line(corpus, lines):
    split = corpus.split("train")
    flat, lengths = split.gather("target", np.array(lines, dtype=np.int64))
    assert flat.tolist() == [token for i in lines for token in split.target_ids(i)]
    assert lengths.tolist() == [len(split.target_ids(i)) for i in lines]


@pytest.mark.parametrize("line", [-1, 300])
def test_lines_outside_of_the_split(corpus, line):
    split = corpus.split("train")
    for read in (split.source_text, split.source_ids, lambda i: split.gather("source", np.array([i]))):
        with pytest.raises(IndexError, match=f"line {line} of split 'train', which has 300"):
            read(line)
    with pytest.raises(IndexError, match="lines 5 to 300 of split 'train', which has 300"):
        split.gather("target", np.array([300, 5]))


def test_unknown_split(corpus):
    with pytest.raises(
        ConfigError, match=r"split=tets: .* valid options: train, valid, test \(did you mean 'test'\?\)"
    ):
        corpus.split("tets")


def test_a_split_can_be_sent_to_another_process(corpus):
    again = pickle.loads(pickle.dumps(corpus.split("train")))
    assert again.source_texts() == corpus.split("train").source_texts()


def test_not_a_corpus(tmp_path):
    for folder in (tmp_path, tmp_path / "none"):
        with pytest.raises(ConfigError, match=r"is not a corpus \(no corpus\.json in it\)"):
            Corpus.open(folder)


def test_a_split_takes_no_lengths_along_to_another_process(corpus):
    split = corpus.split("train")
    assert split.source_lengths is split.source_lengths
    assert len(pickle.dumps(split)) < 2000


def test_damage_is_found_when_a_split_is_opened(copy):
    path = copy / "train" / "target.text"
    path.write_bytes(path.read_bytes()[:-3])
    with pytest.raises(DataError, match=r"target\.text: \d+ bytes, but corpus\.json says"):
        Corpus.open(copy).split("train")
    path.unlink()
    with pytest.raises(DataError, match=r"target\.text: missing file of the corpus"):
        Corpus.open(copy).split("train")


def test_one_split_is_read_without_the_others(copy, corpus):
    shutil.rmtree(copy / "train")
    assert Corpus.open(copy).split("test").target_texts() == corpus.split("test").target_texts()


@pytest.mark.skipif(not os.path.isdir("/proc/self/fd"), reason="no /proc here")
def test_the_number_of_open_files_does_not_depend_on_the_number_of_lines(corpus_folder):
    before = len(os.listdir("/proc/self/fd"))
    corpus = Corpus.open(corpus_folder)
    opened = []
    for name in ("train", "valid"):  # of 300 and of 20 lines
        corpus.split(name).source_texts()
        opened.append(len(os.listdir("/proc/self/fd")) - before)
    assert opened[1] == 2 * opened[0] <= 16


def test_files_of_another_split_are_refused(copy):
    for kind in ("ids", "ids_offsets", "text", "text_offsets"):
        shutil.copy(copy / "valid" / f"source.{kind}", copy / "train" / f"source.{kind}")
    with pytest.raises(DataError, match=r"source\.ids: \d+ bytes, but corpus\.json says"):
        Corpus.open(copy).split("train")


def test_another_vocabulary_is_refused(copy, prepare, raw, tmp_path):
    texts = {name: str(raw / name) for name in ("train", "valid")}
    prepare(**texts, out=str(tmp_path / "other"), vocab_size=22)
    shutil.copy(tmp_path / "other" / "sentencepiece.model", copy)
    with pytest.raises(DataError, match=r"sentencepiece\.model: not the vocabulary that this corpus was prepared with"):
        Corpus.open(copy)


def test_a_missing_vocabulary_is_named(copy):
    (copy / "sentencepiece.model").unlink()
    with pytest.raises(DataError, match="no vocabulary here"):
        Corpus.open(copy)


def test_a_vocabulary_of_the_other_kind_is_refused(copy):
    model = (copy / "sentencepiece.model").rename(copy / "sentencepiece.source.model")
    shutil.copy(model, copy / "sentencepiece.target.model")
    with pytest.raises(DataError, match=r"corpus\.json: says joint=True, but the model files differ"):
        Corpus.open(copy)


@pytest.mark.parametrize("kind", ["ids", "ids_offsets", "text", "text_offsets"])
def test_a_changed_byte_is_found_in_the_split_that_is_read(copy, kind):
    path = copy / "test" / f"source.{kind}"
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(bytes(content))
    message = rf"source\.{kind}: (damaged \(its content is not what corpus\.json says\)|does not fit)"
    with pytest.raises(DataError, match=message):
        Corpus.open(copy).split("test")
    Corpus.open(copy).split("train")
    if not kind.endswith("offsets"):  # the last offset is looked at anyhow
        Corpus.open(copy, verify=False).split("test")


def test_a_split_is_verified_once(copy, monkeypatch):
    seen = []
    plain = corpus_module.file_digest
    monkeypatch.setattr(corpus_module, "file_digest", lambda path, *a: seen.append(path.name) or plain(path, *a))
    corpus = Corpus.open(copy)
    assert seen == []
    for _ in range(2):
        corpus.split("test")
    assert len(seen) == len(set(seen)) == 8


def test_reversed_ids_are_found(copy):
    """Every line has its number of tokens, and every id is in the vocabulary: nothing but the hash shows it."""
    path = copy / "train" / "target.ids"
    np.fromfile(path, "<u2")[::-1].tofile(path)
    with pytest.raises(DataError, match=r"target\.ids: damaged \(its content is not what corpus\.json says\)"):
        Corpus.open(copy).split("train")
    Corpus.open(copy, verify=False).split("train").gather("target", np.arange(300))


def test_what_takes_long_is_said(corpus_folder, monkeypatch, caplog):
    monkeypatch.setattr(corpus_module, "SAID_FROM_BYTES", 1)
    with caplog.at_level("INFO"):
        Corpus.open(corpus_folder).split("train")
    assert caplog.messages == [f"{corpus_folder / 'train'}: comparing 0.0 GiB with their hashes"]


def test_interpolations_in_a_manifest_are_text(copy, monkeypatch):
    monkeypatch.setenv("NMT_TEST_SECRET", "secret")
    content = json.loads((copy / "corpus.json").read_text(encoding="utf-8"))
    content["source_language"] = "${oc.env:NMT_TEST_SECRET}"
    (copy / "corpus.json").write_text(json.dumps(content), encoding="utf-8")
    assert Corpus.open(copy).source_language == "${oc.env:NMT_TEST_SECRET}"
