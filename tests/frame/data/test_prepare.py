import gzip
import hashlib
import json
import lzma

import numpy as np
import pytest

from nmt.config import ConfigError, DataError
from nmt.data import binarise
from nmt.data.binarise import REASONS, CleanOptions, chunked, encode_chunk, encode_stream, reasons_to_drop
from nmt.data.corpus import Corpus
from nmt.data.iteration import TrainBatches
from nmt.data.options import BatchOptions
from nmt.data.prepare import _sample
from nmt.data.report import report


def tree(folder):
    """Content of every file below a folder."""
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


def texts(raw, *names):
    return {name: str(raw / name) for name in names or ("train", "valid", "test")}


# --- what is written --------------------------------------------------------------------------------------------------


def test_the_manifest_counts(corpus, raw):
    entry = corpus.manifest.splits["train"]
    content = (raw / "train.en").read_bytes()
    assert (entry.lines, entry.read, entry.dropped) == (300, 300, {})
    assert entry.tokens.source == corpus.split("train").source_lengths.sum()
    assert entry.tokens.target == corpus.split("train").target_lengths.sum()
    assert (entry.unknown.source, entry.unknown_rate.source) == (0, 0.0)
    (text,) = entry.inputs["source"]
    assert (text.name, text.lines, text.sha256) == ("train.en", 300, hashlib.sha256(content).hexdigest())


def test_every_hash_is_that_of_its_file(corpus, corpus_folder):
    written = tree(corpus_folder)
    for name, split in corpus.manifest.splits.items():
        for file, stored in split.files.items():
            content = written.pop(f"{name}/{file}")
            assert (len(content), hashlib.sha256(content).hexdigest()) == (stored.bytes, stored.sha256)
    assert sorted(written) == ["corpus.json", "sentencepiece.model"]


def test_the_text_is_a_plain_text_file(raw, corpus_folder):
    for name in ("train", "valid", "test"):
        for side, language in (("source", "en"), ("target", "de")):
            assert (corpus_folder / name / f"{side}.text").read_bytes() == (raw / f"{name}.{language}").read_bytes()


@pytest.mark.parametrize("workers", [1, 2])
def test_the_same_input_gives_the_same_bytes(raw, corpus_folder, prepare, tmp_path, workers):
    prepare(**texts(raw), out=str(tmp_path / "again"), workers=workers)
    assert tree(tmp_path / "again") == tree(corpus_folder)


def test_chunks_do_not_show_in_the_result(raw, corpus_folder, prepare, tmp_path, monkeypatch):
    monkeypatch.setattr(binarise, "CHUNK_LINES", 7)
    prepare(**texts(raw), out=str(tmp_path / "again"))
    assert tree(tmp_path / "again") == tree(corpus_folder)


@pytest.mark.parametrize(("suffix", "module"), [("gz", gzip), ("xz", lzma)])
def test_compressed_text_gives_the_same_corpus(raw, corpus_folder, prepare, tmp_path, suffix, module):
    for name in ("train", "valid", "test"):
        for language in ("en", "de"):
            content = module.compress((raw / f"{name}.{language}").read_bytes())
            (tmp_path / f"{name}.{language}.{suffix}").write_bytes(content)
    prepare(**texts(tmp_path), out=str(tmp_path / "out"))
    again, first = tree(tmp_path / "out"), tree(corpus_folder)
    again_manifest, first_manifest = (json.loads(t.pop("corpus.json")) for t in (again, first))
    assert again == first
    assert again_manifest["splits"]["train"]["inputs"]["source"][0].pop("name") == f"train.en.{suffix}"
    first_input = first_manifest["splits"]["train"]["inputs"]["source"][0]
    first_input.pop("name")
    assert again_manifest["splits"]["train"]["inputs"]["source"][0] == first_input
    assert Corpus.open(tmp_path / "out").digest == Corpus.open(corpus_folder).digest


def test_separate_vocabularies(raw, prepare, tmp_path):
    summary = prepare(**texts(raw, "train", "valid"), out=str(tmp_path / "out"), joint=False)
    corpus = Corpus.open(tmp_path / "out")
    assert not corpus.vocabularies.joint
    assert corpus.vocabularies.source != corpus.vocabularies.target
    assert corpus.splits == ["train", "valid"]
    split = corpus.split("train")
    assert corpus.vocabularies.target.decode(split.target_ids(5)) == split.target_text(5)
    assert "24 pieces of en, 24 of de" in report(summary)


def test_several_training_texts_follow_each_other(raw, prepare, tmp_path):
    prepare(train=[str(raw / "train"), str(raw / "test")], valid=str(raw / "valid"), out=str(tmp_path / "out"))
    corpus = Corpus.open(tmp_path / "out")
    both = [(raw / f"{name}.en").read_text(encoding="utf-8").split("\n")[:-1] for name in ("train", "test")]
    assert corpus.split("train").source_texts() == both[0] + both[1]
    assert [text.lines for text in corpus.manifest.splits["train"].inputs["target"]] == [300, 25]


def test_names_of_test_sets(raw, prepare, tmp_path):
    train = texts(raw, "train", "valid")
    prepare(**train, test=[str(raw / "test"), str(raw / "valid")], out=str(tmp_path / "list"))
    corpus = Corpus.open(tmp_path / "list")
    assert corpus.splits == ["train", "valid", "test", "test1"]
    assert len(corpus.split("test1")) == 20
    prepare(**train, test={"news": str(raw / "test")}, out=str(tmp_path / "names"))
    assert Corpus.open(tmp_path / "names").splits == ["train", "valid", "news"]
    prepare(**train, test=None, out=str(tmp_path / "none"))
    assert Corpus.open(tmp_path / "none").splits == ["train", "valid"]


def test_a_vocabulary_can_be_reused(raw, corpus, corpus_folder, prepare, tmp_path):
    prepare(train=str(raw / "test"), valid=str(raw / "valid"), out=str(tmp_path / "out"), vocabulary=str(corpus_folder))
    other = Corpus.open(tmp_path / "out")
    assert other.vocabularies.digest == corpus.vocabularies.digest
    assert other.split("train").source_ids(3).tolist() == corpus.split("test").source_ids(3).tolist()
    assert other.manifest.settings["vocabulary"] == "reused"


# --- cleaning ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("source", "target", "reason"),
    [
        (5, 5, None),
        (0, 5, "empty"),
        (5, 0, "empty"),
        (0, 0, "empty"),
        (1, 5, "too_short"),
        (2, 4, None),
        (2, 5, "ratio"),
        (5, 2, "ratio"),
        (10, 10, None),
        (11, 10, "too_long"),
        (10, 11, "too_long"),
    ],
)
def test_reasons_to_drop(source, target, reason):
    clean = CleanOptions(min_length=2, max_length=10, max_ratio=2.0)
    assert (*REASONS, None)[reasons_to_drop(np.array(source), np.array(target), clean)] == reason


def test_limits_can_be_switched_off():
    clean = CleanOptions(min_length=1, max_length=None, max_ratio=None)
    assert reasons_to_drop(np.array([1]), np.array([10**6]), clean).tolist() == [len(REASONS)]


def test_only_training_pairs_are_dropped_and_counted(raw, write, prepare, tmp_path):
    extra = [("", "low"), ("low", "  "), ("low " * 100, "low " * 100), ("low", "low new low new low")]
    source, target = zip(*extra)
    write(tmp_path / "extra", source, target)
    summary = prepare(
        train=[str(tmp_path / "extra"), str(raw / "train")],
        valid=str(tmp_path / "extra"),
        test=str(tmp_path / "extra"),
        vocabulary=None,
        out=str(tmp_path / "out"),
        clean__max_length=60,
        clean__max_ratio=100.0,
    )
    corpus = Corpus.open(tmp_path / "out")
    entry = corpus.manifest.splits["train"]
    assert (entry.read, entry.lines, entry.dropped) == (304, 301, {"empty": 2, "too_long": 1})
    assert corpus.split("train").source_texts()[0] == "low"
    for name in ("valid", "test"):
        assert corpus.split(name).source_texts() == list(source)
        assert corpus.split(name).target_texts() == list(target)
        assert corpus.split(name).source_lengths[0] == 0
    assert "train: dropped 3 of 304 pairs: empty 2, too_long 1" in report(summary)


def test_nothing_left(write, raw, corpus_folder, prepare, tmp_path):
    write(tmp_path / "train", ["", "low"], ["low", ""])
    with pytest.raises(DataError, match="split 'train' has no pairs left of the 2 that were read"):
        prepare(
            train=str(tmp_path / "train"),
            valid=str(raw / "valid"),
            vocabulary=str(corpus_folder),
            out=str(tmp_path / "out"),
        )


# --- refusals ---------------------------------------------------------------------------------------------------------


def refused(prepare, tmp_path, error, message, **values):
    with pytest.raises(error, match=message) as caught:
        prepare(**{"out": str(tmp_path / "out"), **values})
    assert "\n" not in str(caught.value)
    assert not [p.name for p in tmp_path.iterdir() if p.name.startswith((".", "out"))]


def test_missing_text(raw, prepare, tmp_path):
    refused(prepare, tmp_path, ConfigError, r"no such file: .*none\.en", **texts(raw, "train", "valid"), test="none")


def test_unequal_text(raw, write, prepare, tmp_path):
    write(tmp_path / "bad", ["a", "b"], ["a"])
    message = r"bad\.en has 2 lines but .*bad\.de has 1:"
    refused(prepare, tmp_path, DataError, message, **texts(raw, "train"), valid=str(tmp_path / "bad"))


@pytest.mark.parametrize("workers", [1, 2])
def test_invalid_utf8(raw, prepare, tmp_path, workers):
    (tmp_path / "bad.en").write_bytes(b"a\nb\n\xff\n")
    (tmp_path / "bad.de").write_bytes(b"a\nb\nc\n")
    prefix = str(tmp_path / "bad")
    refused(prepare, tmp_path, DataError, r"bad\.en:3: not", **texts(raw, "train"), valid=prefix, workers=workers)


def test_a_size_that_is_too_small(raw, prepare, tmp_path):
    train = texts(raw, "train", "valid")
    message = "vocab_size=8 is too small for the training text: its characters need at least 15"
    refused(prepare, tmp_path, ConfigError, message, **train, vocab_size=8)
    message = "vocab_size=8 is too small for the training text of en: its characters need at least"
    refused(prepare, tmp_path, ConfigError, message, **train, vocab_size=8, joint=False)


@pytest.mark.parametrize("joint", [True, False])
def test_a_size_that_is_too_large_gives_what_the_text_supports(raw, prepare, tmp_path, caplog, joint):
    summary = prepare(**texts(raw, "train", "valid"), out=str(tmp_path / "out"), vocab_size=4000, joint=joint)
    corpus = Corpus.open(tmp_path / "out")
    sizes = corpus.manifest.vocabulary.sizes
    assert (sizes.source, sizes.target) == (len(corpus.vocabularies.source), len(corpus.vocabularies.target))
    assert 15 < sizes.source < 100
    assert corpus.manifest.settings["vocabulary"]["vocab_size"] == 4000
    assert f"{sizes.source} pieces" in report(summary)
    text = "the training text" if joint else "the training text of en"
    note = f"vocab_size=4000 is more than {text} supports: the vocabulary has {sizes.source} pieces"
    assert note in [record.getMessage() for record in caplog.records]
    prepare(**texts(raw, "train", "valid"), out=str(tmp_path / "again"), vocab_size=4000, joint=joint)
    assert tree(tmp_path / "again") == tree(tmp_path / "out")


def test_text_that_sentencepiece_keeps_for_itself(raw, write, prepare, tmp_path):
    lines = ["low <s> new", "wide</s>", "<pad><unk>", "▅ low", "new\x1fwide"] * 3
    write(tmp_path / "special", lines, lines)
    train = [str(raw / "train"), str(tmp_path / "special")]
    values = {"train": train, "valid": str(tmp_path / "special"), "normalisation": "identity", "vocab_size": 60}
    prepare(**values, out=str(tmp_path / "out"))
    corpus = Corpus.open(tmp_path / "out")
    for name in ("train", "valid"):
        assert corpus.manifest.splits[name].unknown.source == 0
    split = corpus.split("valid")
    assert [corpus.vocabularies.source.decode(split.source_ids(i)) for i in range(len(lines))] == lines
    assert min(int(split.source_ids(i).min()) for i in range(len(lines))) > 3


def test_unknown_tokens(raw, write, prepare, tmp_path, corpus_folder):
    # Each target line is "▁", then an unknown run: half of the tokens.
    write(tmp_path / "valid", ["low", "new"], ["жук", "щит"])
    values = {**texts(raw, "train"), "valid": str(tmp_path / "valid")}
    message = (
        r"50\.00% of the target tokens \(de\) of valid are unknown \(first 'жук' in .*valid\.de:1\), "
        r"more than max_unknown_rate=0\.01: give byte_fallback=true, or raise max_unknown_rate$"
    )
    refused(prepare, tmp_path, ConfigError, message, **values)
    message = r"0\.01: raise character_coverage, or give byte_fallback=true, or raise max_unknown_rate$"
    refused(prepare, tmp_path, ConfigError, message, **values, character_coverage=0.99)
    of_words = {"vocab_type": "word", "max_unknown_rate": 0.5}
    message = r"\(first '▁жук' in .*valid\.de:1\), more than max_unknown_rate=0\.5: raise max_unknown_rate$"
    refused(prepare, tmp_path, ConfigError, message, **values, **of_words, vocab_size=100)
    message = r"=0\.5: raise vocab_size, or raise max_unknown_rate$"
    refused(prepare, tmp_path, ConfigError, message, **values, **of_words, vocab_size=8)
    message = "choose another vocabulary than that of .*, or raise max_unknown_rate"
    refused(prepare, tmp_path, ConfigError, message, **values, vocabulary=str(corpus_folder))
    prepare(**values, out=str(tmp_path / "out"), max_unknown_rate=0.5)
    assert Corpus.open(tmp_path / "out").manifest.splits["valid"].unknown_rate.target == 0.5


def test_same_language(raw, prepare, tmp_path):
    message = "source=en and target=en must differ"
    refused(prepare, tmp_path, ConfigError, message, **texts(raw), target="en")


@pytest.mark.parametrize("train", [[], [3], 3, {"a": "b"}, ""])
def test_prefixes_of_the_wrong_kind(raw, prepare, tmp_path, train):
    message = r"^train=.* (must be a prefix or a list of prefixes|is a number, but text|must be a text or a list)"
    refused(prepare, tmp_path, ConfigError, message, valid=str(raw / "valid"), train=train)


@pytest.mark.parametrize("name", ["train", "valid", "a/b", ".."])
def test_names_that_no_test_set_can_have(raw, prepare, tmp_path, name):
    message = "cannot name a test set"
    refused(prepare, tmp_path, ConfigError, message, **texts(raw, "train", "valid"), test={name: str(raw / "test")})


def test_a_folder_without_vocabulary(raw, prepare, tmp_path):
    message = "no vocabulary here"
    refused(prepare, tmp_path, DataError, message, **texts(raw), vocabulary=str(tmp_path))


def test_an_existing_corpus_is_replaced_only_on_request(raw, prepare, tmp_path):
    out = tmp_path / "out"
    out.mkdir()  # an empty folder may be filled
    prepare(**texts(raw), out=str(out))
    before = tree(out)
    with pytest.raises(ConfigError, match="exists already; choose another folder or give overwrite=true"):
        prepare(**texts(raw), out=str(out), vocab_size=22)
    assert tree(out) == before
    prepare(**texts(raw), out=str(out), vocab_size=22, overwrite=True)
    assert len(Corpus.open(out).vocabularies.source) == 22
    assert [p.name for p in tmp_path.iterdir()] == ["out"]


def test_what_is_not_a_corpus_is_never_replaced(raw, prepare, tmp_path):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "thesis.txt").write_text("years of work")
    with pytest.raises(
        ConfigError, match=r"exists and is not a corpus \(no corpus\.json in it\): it is not overwritten"
    ):
        prepare(**texts(raw), out=str(tmp_path / "out"), overwrite=True)
    assert (tmp_path / "out" / "thesis.txt").read_text() == "years of work"


def test_a_failed_replacement_keeps_the_old_corpus(raw, prepare, tmp_path):
    prepare(**texts(raw), out=str(tmp_path / "out"))
    before = tree(tmp_path / "out")
    with pytest.raises(ConfigError, match="too small"):
        prepare(**texts(raw), out=str(tmp_path / "out"), vocab_size=8, overwrite=True)
    assert tree(tmp_path / "out") == before
    assert [p.name for p in tmp_path.iterdir()] == ["out"]


# --- streaming --------------------------------------------------------------------------------------------------------


def test_chunks(monkeypatch):
    monkeypatch.setattr(binarise, "CHUNK_LINES", 4)
    pairs = [(str(i), "") for i in range(10)]
    chunks = list(chunked(pairs))
    assert [len(chunk) for chunk in chunks] == [4, 4, 2]
    assert [pair for chunk in chunks for pair in chunk] == pairs


@pytest.mark.parametrize("workers", [1, 2])
def test_reading_never_runs_far_ahead_of_writing(corpus, workers):
    taken = 0

    def source():
        nonlocal taken
        for i in range(60):
            taken += 1
            yield [(f"low {i}", "new")]

    done = 0
    for chunk in encode_stream(source(), corpus.vocabularies, None, workers):
        done += 1
        assert chunk.text["source"] == f"low {done - 1}\n".encode()
        assert taken - done <= 2 * workers
    assert done == taken == 60


def test_chunk_by_hand(corpus):
    encode = corpus.vocabularies.source.encode
    clean = CleanOptions(min_length=1, max_length=None, max_ratio=None)
    chunk = encode_chunk([("low", "new"), ("", "low"), ("größe", "low")], corpus.vocabularies, clean)
    assert (chunk.read, dict(chunk.dropped)) == (3, {"empty": 1})
    assert chunk.ids["source"].tolist() == encode("low") + encode("größe")
    assert chunk.lengths["source"].tolist() == [len(encode("low")), len(encode("größe"))]
    assert chunk.text["source"] == "low\ngröße\n".encode()
    assert chunk.text_lengths["source"].tolist() == [4, 8]


def test_the_sample_for_the_vocabulary_is_fair_and_bounded():
    stream = [(str(i), "") for i in range(1000)]
    assert _sample(iter(stream), 1000) == stream
    kept = [int(source) for source, _ in _sample(iter(stream), 200)]
    assert len(set(kept)) == 200
    assert sum(kept) / 200 == pytest.approx(499.5, abs=60)  # three standard deviations of the mean
    assert _sample(iter(stream), 200) == _sample(iter(stream), 200)


def test_the_vocabulary_sees_the_sample_only(raw, corpus, prepare, tmp_path):
    prepare(**texts(raw), out=str(tmp_path / "out"), vocab_sentences=100)
    assert Corpus.open(tmp_path / "out").vocabularies.digest != corpus.vocabularies.digest


# --- real text --------------------------------------------------------------------------------------------------------


def test_multi30k_comes_back_and_packs_with_little_padding(shared_data, prepare, tmp_path):
    folder = shared_data / "multi30k"
    summary = prepare(
        train=str(folder / "train"),
        valid=str(folder / "val"),
        test=str(folder / "test_2016_flickr"),
        vocab_size=8000,
        out=str(tmp_path / "out"),
    )
    corpus = Corpus.open(tmp_path / "out")
    assert [len(corpus.split(name)) for name in corpus.splits] == [29000, 1014, 1000]
    with lzma.open(folder / "test_2016_flickr.de.xz", "rt", encoding="utf-8", newline="\n") as stream:
        lines = [line.removesuffix("\n") for line in stream]
    assert corpus.split("test").target_texts() == lines
    decoded = corpus.vocabularies.target.decode_batch(corpus.split("test").target_ids(i) for i in range(1000))
    assert sum(a == b for a, b in zip(decoded, lines)) > 900  # the rest differs in spaces, quotes or unknown letters
    assert summary.seconds < 120
    for size in (1024, 2048, 4096):
        options = BatchOptions(max_tokens=size, max_sentences=None, max_length=None, workers=0)
        batches = TrainBatches([(corpus.split("train"), 1.0)], options, 1, corpus.vocabularies)
        assert batches.padding_share(1) < 0.05
