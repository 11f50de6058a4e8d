"""What two processes do in one start for ``test_experts.py``; the arguments are those of every training."""

from __future__ import annotations

import sys

import torch

from nmt.config import compose, parse_options
from nmt.parallel.ranks import leave
from nmt.training.options import TrainOptions
from nmt.training.trainer import Trainer


def train(*overrides: str) -> None:
    config = compose("train", [*sys.argv[1:], *overrides])
    Trainer(parse_options(TrainOptions, config), config).fit()


def main() -> None:
    train("run=narrow", "train.max_updates=3", "train.precision=bf16", "validate.translate=true", "validate.beam=2")
    torch.set_default_dtype(torch.float64)
    train("run=whole", "train.max_updates=12", "checkpoints.average=2")
    train("run=fewer", "train.max_updates=4")
    train("run=sharded", "train.max_updates=4")
    train("run=sharded", "train.max_updates=12", "train.parallel=shard")
    train("run=more", "train.max_updates=12")
    leave()


main()
