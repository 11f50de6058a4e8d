"""The schema of ``nmt-bench`` and the systems that it asks for."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from nmt.config import ConfigError, Texts, option, suggest
from nmt.device import Device
from nmt.generation.options import Precision
from nmt.limits import MAX_BEAM, MAX_COUNT, MAX_LENGTH, MAX_LENGTH_PENALTY, MAX_THREADS

OWN = "nmt"
PEERS: dict[str, dict[str, str]] = {
    "ctranslate2": {
        "fp32": "float32",
        "bf16": "bfloat16",
        "fp16": "float16",
        "int8": "int8",
        "int8_bf16": "int8_bfloat16",
        "int8_fp16": "int8_float16",
    },
    "hf": {"fp32": "float32", "bf16": "bfloat16", "fp16": "float16"},
}
"""Toolkits and their number formats: our name and theirs."""


@dataclass
class BenchSearchOptions:
    """``search.*``: what all toolkits have in common."""

    beam: Any = option(minimum=1, maximum=MAX_BEAM)
    length_penalty: float | None = option(minimum=-MAX_LENGTH_PENALTY, maximum=MAX_LENGTH_PENALTY)


@dataclass
class BenchOptions:
    """The configuration of ``nmt-bench``; ``conf/bench.yaml`` says what each key means."""

    checkpoint: Texts = option()
    input: str = option()
    reference: str | None = option()
    out: str = option()
    precision: Texts = option()
    peers: list[str] = option()
    batch: Any = option(minimum=1, maximum=MAX_COUNT)
    lines: int | None = option(minimum=1, maximum=MAX_COUNT)
    repeats: int = option(minimum=1, maximum=MAX_COUNT)
    forced_length: int | None = option(minimum=1, maximum=MAX_LENGTH)
    profile: bool = option()
    device: Device = option()
    threads: int | None = option(minimum=1, maximum=MAX_THREADS)
    plugins: list[str] = option()
    search: BenchSearchOptions = field(default_factory=BenchSearchOptions)

    def __post_init__(self) -> None:
        self.checkpoints = [str(path) for path in _listed(self.checkpoint)]
        given = isinstance(self.search, BenchSearchOptions)
        self.beams = _numbers("search.beam", self.search.beam, MAX_BEAM) if given else []
        self.batches = _numbers("batch", self.batch, MAX_COUNT)
        self.precisions = [_precision(name) for name in _listed(self.precision)]
        self.peer_formats = [_peer(text) for text in self.peers]
        for key, values in (("checkpoint", self.checkpoints), ("precision", self.precisions)):
            if not values:
                raise ConfigError(f"{key}=[]: give at least one")
        for key, values in (("checkpoint", self.checkpoints), ("peers", self.peers)):
            if len(set(values)) < len(values):
                raise ConfigError(f"{key}=[{','.join(values)}]: one is given twice")


@dataclass(frozen=True)
class SystemSpec:
    """One system: a toolkit that runs a model in a number format.

    Attributes:
        system: ``nmt`` or one of ``PEERS``.
        checkpoint: as the user named it.
        precision: our name of the format.
        folder: what the toolkit opens: the checkpoint, or its export.
        digest: of what the checkpoint holds.
    """

    system: str
    checkpoint: str
    precision: str
    folder: str
    digest: str = ""

    def __str__(self) -> str:
        return f"{self.system} {self.precision} {self.checkpoint}"


def _listed(value: Any) -> list[Any]:
    return list(value) if isinstance(value, Sequence) and not isinstance(value, str) else [value]


def _numbers(key: str, value: Any, most: int) -> list[int]:
    numbers = _listed(value)
    wrong = [n for n in numbers if isinstance(n, bool) or not isinstance(n, int) or not 1 <= n <= most]
    if wrong or not numbers or len(set(numbers)) < len(numbers):
        raise ConfigError(f"{key}={value}: give a number of at least 1 and at most {most}, or a list of different ones")
    return numbers


def _precision(name: Any) -> str:
    valid = [p.name for p in Precision]
    if name not in valid:
        raise ConfigError(f"precision={name}: valid options: {', '.join(valid)}{suggest(str(name), valid)}")
    return str(name)


def _peer(text: str) -> tuple[str, str]:
    """Name and format of an entry of ``peers``."""
    name, _, precision = text.partition(":")
    if name not in PEERS:
        raise ConfigError(f"peers: no such toolkit: {name!r}; valid options: {', '.join(PEERS)}{suggest(name, PEERS)}")
    precision = precision or "fp32"
    if precision not in PEERS[name]:
        raise ConfigError(f"peers={text}: formats of {name}: {', '.join(PEERS[name])}{suggest(precision, PEERS[name])}")
    return name, precision
