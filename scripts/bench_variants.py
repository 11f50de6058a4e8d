"""Decoding speed of variants of one model side by side: the same width, random weights, a forced length.

    python scripts/bench_variants.py out=results/decoding_variants

Makes a checkpoint of each variant under ``runs/variants`` (`make_random_checkpoint.py`) and measures all in one run of
nmt-bench, whose keys can be given: ``lines=8 repeats=1`` for a trial.
"""

from __future__ import annotations

import sys
from pathlib import Path

import make_random_checkpoint

from nmt.benchmark.options import BenchOptions
from nmt.benchmark.run import run_benchmark
from nmt.config import compose, parse_options

FOLDER = Path("runs/variants")
SIZE = ["vocab_size=8000", "length=25"]
MEASURE = ["search.beam=[4]", "batch=[1,32]", "forced_length=25", "lines=32", "repeats=3"]

CROSS = "model.decoder.cross_attention={name: shared, policy: [6], share: context}"
VARIANTS: dict[str, tuple[str, list[str]]] = {
    "base": ("6-6 (`base`)", ["model=base"]),
    "deep_shallow": ("12-1 (`deep_shallow`)", ["model=deep_shallow"]),
    "base_6_1": ("6-1 (`base_6_1`)", ["model=base_6_1"]),
    "base_9_2": ("9-2 (`base_9_2`)", ["model=base_9_2"]),
    "compressed": ("9-2, compressed decoder layers", ["model=base_9_2", "model.decoder.layer.name=compressed"]),
    "shared_cross": ("6-6, cross-attention shared by all 6 layers", ["model=base", CROSS]),
    "shared_both": (
        "6-6, self- and cross-attention shared by all 6",
        ["model=base", CROSS, "model.decoder.self_attention={name: shared, policy: [6]}"],
    ),
    "average": (
        "6-6, average attention without its network",
        ["model=base", "model.decoder.self_attention={name: average, ffn: false}"],
    ),
    "ssru": ("6-6, SSRU", ["model=base", "model.decoder.self_attention.name=ssru"]),
}
"""Name of the checkpoint: what it is, in words and as keys of nmt-train."""


def main(arguments: list[str]) -> None:
    if not any(argument.startswith("out=") for argument in arguments):
        raise SystemExit("bench_variants: out=FOLDER is required")
    folders = {name: FOLDER / name for name in VARIANTS}
    names = ",".join(map(str, folders.values()))
    given = [f"checkpoint=[{names}]", f"input={FOLDER}/base/input.txt", *MEASURE, *arguments]
    options = parse_options(BenchOptions, compose("bench", given))  # what is wrong with the keys shows now
    for name, (_, keys) in VARIANTS.items():
        make_random_checkpoint.main([f"out={folders[name]}", *SIZE, *keys])
    run_benchmark(options)
    print((Path(options.out) / "report.md").read_text(encoding="utf-8"))


if __name__ == "__main__":
    main(sys.argv[1:])
