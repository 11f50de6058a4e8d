"""The built-in corpus: repeatable, disjoint, and its test set asks for combinations that training never showed."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from grammar import Clause, NounPhrase, Sentence, Tense, Word, avendi, english
from make_corpus import MAX_WORDS, MIN_WORDS, Speaker, is_held_out, main, pairs

SCRIPT = Path(__file__).parents[2] / "scripts/make_corpus.py"
SMALL = ["train=3000", "valid=200", "test=300"]
FIRST = [
    (
        "did weak nurses break the green hat behind a market?",
        "piti savu ules livas piv dan mivilen vlizunan skalelu vei?",
    ),
    ("we will peel this carrot.", "tion lalken sipeskoremi."),
]
FILES = [f"{split}.{language}" for split in ("train", "valid", "test") for language in ("en", "qav")]


def read(folder: Path, split: str) -> list[tuple[str, str]]:
    sides = [(folder / f"{split}.{language}").read_text(encoding="utf-8").split("\n") for language in ("en", "qav")]
    assert sides[0].pop() == sides[1].pop() == ""  # every line ends with a newline
    return list(zip(*sides, strict=True))


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("corpus")
    main([f"out={folder}", *SMALL])
    return folder


def test_counts_and_lengths(corpus: Path) -> None:
    assert sorted(path.name for path in corpus.iterdir()) == sorted(FILES)
    assert [len(read(corpus, split)) for split in ("train", "valid", "test")] == [3000, 200, 300]
    for split in ("train", "valid", "test"):
        assert all(MIN_WORDS <= len(line.split()) <= MAX_WORDS for line, _ in read(corpus, split))


def test_same_seed_same_files(corpus: Path, tmp_path: Path) -> None:
    main([f"out={tmp_path}", *SMALL])
    assert all((tmp_path / name).read_bytes() == (corpus / name).read_bytes() for name in FILES)


def test_first_sentences_never_change(corpus: Path) -> None:
    """Results on the built-in corpus stay comparable: another text would be another corpus."""
    assert read(corpus, "test")[:2] == FIRST


def test_another_seed_another_corpus(corpus: Path, tmp_path: Path) -> None:
    main([f"out={tmp_path}", *SMALL, "seed=2"])
    assert not set(read(tmp_path, "test")) & set(read(corpus, "test"))


def test_size_of_train_leaves_the_test_set(corpus: Path, tmp_path: Path) -> None:
    main([f"out={tmp_path}", "train=10", "valid=10", "test=300"])
    assert read(tmp_path, "test") == read(corpus, "test")


def test_no_sentence_occurs_twice_on_either_side(corpus: Path) -> None:
    lines = [pair for split in ("train", "valid", "test") for pair in read(corpus, split)]
    for side in (0, 1):
        assert len({pair[side] for pair in lines}) == len(lines)


def test_english_has_one_translation() -> None:
    speaker = Speaker("many")
    translations: dict[str, str] = {}
    for _ in range(20000):
        sentence = speaker.sentence()
        assert translations.setdefault(english(sentence), avendi(sentence)) == avendi(sentence)


def test_pairs_by_hand() -> None:
    old, stone = Word("quality", "old", "-", "a", "-"), Word("material", "stone", "-", "b", "m")
    dog, lamp = Word("animal", "dog", "-", "c", "m"), Word("thing", "lamp", "-", "d", "m")
    see, carry = Word("verb-being", "see", "saw", "e", "-"), Word("verb-thing", "carry", "carried", "f", "-")
    seen = Clause(see, Tense.PAST, object=NounPhrase(dog, "the", adjectives=(old,)))
    main_clause = Clause(carry, Tense.PAST, NounPhrase(dog, "a", relative=seen), NounPhrase(lamp, "a", modifier=stone))
    assert english(Sentence(main_clause)) == "a dog that saw the old dog carried a stone lamp."
    assert set(pairs(Sentence(main_clause))) == {("carry", "lamp"), ("stone", "lamp"), ("see", "dog"), ("old", "dog")}


def split_pairs(split: str, count: int) -> tuple[list[set[tuple[str, str]]], list[str]]:
    """Word pairs of each sentence of a split, as the generator makes them before it selects."""
    speaker = Speaker(f"1 {split}")
    sentences = [speaker.sentence() for _ in range(count)]
    return [set(pairs(sentence)) for sentence in sentences], [english(sentence) for sentence in sentences]


def test_train_never_shows_a_held_out_pair(corpus: Path) -> None:
    found, texts = split_pairs("train", 9000)
    by_text = dict(zip(texts, found, strict=True))
    train = [line for line, _ in read(corpus, "train")]
    assert all(line in by_text for line in train)
    assert not any(is_held_out(pair) for line in train for pair in by_text[line])


def test_test_set_asks_for_unseen_combinations(corpus: Path) -> None:
    found, texts = split_pairs("test", 2000)
    by_text = dict(zip(texts, found, strict=True))
    test = [by_text[line] for line, _ in read(corpus, "test")]
    held_out = sum(any(map(is_held_out, sentence)) for sentence in test) / len(test)
    assert 0.15 < held_out < 0.5  # a fifth or more hold a pair of words that no training sentence has


def test_stems_of_test_sentences_never_came_together(corpus: Path) -> None:
    def stems(line: str) -> frozenset[str]:
        return frozenset(word.strip(".,?") for word in line.split())

    train = {stems(source) for source, _ in read(corpus, "train")}
    test = [stems(source) for source, _ in read(corpus, "test")]
    assert sum(words not in train for words in test) / len(test) > 0.99


def test_runs_as_a_script(tmp_path: Path) -> None:
    command = [sys.executable, str(SCRIPT), f"out={tmp_path}/raw", "train=5", "valid=5", "test=5"]
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == f"wrote 5 + 5 + 5 pairs to {tmp_path}/raw\n"
    assert sorted(path.name for path in (tmp_path / "raw").iterdir()) == sorted(FILES)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["train=5"], "make_corpus: error: out is required: give out=VALUE\n"),
        (["out=x", "train=0"], "make_corpus: error: train=0 is out of range: it must be at least 1\n"),
        (
            ["out=x", "tets=5"],
            "unknown key tets; valid keys here: out, seed, test, train, valid (did you mean 'test'?)\n",
        ),
    ],
)
def test_mistakes_are_one_line(arguments: list[str], message: str, tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, str(SCRIPT), *arguments], capture_output=True, text=True, cwd=tmp_path, check=False
    )
    assert done.returncode == 1
    assert done.stderr.endswith(message)
    assert done.stderr.count("\n") == 1
    assert list(tmp_path.iterdir()) == []


def test_help_lists_the_keys() -> None:
    done = subprocess.run([sys.executable, str(SCRIPT), "--help"], capture_output=True, text=True, check=False)
    assert done.returncode == 0
    assert all(f"  {key} (default" in done.stdout for key in ("out", "train", "valid", "test", "seed"))
