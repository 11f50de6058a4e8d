"""How long a waiting OpenMP thread should spin: speed of training and decoding on a free and on a busy machine.

    python scripts/bench_threads.py corpus=data/multi30k out=results/threads.json

Every setting of the environment runs ``model`` in processes of its own: one alone, one beside a process that keeps one
core busy, and two at once. Settings take turns, ``repeats`` times; figures are medians. Training (bf16) counts target
tokens a second, decoding (float32, random weights, beam 5, 15 tokens, batch 1 and 32) sentences a second; for two
processes the mean of both.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from itertools import cycle, islice, product
from pathlib import Path
from statistics import mean, median

OWN = {
    "model": "small",
    "seconds": "5",
    "repeats": "3",
    "threads": "2",
    "settings": "",
    "work": "train,decode1,decode32",
    "out": "",
}
"""Keys of this script with their defaults; ``corpus`` has none."""

SETTINGS: dict[str, dict[str, str]] = {
    "torch's default": {},
    "GOMP_SPINCOUNT=10000": {"GOMP_SPINCOUNT": "10000"},
    "GOMP_SPINCOUNT=1000": {"GOMP_SPINCOUNT": "1000"},
    "GOMP_SPINCOUNT=100": {"GOMP_SPINCOUNT": "100"},
    "OMP_WAIT_POLICY=PASSIVE": {"OMP_WAIT_POLICY": "PASSIVE"},
}
LOADS = ("alone", "busy", "two")
BUSY = "while True: pass"
WARM_UP = 3
LINES = 64


def _train(corpus: str, model: str, threads: int, folder: Path) -> Callable[[], int]:
    """A function that makes one update and returns its target tokens."""
    from nmt.config import compose, parse_options
    from nmt.training.options import TrainOptions
    from nmt.training.trainer import Trainer

    keys = [f"corpus={corpus}", f"model={model}", f"run={folder / 'run'}", f"threads={threads}"]
    config = compose("train", [*keys, "train.precision=bf16", "train.max_updates=100000"])
    trainer = Trainer(parse_options(TrainOptions, config), config)
    trainer.model.train()
    batches = cycle(islice(trainer.batches.epoch(1), 200))

    def update() -> int:
        batch = next(batches)
        trainer.updater([batch], 1e-5, rounds=1, stop=False)
        return batch.num_tokens

    return update


def _decode(corpus: str, model: str, threads: int, folder: Path, bsz: int) -> Callable[[], int]:
    """A function that translates ``bsz`` sentences of the test set and returns their number."""
    import torch

    from nmt.config import compose
    from nmt.data.corpus import Corpus
    from nmt.generation.options import SearchOptions
    from nmt.generation.translate import GenerationBatchOptions, translate_ids
    from nmt.models.encoder_decoder import build_model
    from nmt.registry import discover

    discover()
    torch.set_num_threads(threads)
    torch.manual_seed(1)
    opened = Corpus.open(corpus)
    sizes = {"source_size": len(opened.vocabularies.source), "target_size": len(opened.vocabularies.target)}
    node = compose("train", [f"model={model}", f"corpus={corpus}", f"run={folder}"]).model
    built = build_model(node, **sizes, joint=opened.vocabularies.joint).eval()
    test = opened.split("test")
    groups = cycle([test.source_ids(i).tolist() for i in range(at, at + bsz)] for at in range(0, LINES, bsz))
    search, batch = SearchOptions(beam=5, forced_length=15), GenerationBatchOptions(max_sentences=bsz)

    def translate() -> int:
        with torch.inference_mode():
            translate_ids(built, next(groups), search, batch=batch, device=torch.device("cpu"))
        return bsz

    return translate


def worker(work: str, corpus: str, model: str, threads: int, seconds: float) -> None:
    """Say that all is ready, wait for a line, work for so many seconds, and print the rate."""
    with tempfile.TemporaryDirectory(prefix="nmt-bench-threads-") as folder:
        if work == "train":
            step = _train(corpus, model, threads, Path(folder))
        else:
            step = _decode(corpus, model, threads, Path(folder), int(work.removeprefix("decode")))
        for _ in range(WARM_UP):
            step()
        print("ready", flush=True)
        sys.stdin.readline()
        done, begin = 0, time.perf_counter()
        while (spent := time.perf_counter() - begin) < seconds:
            done += step()
        print(done / spent, flush=True)


def rate(words: list[str], load: str, environment: dict[str, str]) -> float:
    """Rate of one process, or the mean of two, under a load."""
    environment = {k: v for k, v in os.environ.items() if k not in ("GOMP_SPINCOUNT", "OMP_WAIT_POLICY")} | environment
    workers = [
        subprocess.Popen(
            [sys.executable, __file__, "worker", *words],
            env=environment,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
        )
        for _ in range(2 if load == "two" else 1)
    ]
    busy = [subprocess.Popen([sys.executable, "-c", BUSY], text=True)] if load == "busy" else []
    try:
        for process in workers:
            assert process.stdout is not None
            if process.stdout.readline() != "ready\n":
                raise SystemExit(f"bench_threads: {' '.join(words)} failed with status {process.wait()}")
        for process in workers:
            assert process.stdin is not None
            process.stdin.write("go\n")
            process.stdin.flush()
        return mean(float(process.stdout.readline()) for process in workers if process.stdout is not None)
    finally:
        for process in [*workers, *busy]:
            process.kill()
            process.wait()


def main(arguments: list[str]) -> None:
    from nmt.provenance import provenance

    given = {**OWN, **dict(argument.split("=", 1) for argument in arguments)}
    settings = given["settings"].split(",") if given["settings"] else list(SETTINGS)
    cases = list(product(given["work"].split(","), map(int, given["threads"].split(",")), LOADS))
    total = int(given["repeats"]) * len(cases) * len(settings)
    rates: dict[tuple[str, int, str, str], list[float]] = {}
    begin, done = time.perf_counter(), 0
    for _ in range(int(given["repeats"])):
        for (work, threads, load), name in product(cases, settings):
            words = [work, given["corpus"], given["model"], str(threads), given["seconds"]]
            rates.setdefault((work, threads, load, name), []).append(rate(words, load, SETTINGS[name]))
            done += 1
            left = (time.perf_counter() - begin) / done * (total - done)
            told = f"{work}, {threads} threads, {load}, {name}: {rates[work, threads, load, name][-1]:.1f}"
            print(f"{done} of {total}: {told} (ETA {left:.0f} s)", file=sys.stderr)
    rows = [
        {"work": work, "threads": threads, "load": load, "setting": name, "rate": median(found), "all": found}
        for (work, threads, load, name), found in rates.items()
    ]
    text = json.dumps({**provenance(), "model": given["model"], "rows": rows}, indent=1)
    if given["out"]:
        Path(given["out"]).parent.mkdir(parents=True, exist_ok=True)
        Path(given["out"]).write_text(text + "\n", encoding="utf-8")
    else:
        print(text)


if __name__ == "__main__":
    if sys.argv[1:2] == ["worker"]:
        worker(sys.argv[2], sys.argv[3], sys.argv[4], int(sys.argv[5]), float(sys.argv[6]))
    else:
        main(sys.argv[1:])
