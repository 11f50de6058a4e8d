"""Small texts and corpora made from them."""

import copy
import random
from collections.abc import Callable, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from omegaconf import DictConfig

from nmt.config import compose, parse_options
from nmt.data.corpus import Corpus
from nmt.data.prepare import PreprocessOptions, Summary, prepare_corpus

WORDS = ["lower", "lowest", "newer", "newest", "wider", "widest", "low", "new", "wide"]


def sentences(number: int, seed: int) -> list[str]:
    rng = random.Random(seed)
    return [" ".join(rng.choices(WORDS, k=rng.randint(1, 9))) for _ in range(number)]


def write_text(prefix: Path, source: Sequence[str], target: Sequence[str]) -> str:
    """PREFIX.en and PREFIX.de; returns the prefix."""
    for language, lines in (("en", source), ("de", target)):
        content = "".join(line + "\n" for line in lines)
        Path(f"{prefix}.{language}").write_text(content, encoding="utf-8", newline="\n")
    return str(prefix)


@cache
def _preprocessing() -> DictConfig:
    return compose("preprocess")


def preprocess_options(**values: Any) -> PreprocessOptions:
    """Options as nmt-preprocess would have them; ``clean__max_ratio`` stands for ``clean.max_ratio``."""
    defaults = {"source": "en", "target": "de", "vocab_size": 24}
    node = copy.deepcopy(_preprocessing())
    for key, value in {**defaults, **values}.items():
        group, _, name = key.rpartition("__")
        (node[group] if group else node)[name] = value
    return parse_options(PreprocessOptions, node)


@pytest.fixture
def write() -> Callable[[Path, Sequence[str], Sequence[str]], str]:
    return write_text


@pytest.fixture
def prepare() -> Callable[..., Summary]:
    return lambda **values: prepare_corpus(preprocess_options(**values))


@pytest.fixture
def make_sentences() -> Callable[[int, int], list[str]]:
    return sentences


@pytest.fixture(scope="session")
def raw(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Text of 300 training, 20 validation and 25 test pairs: train, valid and test."""
    folder = tmp_path_factory.mktemp("raw")
    for seed, (name, number) in enumerate({"train": 300, "valid": 20, "test": 25}.items()):
        write_text(folder / name, sentences(number, 2 * seed), sentences(number, 2 * seed + 1))
    return folder


@pytest.fixture(scope="session")
def corpus_folder(raw: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """That text as a corpus."""
    out = tmp_path_factory.mktemp("corpora") / "toy"
    texts = {name: str(raw / name) for name in ("train", "valid", "test")}
    prepare_corpus(preprocess_options(**texts, out=str(out)))
    return out


@pytest.fixture(scope="session")
def corpus(corpus_folder: Path) -> Corpus:
    return Corpus.open(corpus_folder)
