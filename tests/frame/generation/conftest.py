"""A model whose next-token distribution is an explicit function of source and prefix: small enough to enumerate."""

from __future__ import annotations

import hashlib
import itertools
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor

import nmt
from nmt.generation.options import LengthNorm, SearchOptions
from nmt.generation.translator import Translator

EOS, UNK = 2, 3


@dataclass
class TableState:
    sources: list[tuple[int, ...]]
    prefixes: list[tuple[int, ...]]
    beam: int
    max_len: int

    def reorder(self, rows: Tensor) -> None:
        assert all(r // self.beam == i // self.beam for i, r in enumerate(rows.tolist())), "stays in its sentence"
        self.prefixes = [self.prefixes[r] for r in rows.tolist()]

    def select(self, sentences: Tensor) -> TableState:
        rows = [s * self.beam + k for s in sentences.tolist() for k in range(self.beam)]
        sources = [self.sources[s] for s in sentences.tolist()]
        return TableState(sources, [self.prefixes[r] for r in rows], self.beam, self.max_len)


class TableModel:
    """Log-probabilities drawn from a hash of (seed, source, prefix), so that every prefix has its own."""

    def __init__(
        self, vocab_size: int = 6, seed: int = 0, sharpness: float = 1.5, max_length: int | None = None
    ) -> None:
        self.vocab_size, self.seed, self.sharpness = vocab_size, seed, sharpness
        self.max_source_length = self.max_target_length = max_length
        self.num_steps = 0
        self.output = SimpleNamespace(log_probs=lambda hidden: hidden)

    def distribution(self, source: tuple[int, ...], prefix: tuple[int, ...]) -> Tensor:
        digest = hashlib.sha256(repr((self.seed, source, prefix)).encode()).digest()
        generator = torch.Generator().manual_seed(int.from_bytes(digest[:7], "little"))
        return torch.log_softmax(self.sharpness * torch.randn(self.vocab_size, generator=generator), 0)

    def encode(self, src_tokens: Tensor) -> list[tuple[int, ...]]:
        return [tuple(i for i in row if i != 0) for row in src_tokens.tolist()]

    def init_state(self, encoder_out: list[tuple[int, ...]], *, beam: int, max_len: int) -> TableState:
        return TableState(encoder_out, [()] * (len(encoder_out) * beam), beam, max_len)

    def step(self, tokens: Tensor, state: TableState, top: int | None = None) -> Tensor:
        self.num_steps += 1
        state.prefixes = [p + tuple(t) for p, t in zip(state.prefixes, tokens.tolist())]
        assert all(len(p) <= state.max_len for p in state.prefixes)
        return torch.stack(
            [self.distribution(state.sources[r // state.beam], p[1:]) for r, p in enumerate(state.prefixes)]
        )

    def __call__(self, src_tokens: Tensor, prev_output_tokens: Tensor) -> SimpleNamespace:
        rows = [
            torch.stack([self.distribution(source, tuple(ids[1 : i + 1])) for i in range(len(ids))])
            for source, ids in zip(self.encode(src_tokens), prev_output_tokens.tolist())
        ]
        return SimpleNamespace(hidden=torch.stack(rows))

    def logprob(self, source: list[int], ids: list[int], *, eos: bool = True) -> float:
        """Log-probability of a target, from the definition."""
        target = [*ids, EOS] if eos else ids
        key = (*source, EOS)
        return sum(float(self.distribution(key, tuple(target[:i]))[t]) for i, t in enumerate(target))

    def all_targets(self, longest: int) -> list[list[int]]:
        """Every target of at most ``longest`` tokens (UNK is a token like others)."""
        words = range(3, self.vocab_size)
        return [list(ids) for n in range(longest + 1) for ids in itertools.product(words, repeat=n)]

    def ranked(
        self, source: list[int], longest: int, options: SearchOptions, may_repeat: tuple[int, ...] = ()
    ) -> list[tuple[float, list[int]]]:
        """(score, ids) of every target that the rules allow, best first, from the definitions in docs/generation.md."""
        found = []
        for target in self.all_targets(longest):
            if allowed(target, options, may_repeat):
                length, unknown = len(target) + 1, target.count(UNK)
                base = length if options.length_norm is LengthNorm.power else (5 + length) / 6
                total = self.logprob(source, target) - options.unk_penalty * unknown
                found.append((total / base**options.length_penalty, target))
        return sorted(found, key=lambda f: -f[0])


def allowed(target: list[int], options: SearchOptions, may_repeat: tuple[int, ...]) -> bool:
    """Whether the rules allow a whole target."""
    size = options.no_repeat_ngram
    ngrams = [tuple(target[i : i + size]) for i in range(len(target) - size + 1)] if size else []
    ngrams = [ngram for ngram in ngrams if not set(ngram) & set(may_repeat)]
    return (
        len(target) >= options.min_length
        and not (options.ban_unk and UNK in target)
        and len(set(ngrams)) == len(ngrams)
    )


@pytest.fixture(scope="session")
def table_model() -> type[TableModel]:
    """``table_model(vocab_size=6, seed=0)``: ids 3 and up are words, 3 the unknown one."""
    return TableModel


@pytest.fixture(scope="session")
def run_folder(train: Callable[..., Any], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that has learned a little: its translations differ from line to line and repeat few tokens."""
    folder = tmp_path_factory.mktemp("runs") / "digits"
    train(f"run={folder}", "train.max_epochs=3", "optimizer.lr=0.01")
    return folder


@pytest.fixture(scope="session")
def translator(run_folder: Path) -> Translator:
    return nmt.load(run_folder)
