"""What two processes do in one start for ``test_ranks.py``; the arguments are those of every training."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

from nmt.config import compose, parse_options
from nmt.parallel.ranks import leave
from nmt.training.options import TrainOptions
from nmt.training.trainer import Trainer
from nmt.training.update import TrainingError


def train(*overrides: str) -> Trainer:
    config = compose("train", [*sys.argv[1:], *overrides])
    trainer = Trainer(parse_options(TrainOptions, config), config)
    trainer.fit()
    return trainer


def main() -> None:
    noise = ["model.dropout=0.3", "model.encoder.stack.layer_drop=0.4"]
    faulty = ["plugins=[faulty]", "criterion.name=faulty"]
    train("run=whole", "train.max_updates=16", *noise)
    train("run=longer", "train.max_updates=5", *noise)
    train("run=longer", "train.max_updates=16", *noise)

    os.environ["FAULT"] = "SIGTERM"
    try:
        train("run=stopped", "train.max_updates=16", *noise, *faulty)
    except KeyboardInterrupt:
        Path(f"stopped.{os.environ['RANK']}").write_text(Path("stopped/checkpoints/last").readlink().name)
    os.environ.pop("FAULT", None)
    train("run=stopped", "train.max_updates=16", *noise, *faulty)

    os.environ["FAULT"] = "validation"
    try:
        train("run=broken_off", "train.max_updates=16", *noise, *faulty)
    except KeyboardInterrupt:
        events = [json.loads(line)["event"] for line in Path("broken_off/metrics.jsonl").read_text().splitlines()]
        where = Path("broken_off/checkpoints/last").readlink().name
        Path(f"broken_off.{os.environ['RANK']}").write_text(" ".join([where, *events]))
    os.environ.pop("FAULT", None)
    train("run=broken_off", "train.max_updates=16", *noise, *faulty)

    train("run=damaged", "train.max_updates=8", *noise)
    if os.environ["RANK"] == "0":
        Path("damaged/checkpoints/last/model.safetensors").write_bytes(b"damaged")
    train("run=damaged", "train.max_updates=16", *noise)

    train("run=fewer", "train.max_updates=4", "train.accumulate=1")
    train("run=unsharded", "train.max_updates=4", "train.accumulate=1", "train.parallel=shard")
    train("run=more", "train.max_updates=16", "train.accumulate=1")
    train("run=sharded", "train.max_updates=16", "train.accumulate=1", "train.parallel=shard")

    os.environ["FAULT"] = "nan"
    try:
        train("run=broken", "train.max_updates=16", *faulty)
    except TrainingError as error:
        Path(f"broken.{os.environ['RANK']}").write_text(str(error))
    leave()


main()
