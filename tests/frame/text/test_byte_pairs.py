"""Byte pairs: merges by hand, the lines that subword-nmt made of real text, and files from anyone."""

from __future__ import annotations

import json
import lzma
import pickle
import random
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nmt.config import DataError
from nmt.text.byte_pairs import MAX_WORD, Codes, byte_pair_file
from nmt.text.vocabulary import BOS, EOS, PAD, UNK, Vocabulary, VocabularyPair

CODES = ["#version: 0.2", "l o", "lo w</w>", "e r</w>", "x x"]
WORDS = ["low", "lo@@", "w@@", "er", "n@@", "e", "madeupword0000"]


def vocabulary(**changes: Any) -> Vocabulary:
    return Vocabulary(byte_pair_file(**{"codes": CODES, "words": WORDS, "silent": ["madeupword0000"], **changes}))


@pytest.mark.parametrize(
    ("codes", "line", "expected"),
    [
        (CODES, "low lower", "low lo@@ w@@ er"),
        (CODES, "xxx xxxx x", "xx@@ x xx@@ x@@ x x"),
        (CODES, "  low \t lo\u00a0w  ", "low lo@@ @@ w"),  # as after a split at white space of any kind
        (["l o", "lo w", "low </w>", "e r", "er </w>"], "low lower lo", "low low@@ er lo"),  # version 0.1
        (["#version: 0.1", "e r", "er </w>"], "er ere", "er er@@ e"),
        (["l o 90", "lo w</w> 30", "e r</w> 9"], "low lower", "low lo@@ w@@ er"),  # fastBPE
        (["#version: 0.2", "a b", "b c</w>"], "abc", "ab@@ c"),  # the earliest merge first
        (["#version: 0.2", "b c</w>", "a b"], "abc", "a@@ bc"),
        (["#version: 0.2", "a b", "a b"], "ab", "a@@ b"),  # at the end of a word it is another pair
        (["#version: 0.2"], "ab", "a@@ b"),
        (CODES, "", ""),
        (CODES, "   ", ""),
    ],
)
def test_merges_by_hand(codes: list[str], line: str, expected: str) -> None:
    assert " ".join(Codes(codes, "x").apply(line)) == expected


@pytest.mark.parametrize("language", ["de", "en"])
def test_segments_as_subword_nmt_does(language: str, shared_data: Path) -> None:
    def lines(name: str) -> list[str]:
        with lzma.open(shared_data / "iwslt14_deen_eval" / f"{name}.xz", "rt", encoding="utf-8", newline="\n") as file:
            return file.read().split("\n")[:-1]

    codes = Codes(lines("bpe10k.codes"), "x")
    texts, expected = lines(f"valid.{language}"), lines(f"valid.bpe10k.{language}")
    assert len(texts) == 7283
    assert [" ".join(codes.apply(text)) for text in texts] == expected


def test_long_words_are_cut_before() -> None:
    pieces = Codes(CODES, "x").apply("x" * (MAX_WORD + 3))
    assert pieces == ["xx@@"] * (MAX_WORD // 2 - 1) + ["x@@"] * 2 + ["xx@@", "x"]


def test_a_vocabulary() -> None:
    found = vocabulary()
    assert (len(found), found.kind) == (11, "subword-nmt")
    assert [found.piece(i) for i in range(5)] == ["<pad>", "<s>", "</s>", "<unk>", "low"]
    assert found.encode("low lower q") == [4, 5, 6, 7, UNK]
    assert found.encode_batch(["low", ""]) == [[4], []]
    assert found.pieces("lower q") == ["lo@@", "w@@", "er", "q"]
    assert found.join(["lo@@", "w@@", "er", "n@@"]) == "lower n"
    assert found.decode([BOS, 4, 5, 6, 7, PAD, UNK, 10, EOS]) == "low lower <unk>"
    assert found.decode([]) == found.decode([10]) == ""
    with pytest.raises(ValueError, match="id 11 is not in the vocabulary of 11 pieces"):
        found.decode([11])
    with pytest.raises(DataError, match="cannot segment at random"):
        found.sample("low", alpha=0.1, nbest=-1, draw=random.random)


def test_no_text_gives_special_or_silent_words() -> None:
    spelt = ["<pad> <s> </s> <unk> madeupword0000"]
    codes = [pair for word in spelt[0].split() for pair in _all_merges(word)]
    found = vocabulary(codes=["#version: 0.2", *codes])
    assert found.pieces(spelt[0]) == spelt[0].split()
    assert found.encode(spelt[0]) == [UNK] * 5


def _all_merges(word: str) -> list[str]:
    parts = [*word[:-1], word[-1] + "</w>"]
    return [f"{''.join(parts[:i])} {parts[i]}" for i in range(1, len(parts))]


LETTERS = st.characters(exclude_categories=("Z", "C"), exclude_characters="@")


@given(st.lists(st.text(LETTERS, min_size=1)))
def test_text_comes_back_where_every_character_is_known(words: list[str]) -> None:
    characters = sorted({f"{c}{end}" for word in words for c in word for end in ("", "@@")} | {"lo", "lo@@"})
    found = vocabulary(codes=CODES[:2], words=characters, silent=[])
    assert found.decode(found.encode("  ".join(words))) == " ".join(words)


def test_files_come_back(tmp_path: Path) -> None:
    one, other = vocabulary(), vocabulary(words=WORDS[:3], silent=[])
    VocabularyPair.shared(one).save(tmp_path)
    assert [p.name for p in tmp_path.iterdir()] == ["bpe.json"]
    found = VocabularyPair.load(tmp_path)
    assert (found.joint, found.source, found.digest) == (True, one, VocabularyPair.shared(one).digest)
    (tmp_path / "two").mkdir()
    pair = VocabularyPair(one, other, joint=False)
    pair.save(tmp_path / "two")
    assert sorted(p.name for p in (tmp_path / "two").iterdir()) == ["bpe.source.json", "bpe.target.json"]
    found = VocabularyPair.load(tmp_path / "two")
    assert (found.source, found.target, found.joint) == (one, other, False)
    assert pickle.loads(pickle.dumps(one)).encode("lower") == one.encode("lower")  # goes to other processes


def test_a_file_of_another_kind(tmp_path: Path) -> None:
    (tmp_path / "sentencepiece.model").write_bytes(vocabulary().model)
    with pytest.raises(DataError, match=r"sentencepiece\.model: not a sentencepiece model"):
        VocabularyPair.load(tmp_path)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"words": ["a", "a"]}, "a word is empty, stands twice, or is silent without being there"),
        ({"words": ["a", "<s>"], "silent": []}, "stands twice"),
        ({"words": [""], "silent": []}, "a word is empty"),
        ({"silent": ["b"]}, "silent without being there"),
        ({"codes": ["#version: 0.3"]}, r"model:1: #version: 0\.3; versions 0\.1 and 0\.2 of codes can be read"),
        ({"codes": ["#version: 0.2", "a"]}, "model:2: expected a pair of sub-words and not 'a'"),
        ({"codes": ["a  b"]}, "model:1: expected a pair"),
        ({"codes": ["a b c d"]}, "model:1: expected a pair"),
        ({"codes": ["a b", "a b 3"]}, "model:2: expected a pair"),
    ],
)
def test_malformed_content(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(DataError, match=message):
        vocabulary(**changes)


GOOD = json.loads(vocabulary().model)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{", "x: not JSON"),
        ("{}", "x: not a vocabulary of byte pairs .the top must hold exactly the keys format, version, codes"),
        (json.dumps({**GOOD, "format": "x"}), "x: not a vocabulary of byte pairs, or of another version than 1"),
        (json.dumps({**GOOD, "version": 2}), "another version than 1"),
        (json.dumps({**GOOD, "words": [1]}), r"words\[0\] must be a str"),
        (json.dumps({**GOOD, "more": 1}), "exactly the keys"),
    ],
)
def test_malformed_files(content: str, message: str) -> None:
    with pytest.raises(DataError, match=message):
        Vocabulary(content.encode(), "x")


@given(data=st.data())
def test_any_json_is_read_or_refused(data: st.DataObject, spoilt_value: Any, only_refused: Any) -> None:
    content = json.dumps(spoilt_value(data, GOOD)).encode()
    only_refused(lambda: Vocabulary(b"{" + content.lstrip(b"{")).encode("low lower"))
