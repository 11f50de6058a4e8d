import json
from copy import deepcopy

import pytest

from nmt.config import ConfigError, DataError
from nmt.data.manifest import read_manifest


@pytest.fixture
def content(corpus_folder):
    return deepcopy(json.loads((corpus_folder / "corpus.json").read_text(encoding="utf-8")))


def refused(tmp_path, content, message, error=DataError):
    text = content if isinstance(content, str) else json.dumps(content)
    (tmp_path / "corpus.json").write_text(text, encoding="utf-8")
    with pytest.raises(error, match=message) as caught:
        read_manifest(tmp_path)
    assert "\n" not in str(caught.value)
    assert "corpus.json" in str(caught.value)


def test_a_manifest_comes_back_as_it_was_written(corpus_folder, tmp_path):
    text, manifest = read_manifest(corpus_folder)
    manifest.write(tmp_path)
    assert (tmp_path / "corpus.json").read_bytes() == text


def test_what_it_says(content):
    assert content["splits"]["train"]["lines"] == 300
    assert content["splits"]["valid"]["lines"] == 20
    assert (content["source_language"], content["target_language"]) == ("en", "de")
    assert [shard["lines"] for shard in content["splits"]["train"]["shards"]] == [70, 70, 70, 70, 20]
    assert list(content["splits"]) == ["train", "valid", "test"]


def test_no_manifest(tmp_path):
    with pytest.raises(ConfigError, match=r"is not a corpus \(no corpus\.json in it\); nmt-preprocess writes one"):
        read_manifest(tmp_path)


@pytest.mark.parametrize("text", ["", "{", "not json", '{"format": "nmt-corpus", '])
def test_broken_json(tmp_path, text):
    refused(tmp_path, text, "not JSON")


@pytest.mark.parametrize("text", ["[]", "3", "{}", '{"format": "other", "version": 1}'])
def test_foreign_json(tmp_path, text):
    refused(tmp_path, text, "not a corpus of this toolkit")


@pytest.mark.parametrize("version", [0, 2, "1", None])
def test_another_version(tmp_path, content, version):
    content["version"] = version
    refused(tmp_path, content, f"format version {version}, but this release reads 1")


@pytest.mark.parametrize("name", ["..", "../outside", "/etc", "a/b", "", ".hidden", "a\\b", "..\\x"])
def test_names_of_splits_stay_in_the_folder(tmp_path, content, name):
    content["splits"][name] = content["splits"].pop("test")
    refused(tmp_path, content, "is not a valid name of a split")


@pytest.mark.parametrize("name", ["../../secret.npy", "/etc/passwd", "x/../../y.npy", "source.00001.ids.npy"])
def test_names_of_shards_stay_in_the_folder(tmp_path, content, name):
    files = content["splits"]["train"]["shards"][0]["files"]
    files[name] = files.pop("source.00000.ids.npy")
    refused(tmp_path, content, "split 'train', shard 0: unexpected or missing file")


def test_a_missing_shard_file(tmp_path, content):
    del content["splits"]["train"]["shards"][2]["files"]["target.00002.text.npy"]
    refused(tmp_path, content, r"shard 2: unexpected or missing file 'target\.00002\.text\.npy'")


def test_lines_that_do_not_add_up(tmp_path, content):
    content["splits"]["train"]["lines"] += 1
    refused(tmp_path, content, "split 'train' says 301 lines, but its shards hold another number")


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("source_language", 3, "source_language must be a str and not 3"),
        ("splits", [], r"splits must be a .* and not \[\]"),
        ("splits", {"train": 1}, r"splits\.train must hold exactly the keys lines, tokens"),
        ("vocabulary", {}, "vocabulary must hold exactly the keys joint, sizes"),
        ("extra", 1, "the top must hold exactly the keys format, version"),
    ],
)
def test_wrong_types_name_the_key(tmp_path, content, key, value, message):
    content[key] = value
    refused(tmp_path, content, message)


@pytest.mark.parametrize("value", [-1, 1.5, "3", True, None])
def test_counts_are_whole_numbers(tmp_path, content, value):
    content["splits"]["train"]["shards"][0]["lines"] = value
    refused(tmp_path, content, rf"splits\.train\.shards\[0\]\.lines must be a int and not {value!r}")
