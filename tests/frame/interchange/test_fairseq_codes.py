"""Import of fairseq models with byte pairs of subword-nmt: text in, text out as in fairseq's ``--bpe subword_nmt``."""

from __future__ import annotations

import json
from collections import Counter
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from fairseq_model import EOS, UNK, Fairseq, greedy

from nmt.commands.generate import main as generate
from nmt.config import ConfigError, DataError
from nmt.data.corpus import Corpus
from nmt.data.prepare import PreprocessOptions, prepare_corpus
from nmt.generation.options import SearchOptions
from nmt.generation.translator import Translator
from nmt.interchange.export import export_checkpoint
from nmt.interchange.importing import import_checkpoint
from nmt.text.byte_pairs import Codes


def learn(lines: list[str], merges: int) -> list[str]:
    """Codes by the textbook: the most frequent pair is merged, again and again."""
    words = Counter(word for line in lines for word in line.split())
    parts = {word: (*word[:-1], f"{word[-1]}</w>") for word in words}
    codes = []
    for _ in range(merges):
        pairs: Counter[tuple[str, ...]] = Counter()
        for word, cut in parts.items():
            for pair in pairwise(cut):
                pairs[pair] += words[word]
        best = max(pairs, key=lambda pair: (pairs[pair], pair))
        codes.append(" ".join(best))
        for word, cut in parts.items():
            merged: list[str] = []
            for part in cut:
                if merged and (merged[-1], part) == best:
                    merged[-1] += part
                else:
                    merged.append(part)
            parts[word] = tuple(merged)
    return ["#version: 0.2", *codes]


class FairseqCodes(Fairseq):
    """A random model in fairseq's layout whose words are byte pairs; the same for both languages."""

    def __init__(self, texts: tuple[list[str], list[str]], **settings: Any) -> None:
        self.codes = learn(texts[0] + texts[1], 40)
        super().__init__(texts, joint=True, **settings)

    def choose_words(self, texts: tuple[list[str], list[str]]) -> None:
        seen = Counter(piece for line in texts[0] + texts[1] for piece in Codes(self.codes, "x").apply(line))
        words = [word for word, _ in seen.most_common()]
        self.absent = dict.fromkeys(("en", "eo"), words.pop(0))  # what never was in the dictionary is unknown
        words = ["<s>", "<pad>", "</s>", "<unk>", *words, "madeupword0000"]
        self.words = {"en": words, "eo": words}

    def cut(self, lang: str, line: str) -> list[str]:
        return Codes(self.codes, "x").apply(line)

    def save_subwords(self, folder: Path) -> None:
        (folder / "bpecodes").write_text("".join(f"{code}\n" for code in self.codes), encoding="utf-8")


def decoded(words: list[str]) -> str:
    """fairseq's ``Dictionary.string`` and ``--remove-bpe``."""
    return (" ".join(words) + " ").replace("@@ ", "").rstrip()


@pytest.fixture
def model(texts) -> FairseqCodes:
    return FairseqCodes(texts)


@pytest.fixture
def imported(model, tmp_path) -> Path:
    folder = model.save(tmp_path / "fairseq")
    (folder / "dict.eo.txt").unlink()  # one serves
    import_checkpoint("fairseq", folder, tmp_path / "out")
    return tmp_path / "out"


def test_computes_what_fairseq_does(model, imported, sources, references) -> None:
    ours = Translator.load(imported, device="cpu")
    unknown = 0
    for source, reference, found in zip(sources, references, ours.forced(sources, references), strict=True):
        left, right = model.rows("en", source), model.rows("eo", reference)
        unknown += [*left, *right].count(UNK)
        expected = model.log_probs(left, [EOS, *right])[range(len(right) + 1), [*right, EOS]]
        assert found.token_lprobs == pytest.approx(expected.tolist(), abs=1e-4)
    assert unknown > 0


def test_translations_are_those_of_its_pipeline(model, imported, sources, tmp_path, monkeypatch) -> None:
    """By the command: nothing but the checkpoint is needed."""
    (tmp_path / "in").write_text("".join(f"{line}\n" for line in sources), encoding="utf-8")
    search = ["search.beam=1", "search.max_length_offset=12", "search.max_length_ratio=0", "search.min_length=0"]
    arguments = [f"checkpoint={imported}", f"input={tmp_path / 'in'}", f"output={tmp_path / 'found'}", "device=cpu"]
    monkeypatch.setattr("sys.argv", ["nmt-generate", *arguments, *search])
    generate()
    expected = []
    for line in sources:
        rows = greedy(model, model.rows("en", line), 12)
        expected.append(decoded([model.words["eo"][row] for row in rows]))
    assert (tmp_path / "found").read_text(encoding="utf-8").split("\n")[:-1] == expected
    assert any("@@" in word for line in sources for word in model.cut("en", line))


def test_the_checkpoint_holds_codes_and_words(model, imported) -> None:
    assert {path.name for path in imported.iterdir()} >= {"bpe.json", "config.yaml", "model.safetensors"}
    held = json.loads((imported / "bpe.json").read_text(encoding="utf-8"))
    assert held["codes"] == model.codes
    assert held["words"] == ["<s>'", *model.words["en"][4:]]
    assert held["silent"] == ["<s>'", "madeupword0000"]


def test_a_corpus_takes_over_the_vocabulary(imported, texts, tmp_path) -> None:
    for name, lines in zip(("t.en", "t.eo"), texts):
        (tmp_path / name).write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
    prefix = str(tmp_path / "t")
    options = {"source": "en", "target": "eo", "train": prefix, "valid": prefix, "out": str(tmp_path / "corpus")}
    prepare_corpus(options_of(options | {"vocabulary": str(imported), "max_unknown_rate": 1.0}))
    corpus = Corpus.open(tmp_path / "corpus")
    assert corpus.vocabularies.source == Translator.load(imported, device="cpu").vocabularies.source
    assert (tmp_path / "corpus" / "bpe.json").read_bytes() == (imported / "bpe.json").read_bytes()


def options_of(values: dict[str, Any]) -> PreprocessOptions:
    from nmt.config import compose, parse_options

    node = compose("preprocess", [f"{key}={value}" for key, value in values.items()])
    return parse_options(PreprocessOptions, node)


def test_exports(imported, sources, tmp_path) -> None:
    """CTranslate2 works on pieces, whatever made them; tokenisers of Hugging Face cannot be made of codes."""
    ctranslate2 = pytest.importorskip("ctranslate2")
    export_checkpoint(imported, "ctranslate2", tmp_path / "ct2")
    ours = Translator.load(imported, device="cpu")
    theirs = ctranslate2.Translator(str(tmp_path / "ct2"))
    pieces = [ours.vocabularies.source.pieces(line) for line in sources]
    found = theirs.translate_batch(pieces, beam_size=1, max_decoding_length=12, min_decoding_length=1)
    options = SearchOptions(beam=1, max_length_ratio=0, max_length_offset=12, min_length=1)
    for result, (best,) in zip(found, ours.hypotheses(sources, options), strict=True):
        if len(result.hypotheses[0]) < 12:
            assert ours.pieces(best) == result.hypotheses[0]
    with pytest.raises(ConfigError, match="a vocabulary of subword-nmt cannot be exported to hf"):
        export_checkpoint(imported, "hf", tmp_path / "hf")


@pytest.mark.parametrize(
    ("codes", "message"),
    [
        (b"#version: 0.2\nq q\n", r"dict\.eo\.txt: does not belong to .*bpecodes: \d+ of its \d+ words are no pieces"),
        (b"#version: 0.2\na\n", r"bpecodes:2: expected a pair of sub-words and not 'a'"),
        (b"#version: 7\n", "bpecodes:1: #version: 7; versions 0.1 and 0.2 of codes can be read"),
        (b"\xff\xfe", "bpecodes: neither a sentencepiece model nor codes of subword-nmt .not UTF-8."),
        (b"\n", "bpecodes: not a sentencepiece model"),
    ],
)
def test_refuses_other_codes(codes, message, model, tmp_path) -> None:
    folder = model.save(tmp_path / "fairseq")
    (folder / "bpecodes").write_bytes(codes)
    with pytest.raises(DataError, match=message):
        import_checkpoint("fairseq", folder, tmp_path / "out")


def test_refuses_two_kinds(model, tmp_path, golden) -> None:
    folder = model.save(tmp_path / "fairseq")
    given = [str(folder / "bpecodes"), str(golden / "sentencepiece.model")]
    with pytest.raises(DataError, match=r"bpecodes: not a sentencepiece model, but .*sentencepiece\.model is one"):
        import_checkpoint("fairseq", folder, tmp_path / "out", subwords=given)
