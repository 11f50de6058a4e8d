"""The schema of ``nmt-prune``; ``conf/prune.yaml`` holds the defaults and says what each key means."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from nmt.config import option
from nmt.device import Device
from nmt.limits import MAX_COUNT, MAX_THREADS


@dataclass
class PruneBatchOptions:
    """``batch.*``."""

    max_tokens: int = option(minimum=1, maximum=MAX_COUNT)
    max_sentences: int | None = option(minimum=1, maximum=MAX_COUNT)


@dataclass
class PruneOptions:
    """The configuration of ``nmt-prune``; the method's node stays plain until it is built."""

    checkpoint: str = option()
    out: str = option()
    method: Any = option()
    corpus: str | None = option()
    split: str = option()
    device: Device = option()
    threads: int | None = option(minimum=1, maximum=MAX_THREADS)
    plugins: list[str] = option()
    batch: PruneBatchOptions = field(default_factory=PruneBatchOptions)
