import hashlib
import json
import pickle
import shutil

import numpy as np
import pytest

from nmt.config import ConfigError, DataError
from nmt.data.corpus import Corpus


def lines_of(raw, name, language):
    return (raw / f"{name}.{language}").read_text(encoding="utf-8").split("\n")[:-1]


@pytest.fixture
def copy(corpus_folder, tmp_path):
    """A corpus that a test may damage."""
    return shutil.copytree(corpus_folder, tmp_path / "copy")


def test_what_a_corpus_says(corpus, corpus_folder):
    assert (corpus.source_language, corpus.target_language) == ("en", "de")
    assert corpus.splits == ["train", "valid", "test"]
    assert [len(corpus.split(name)) for name in corpus.splits] == [300, 20, 25]
    assert corpus.digest == hashlib.sha256((corpus_folder / "corpus.json").read_bytes()).hexdigest()
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
def test_gathering_goes_across_shards(corpus, lines):
    split = corpus.split("train")
    flat, lengths = split.gather("target", np.array(lines, dtype=np.int64))
    assert flat.tolist() == [token for i in lines for token in split.target_ids(i)]
    assert lengths.tolist() == [len(split.target_ids(i)) for i in lines]


@pytest.mark.parametrize("line", [-1, 300])
def test_lines_outside_of_the_split(corpus, line):
    with pytest.raises(IndexError, match=f"line {line} of split 'train', which has 300"):
        corpus.split("train").source_text(line)


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


def test_damage_is_found_when_opening(copy):
    path = copy / "train" / "target.00002.text.npy"
    path.write_bytes(path.read_bytes()[:-3])
    with pytest.raises(DataError, match=r"target\.00002\.text\.npy: \d+ bytes, but corpus\.json says"):
        Corpus.open(copy)
    path.unlink()
    with pytest.raises(DataError, match=r"target\.00002\.text\.npy: missing file of the corpus"):
        Corpus.open(copy)


def test_shards_of_another_split_are_refused(copy):
    for kind in ("ids", "ids_offsets", "text", "text_offsets"):
        shutil.copy(copy / "train" / f"source.00001.{kind}.npy", copy / "train" / f"source.00004.{kind}.npy")
    with pytest.raises(DataError, match=r"source\.00004\.ids\.npy"):
        Corpus.open(copy)


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


def test_verify_finds_a_changed_byte_that_sizes_hide(copy):
    Corpus.open(copy).verify()
    path = copy / "test" / "source.00000.ids.npy"
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(bytes(content))
    corpus = Corpus.open(copy)
    with pytest.raises(
        DataError, match=r"source\.00000\.ids\.npy: damaged \(its content is not what corpus\.json says"
    ):
        corpus.verify()


def test_interpolations_in_a_manifest_are_text(copy, monkeypatch):
    monkeypatch.setenv("NMT_TEST_SECRET", "secret")
    content = json.loads((copy / "corpus.json").read_text(encoding="utf-8"))
    content["source_language"] = "${oc.env:NMT_TEST_SECRET}"
    (copy / "corpus.json").write_text(json.dumps(content), encoding="utf-8")
    assert Corpus.open(copy).source_language == "${oc.env:NMT_TEST_SECRET}"
