"""Sentencepiece models from anyone: the library may refuse them; it must not crash."""

from __future__ import annotations

import os
import random
import signal
import sys
from collections.abc import Callable
from functools import cache
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sentencepiece import sentencepiece_model_pb2 as messages

from nmt.config import ConfigError, DataError
from nmt.text.subword import SubwordSampler, VocabularyTraining, VocabularyType, train_vocabulary
from nmt.text.vocabulary import MAX_MODEL_BYTES, Vocabulary

WORDS = ["the", "cat", "dog", "runs", "äpfel", "ﬁne", "Ⅷ"]
TEXTS = ["", "the cat runs", "ﬁne äpfel Ⅷ " * 20, "\0\n\u3000zz", "".join(map(chr, range(0x80, 0x3000, 5)))]


@cache
def models() -> list[bytes]:
    rng = random.Random(1)
    lines = [" ".join(rng.choices(WORDS, k=8)) for _ in range(200)]
    trainings = [VocabularyTraining(30), VocabularyTraining(28, VocabularyType.bpe)]
    return [train_vocabulary(lines, training).model for training in trainings]


def change_bytes(rng: random.Random, model: bytes) -> bytes:
    content = bytearray(model)
    for _ in range(rng.randint(1, 8)):
        content[rng.randrange(len(content))] = rng.randrange(256)
    return bytes(content)


def change_rules(rng: random.Random, model: bytes) -> bytes:
    """The compiled rules of normalisation: a trie that the library walks by offsets from the file."""
    proto = messages.ModelProto.FromString(model)
    rules = bytearray(proto.normalizer_spec.precompiled_charsmap)
    for _ in range(rng.choice([1, 3, 100])):
        rules[rng.randrange(4, rng.choice([1030, len(rules)]))] = rng.randrange(256)
    (proto.normalizer_spec if rng.random() < 0.5 else proto.denormalizer_spec).precompiled_charsmap = bytes(rules)
    return bytes(proto.SerializeToString())


def change_pieces(rng: random.Random, model: bytes) -> bytes:
    proto = messages.ModelProto.FromString(model)
    for _ in range(rng.randint(1, 3)):
        piece = proto.pieces[rng.randrange(4, len(proto.pieces))]
        piece.score = rng.choice([float("nan"), float("inf"), 1e38, -1e38, piece.score])
        piece.type = rng.choice([1, 1, 3, 4, 5, 6])
        piece.piece = rng.choice(["\0", "a\0b", "<0x41>", "\n", "x" * 100_000, "▁▁▁", piece.piece, piece.piece])
    proto.trainer_spec.model_type = rng.choice([1, 2, 3, 4])
    proto.trainer_spec.byte_fallback = rng.random() < 0.2
    proto.trainer_spec.unk_surface = rng.choice(["", "\0", "x"])
    proto.trainer_spec.treat_whitespace_as_suffix = rng.random() < 0.2
    return bytes(proto.SerializeToString())


def use(model: bytes) -> None:
    """All that is ever done with a model."""
    vocabulary = Vocabulary(model)
    for text in TEXTS:
        vocabulary.decode(vocabulary.encode(text))
        vocabulary.pieces(text)
    SubwordSampler(alpha=0.1).encode([(vocabulary, TEXTS[:3])], 1)
    for index in range(len(vocabulary)):
        vocabulary.decode([index])
        vocabulary.piece(index)


def fate_of(work: Callable[[], None]) -> str:
    """What becomes of some work in a process of its own: nothing, or what ended it."""
    sys.stdout.flush()
    child = os.fork()
    if child == 0:
        os.dup2(os.open(os.devnull, os.O_WRONLY), 2)  # the library reports what it refuses
        code = 1
        try:
            work()
            code = 0
        except (ConfigError, DataError):
            code = 0
        finally:
            os._exit(code)
    _, status = os.waitpid(child, 0)
    return "" if status == 0 else f"signal {os.WTERMSIG(status)}" if os.WIFSIGNALED(status) else "another exception"


@pytest.mark.parametrize("change", [change_bytes, change_rules, change_pieces])
@settings(max_examples=settings.default.max_examples // 4)
@given(seed=st.integers(0, 2**32 - 1))
def test_no_model_crashes_the_library(change: Callable[[random.Random, bytes], bytes], seed: int) -> None:
    rng = random.Random(seed)
    model = change(rng, rng.choice(models()))
    assert not fate_of(lambda: use(model))


def test_a_crash_would_be_seen() -> None:
    assert fate_of(lambda: os.kill(os.getpid(), signal.SIGKILL)) == "signal 9"
    assert fate_of(lambda: [][0]) == "another exception"
    assert fate_of(lambda: None) == ""


def test_rules_that_break_characters_apart() -> None:
    proto = messages.ModelProto.FromString(models()[0])
    rules = proto.normalizer_spec.precompiled_charsmap
    start = 4 + int.from_bytes(rules[:4], "little")
    broken = bytes(0xE9 if byte else 0 for byte in rules[start:])  # what characters are replaced by
    proto.normalizer_spec.precompiled_charsmap = rules[:start] + broken
    vocabulary = Vocabulary(proto.SerializeToString())
    with pytest.raises(DataError, match="it makes text that is not UTF-8"):
        vocabulary.pieces("ﬁ ①")


def test_an_endless_model_is_not_read(tmp_path: Path) -> None:
    with (tmp_path / "x.model").open("wb") as file:
        file.truncate(1 << 40)
    with pytest.raises(DataError, match=f"x.model: {1 << 40} bytes, but such a file has {MAX_MODEL_BYTES} at most"):
        Vocabulary.load(tmp_path / "x.model")


@pytest.mark.parametrize("kind", [3, 4])
def test_models_of_words_and_characters_cannot_sample(kind: int) -> None:
    proto = messages.ModelProto.FromString(models()[0])
    proto.trainer_spec.model_type = kind
    vocabulary = Vocabulary(proto.SerializeToString())
    with pytest.raises(DataError, match="neither unigram nor bpe cannot segment at random"):
        vocabulary.sample("the cat", alpha=0.1, nbest=-1, draw=random.random)
