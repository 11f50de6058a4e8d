"""The schema of ``nmt-train``; ``conf/train.yaml`` holds the defaults and says what each key means."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import Enum
from typing import Any

from nmt.config import Texts, option
from nmt.data.options import BatchOptions, SubwordOptions
from nmt.device import Device
from nmt.limits import MAX_COUNT, MAX_SEED, MAX_THREADS, MAX_WEIGHT
from nmt.parallel.options import Parallel
from nmt.tasks.options import EvaluationOptions


class Precision(Enum):
    """Number format of the forward and backward pass; weights stay in float32."""

    fp32 = "fp32"
    bf16 = "bf16"
    fp16 = "fp16"


@dataclass
class LoopOptions:
    """``train.*``."""

    max_updates: int | None = option(minimum=1, maximum=MAX_COUNT)
    max_epochs: int | None = option(minimum=1, maximum=MAX_COUNT)
    accumulate: int = option(minimum=1, maximum=MAX_COUNT)
    parallel: Parallel = option()
    clip_norm: float = option(minimum=0, maximum=MAX_WEIGHT)
    patience: int | None = option(minimum=1, maximum=MAX_COUNT)
    precision: Precision = option()
    ema: float = option(minimum=0, below=1)
    log_every: int = option(minimum=1, maximum=10)
    max_skipped: int = option(minimum=0, maximum=MAX_COUNT)


@dataclass
class ValidateOptions(EvaluationOptions):
    """``validate.*``."""

    every: int | None = option(minimum=1, maximum=MAX_COUNT)
    metric: str | None = option()
    translate: bool = option()


@dataclass
class CheckpointOptions:
    """``checkpoints.*``."""

    every: int | None = option(minimum=1, maximum=MAX_COUNT)
    keep_last: int = option(minimum=1, maximum=MAX_COUNT)
    keep_best: int = option(minimum=1, maximum=MAX_COUNT)
    average: int = option(minimum=0, maximum=MAX_COUNT)


@dataclass
class TrainOptions:
    """The whole configuration of a training run; components' nodes stay plain until they are built."""

    corpus: Texts = option()
    verify: bool = option()
    mix: list[float] | None = option(above=0, maximum=MAX_WEIGHT)
    run: str = option()
    init_from: str | None = option()
    task: Any = option()
    model: Any = option()
    criterion: Any = option()
    optimizer: Any = option()
    schedule: Any = option()
    callbacks: list[Any] = option()
    plugins: list[str] = option()
    seed: int = option(minimum=0, maximum=MAX_SEED)
    device: Device = option()
    threads: int | None = option(minimum=1, maximum=MAX_THREADS)
    compile: bool = option()
    train: LoopOptions = field(default_factory=LoopOptions)
    batch: BatchOptions = field(default_factory=BatchOptions)
    subword: SubwordOptions = field(default_factory=SubwordOptions)
    validate: ValidateOptions = field(default_factory=ValidateOptions)
    checkpoints: CheckpointOptions = field(default_factory=CheckpointOptions)
