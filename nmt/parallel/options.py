"""Ways to share a training (``train.parallel``)."""

from __future__ import annotations

from enum import Enum


class Parallel(Enum):
    """What each of several processes holds of the model."""

    replicate = "replicate"
    shard = "shard"
    experts = "experts"
