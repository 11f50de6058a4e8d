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
    manifest = read_manifest(corpus_folder)
    manifest.write(tmp_path)
    assert (tmp_path / "corpus.json").read_bytes() == (corpus_folder / "corpus.json").read_bytes()


def test_what_it_says(content):
    assert content["splits"]["train"]["lines"] == 300
    assert content["splits"]["valid"]["lines"] == 20
    assert (content["source_language"], content["target_language"]) == ("en", "de")
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


@pytest.mark.parametrize("version", [0, 1, 3, "2", None])
def test_another_version(tmp_path, content, version):
    content["version"] = version
    message = rf"format version {version}, but this release reads 2; prepare it anew \(nmt-preprocess\)$"
    refused(tmp_path, content, message)


@pytest.mark.parametrize("name", ["..", "../outside", "/etc", "a/b", "", ".hidden", "a\\b", "..\\x"])
def test_names_of_splits_stay_in_the_folder(tmp_path, content, name):
    content["splits"][name] = content["splits"].pop("test")
    refused(tmp_path, content, "is not a valid name of a split")


@pytest.mark.parametrize("name", ["../../secret", "/etc/passwd", "x/../../y", "source.00000.ids"])
def test_names_of_files_stay_in_the_folder(tmp_path, content, name):
    files = content["splits"]["train"]["files"]
    files[name] = files.pop("source.ids")
    refused(tmp_path, content, "split 'train': unexpected or missing file")


def test_a_missing_file(tmp_path, content):
    del content["splits"]["train"]["files"]["target.text"]
    refused(tmp_path, content, r"split 'train': unexpected or missing file 'target\.text'")


def test_lines_that_do_not_fit_the_files(tmp_path, content):
    content["splits"]["train"]["lines"] += 1
    message = (
        r"split 'train' says 301 lines and \d+ tokens of the source, but 2408 bytes of source\.ids_offsets, "
        "which would be 2416"
    )
    refused(tmp_path, content, message)


@pytest.mark.parametrize("side", ["source", "target"])
def test_tokens_that_do_not_fit_the_files(tmp_path, content, side):
    content["splits"]["valid"]["tokens"][side] += 1
    refused(
        tmp_path, content, rf"split 'valid' says 20 lines and \d+ tokens of the {side}, but \d+ bytes of {side}\.ids"
    )


def test_the_digest_is_that_of_the_content(corpus_folder):
    def digest(change=None):
        manifest = read_manifest(corpus_folder)
        if change is not None:
            change(manifest)
        return manifest.digest

    def rename_inputs(manifest):
        for split in manifest.splits.values():
            for texts in split.inputs.values():
                texts[0].name += ".xz"

    assert digest(rename_inputs) == digest()
    others = [
        digest(lambda m: setattr(m, "target_language", "nl")),
        digest(lambda m: m.settings.update(clean=None)),
        digest(lambda m: setattr(m.vocabulary, "digest", "")),
        digest(lambda m: setattr(m.splits["valid"].files["source.ids"], "sha256", "")),
        digest(lambda m: setattr(m.splits["valid"].files["target.text"], "sha256", "")),
        digest(lambda m: m.splits.pop("test")),
    ]
    assert len({digest(), *others}) == 7


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
    content["splits"]["train"]["files"]["source.ids"]["bytes"] = value
    refused(tmp_path, content, rf"splits\.train\.files\.source\.ids\.bytes must be a int and not {value!r}")
