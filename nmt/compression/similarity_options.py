"""The schema of ``nmt-similarity``; ``conf/similarity.yaml`` holds the defaults and says what each key means."""

from __future__ import annotations

from dataclasses import dataclass, field

from nmt.config import option
from nmt.device import Device
from nmt.generation.options import GenerationBatchOptions
from nmt.limits import MAX_COUNT


@dataclass
class SimilarityOptions:
    """The configuration of ``nmt-similarity``."""

    checkpoint: str = option()
    corpus: str = option()
    split: str = option()
    max_sentences: int | None = option(minimum=1, maximum=MAX_COUNT)
    out: str = option()
    theta_self: float = option(minimum=0, maximum=1)
    theta_cross: float = option(minimum=0, maximum=1)
    theta_encoder: float = option(minimum=0, maximum=1)
    run: str | None = option()
    device: Device = option()
    plugins: list[str] = option()
    batch: GenerationBatchOptions = field(default_factory=GenerationBatchOptions)
