"""Speed of training: target tokens a second of variants of one configuration, in turn on the same batches.

    python scripts/bench_training.py corpus=data/multi30k model=small variants=fp32,bf16,bf16+compile
    python scripts/bench_training.py corpus=data/multi30k variants=fp32,fp32+model.encoder.feed_forward.name=moe

``nmt-train``'s keys choose the model and the batches. A variant is a precision, and after plus signs ``compile`` or
further keys of ``nmt-train``. In every repeat each variant makes ``updates`` updates on the same batches; figures are
medians over the repeats, ratios are those to the first variant, repeat by repeat.
"""

from __future__ import annotations

import json
import sys
import tempfile
import time
from itertools import islice
from pathlib import Path
from statistics import median
from typing import Any

import torch

from nmt.config import compose, parse_options
from nmt.device import peak_memory_mib
from nmt.files import write_text
from nmt.provenance import provenance
from nmt.training.options import TrainOptions
from nmt.training.trainer import Trainer

OWN = {"variants": "fp32,bf16", "updates": "40", "repeats": "5", "out": ""}
"""Keys of this script with their defaults; all others are nmt-train's."""

WARM_UP_UPDATES = 5


def make_trainer(variant: str, overrides: list[str], run: Path) -> Trainer:
    """A trainer of a new run."""
    precision, *more = variant.split("+")
    keys = [f"train.precision={precision}", "train.max_updates=100000"]
    keys += ["compile=true" if key == "compile" else key for key in more]
    config = compose("train", [*overrides, *keys, f"run={run}"])
    trainer = Trainer(parse_options(TrainOptions, config), config)
    trainer.model.train()
    return trainer


def updates_seconds(trainer: Trainer, batches: list[Any]) -> float:
    """Seconds of one update for each batch."""
    begin = time.perf_counter()
    for batch in batches:
        trainer.updater([batch], 1e-5, rounds=1, stop=False)
    return time.perf_counter() - begin


def main(arguments: list[str]) -> None:
    given = dict(argument.split("=", 1) for argument in arguments)
    variants, updates, repeats, out = (given.pop(key, default) for key, default in OWN.items())
    overrides = [f"{key}={value}" for key, value in given.items()]
    names = variants.split(",")
    with tempfile.TemporaryDirectory(prefix="nmt-bench-training-") as folder:
        trainers = {name: make_trainer(name, overrides, Path(folder) / str(i)) for i, name in enumerate(names)}
        first = trainers[names[0]]
        batches = list(islice(first.batches.epoch(1), int(updates)))
        tokens = sum(batch.num_tokens for batch in batches)
        rates: dict[str, list[float]] = {name: [] for name in names}
        for name, trainer in trainers.items():
            print(f"{name}: warm-up", file=sys.stderr)
            updates_seconds(trainer, batches if trainer.options.compile else batches[:WARM_UP_UPDATES])
        for repeat in range(int(repeats)):
            for name, trainer in trainers.items():
                rates[name].append(tokens / updates_seconds(trainer, batches))
                print(f"{repeat + 1} of {repeats}: {name} {rates[name][-1]:.0f} tokens/s", file=sys.stderr)
        rows = [
            {
                "variant": name,
                "tokens_per_second": median(rates[name]),
                "speedup": median(a / b for a, b in zip(rates[name], rates[names[0]])),
                "all": rates[name],
            }
            for name in names
        ]
        padding = first.batches.padding_share(1)
        facts = {"updates": len(batches), "target_tokens": tokens, "padding_share": padding}
        facts.update(peak_mib_of_all=peak_memory_mib(first.device), threads=torch.get_num_threads())
    for row in rows:
        print(f"{row['variant']:32} {row['tokens_per_second']:8.0f} target tokens/s  {row['speedup']:5.2f} x")
    if out:
        write_text(Path(out), json.dumps({"rows": rows, **facts, **provenance()}, indent=1) + "\n")


if __name__ == "__main__":
    main(sys.argv[1:])
