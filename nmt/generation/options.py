"""The options of a search and the lengths that follow from them."""

from __future__ import annotations

import sys
from dataclasses import dataclass, field, fields, make_dataclass
from enum import Enum
from typing import TYPE_CHECKING, Any, TypeVar, get_type_hints

from nmt.config import ConfigError, Texts, option
from nmt.device import Device
from nmt.limits import MAX_BEAM, MAX_COUNT, MAX_LENGTH, MAX_LENGTH_PENALTY, MAX_SEED, MAX_THREADS, MAX_VOCABULARY

if TYPE_CHECKING:
    from torch import Tensor

N = TypeVar("N", float, "Tensor")


class Sampling(Enum):
    """Whether the next token is drawn."""

    none = "none"
    random = "random"


class Precision(Enum):
    """Number format of weights and activations; log-probabilities and scores are always float32."""

    fp32 = "float32"
    bf16 = "bfloat16"


class OutputFormat(Enum):
    """What ``nmt-generate`` writes."""

    text = "text"
    jsonl = "jsonl"


class LengthNorm(Enum):
    """What a log-probability is divided by, as a function of the length."""

    power = "power"
    gnmt = "gnmt"


MAX_LENGTH_RATIO = 100.0
"""Target tokens a source token: characters of one language for words of another stay below it."""

MAX_PENALTY = 100.0
"""In nats: no model tells probabilities below e^-100 from 0."""


@dataclass
class GenerationBatchOptions:
    """How many sentences are searched together. It changes speed and memory, not results."""

    max_tokens: int = option(
        4096, "sentences x longest source (EOS and padding counted, beam not) a batch", minimum=1, maximum=MAX_COUNT
    )
    max_sentences: int = option(64, "sentences a batch", minimum=1, maximum=MAX_COUNT)


@dataclass
class SearchOptions:
    """How translations are searched. Lengths are target tokens without EOS unless they say otherwise.

    ``conf/generate.yaml`` shows the same defaults to users of the commands (a test compares the two).
    """

    beam: int = option(5, "hypotheses kept a step; 1 is greedy search", minimum=1, maximum=MAX_BEAM)
    nbest: int = option(1, "hypotheses returned a sentence (samples when sampling)", minimum=1, maximum=MAX_BEAM)
    length_penalty: float = option(
        1.0,
        "score = log-probability / length ** length_penalty; length counts EOS",
        minimum=-MAX_LENGTH_PENALTY,
        maximum=MAX_LENGTH_PENALTY,
    )
    length_norm: LengthNorm = option(
        LengthNorm.power, "what is raised to length_penalty: power: the length; gnmt: (5 + length) / 6"
    )
    unk_penalty: float = option(
        0.0, "subtracted from the log-probability of every unknown word in a score", minimum=0, maximum=MAX_PENALTY
    )
    ban_unk: bool = option(False, "no unknown words")
    patience: float = option(
        1.0, "a search stops after patience x beam finished hypotheses", minimum=1, maximum=MAX_LENGTH
    )
    early_stop: bool = option(True, "stop as soon as no live hypothesis can enter the n best; loses nothing")
    min_length: int = option(1, "fewest tokens", minimum=0, maximum=MAX_LENGTH)
    max_length_ratio: float = option(
        2.0, "most tokens: ratio x source tokens + offset", minimum=0, maximum=MAX_LENGTH_RATIO
    )
    max_length_offset: int = option(
        10, "most tokens: ratio x source tokens + offset; min_length at least", minimum=0, maximum=MAX_LENGTH
    )
    forced_length: int | None = option(
        None, "exactly this many tokens and no EOS, in as many steps", minimum=1, maximum=MAX_LENGTH
    )
    no_repeat_ngram: int = option(
        0, "no n-gram of this size occurs twice in a hypothesis; 0: off", minimum=0, maximum=MAX_LENGTH
    )
    no_repeat_except: list[str] = option([], "pieces or words: an n-gram that holds one of them may occur again")
    diverse_groups: int = option(
        1, "diverse beam search: groups that the beam is split into", minimum=1, maximum=MAX_BEAM
    )
    diversity: float = option(
        0.5, "diverse beam search: penalty for a token that earlier groups took", minimum=0, maximum=MAX_PENALTY
    )
    sampling: Sampling = option(Sampling.none, "draw tokens instead of a beam")
    temperature: float = option(1.0, "sampling: logits are divided by it", minimum=0.001, maximum=1000)
    top_k: int = option(0, "sampling: draw among the k most probable tokens; 0: all", minimum=0, maximum=MAX_VOCABULARY)
    top_p: float = option(1.0, "sampling: draw among the most probable tokens that hold p together", above=0, maximum=1)
    seed: int = option(1, "sampling: the same seed and line give the same samples", minimum=0, maximum=MAX_SEED)

    def __post_init__(self) -> None:
        if self.ban_unk and self.unk_penalty:
            raise ConfigError(f"search.unk_penalty={self.unk_penalty} has no meaning: search.ban_unk=true")
        if self.no_repeat_except and not self.no_repeat_ngram:
            raise ConfigError(
                f"search.no_repeat_except=[{','.join(self.no_repeat_except)}] has no meaning: search.no_repeat_ngram=0"
            )
        if self.forced_length is not None and self.min_length > self.forced_length:
            raise ConfigError(f"search.min_length={self.min_length} exceeds search.forced_length={self.forced_length}")
        if self.sampling is not Sampling.none or self.beam < 1 or self.diverse_groups < 1:
            return  # ranges are checked where options are parsed
        if self.nbest > self.beam:
            raise ConfigError(f"search.nbest={self.nbest} is out of range: it must be at most search.beam={self.beam}")
        if self.beam % self.diverse_groups:
            raise ConfigError(f"search.diverse_groups={self.diverse_groups} does not divide search.beam={self.beam}")

    @property
    def rows(self) -> int:
        """Decoder rows a sentence."""
        return self.beam if self.sampling is Sampling.none else self.nbest

    def norm(self, length: N) -> N:
        """What a log-probability is divided by for its score; ``length`` counts EOS.

        ``gnmt`` is Wu et al. 2016, arXiv:1609.08144, eq. 14: ((5 + length) / (5 + 1)) ** length_penalty.
        """
        base = length if self.length_norm is LengthNorm.power else (length + 5) / 6
        return base**self.length_penalty

    def longest(self, source_length: int, prefix_length: int, max_target_length: int | None) -> int:
        """Most target tokens (without EOS) for a sentence.

        Args:
            source_length: source tokens without EOS.
            prefix_length: target tokens that are given; there is always room for ``max_length_offset`` more.
            max_target_length: the model's limit, EOS counted; None: no limit.

        Raises:
            ConfigError: ``forced_length`` or ``min_length`` does not fit the model.
        """
        room = sys.maxsize if max_target_length is None else max_target_length
        if self.forced_length is not None:
            if self.forced_length > room:
                raise ConfigError(f"search.forced_length={self.forced_length}: the model allows {room} tokens at most")
            return self.forced_length
        if self.min_length > room - 1:
            raise ConfigError(f"search.min_length={self.min_length}: the model allows {room - 1} tokens at most")
        asked = int(self.max_length_ratio * source_length + self.max_length_offset)
        return min(max(asked, self.min_length, prefix_length + self.max_length_offset), room - 1)


if TYPE_CHECKING:
    GivenSearchOptions = SearchOptions
else:
    _TYPES = get_type_hints(SearchOptions)
    GivenSearchOptions = make_dataclass(
        "GivenSearchOptions",
        [(f.name, _TYPES[f.name] | None, field(default=None, metadata=f.metadata)) for f in fields(SearchOptions)],
    )
    """``SearchOptions`` of which some may be given: None stands for what was not."""


def given_search(options: GivenSearchOptions) -> dict[str, Any]:
    """The fields of ``GivenSearchOptions`` that were given."""
    return {f.name: value for f in fields(options) if (value := getattr(options, f.name)) is not None}


@dataclass
class GenerateOptions:
    """The configuration of ``nmt-generate``; ``conf/generate.yaml`` says what each key means."""

    checkpoint: Texts = option()
    input: str | None = option()
    corpus: str | None = option()
    split: str = option()
    output: str = option()
    format: OutputFormat = option()
    token_scores: bool = option()
    prefix: str | None = option()
    score_target: str | None = option()
    buffer: int = option(minimum=1, maximum=MAX_COUNT)
    device: Device = option()
    precision: Precision = option()
    threads: int | None = option(minimum=1, maximum=MAX_THREADS)
    plugins: list[str] = option()
    search: GivenSearchOptions = field(default_factory=GivenSearchOptions)
    batch: GenerationBatchOptions = field(default_factory=GenerationBatchOptions)

    def __post_init__(self) -> None:
        if (self.input is None) == (self.corpus is None):
            raise ConfigError("give either input=FILE (or input=-) or corpus=FOLDER")
        if self.score_target is not None and self.prefix is not None:
            raise ConfigError("score_target and prefix exclude each other: a given target is whole")
        for key in ("ban_unk", "no_repeat_except"):
            if self.score_target is not None and getattr(self.search, key, None):
                raise ConfigError(f"search.{key} and score_target exclude each other: a given target is not searched")
        if self.token_scores and self.format is OutputFormat.text:
            raise ConfigError("token_scores=true needs format=jsonl")
