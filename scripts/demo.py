"""From nothing to translations: writes the built-in corpus, trains a tiny model on it and translates its test set.

    make demo

Everything lands in ``runs/demo``, which each run replaces. The commands are printed as they run: they are those that
you would type for a corpus of your own.
"""

from __future__ import annotations

import shlex
import shutil
import subprocess
import sys
import time
from pathlib import Path

DEMO = Path("runs/demo")
BIN = Path(sys.executable).parent
TRAINING = [
    "model=tiny",
    "model.dropout=0",  # a few epochs of ever new sentences: there is nothing to overfit
    "batch.max_tokens=1024",
    "optimizer.lr=4e-3",
    "schedule=cosine",
    "schedule.warmup_updates=200",
    "train.max_updates=1800",
    "validate.every=600",
    "validate.max_sentences=200",
    "checkpoints.every=600",
]
SHOWN = 5


def run(program: str, *arguments: str) -> None:
    """Run one step, printing the command and its time."""
    name = Path(program).name
    print(f"\n$ {shlex.join([name, *arguments])}", flush=True)
    start = time.monotonic()
    command = [sys.executable, program] if program.endswith(".py") else [str(BIN / program)]
    done = subprocess.run([*command, *arguments], check=False)
    if done.returncode:
        raise SystemExit(f"demo: {name} failed with status {done.returncode}")
    print(f"[{time.monotonic() - start:.0f} s]", flush=True)


def show(folder: Path) -> None:
    """Print the first sentences of the test set with their translations."""
    files = (folder / "raw/test.en", folder / "test.hyp", folder / "raw/test.qav")
    lines = zip(*(path.read_text(encoding="utf-8").split("\n") for path in files), strict=True)
    for (source, translation, reference), _ in zip(lines, range(SHOWN), strict=False):
        print(f"\nsource      {source}\ntranslation {translation}\nreference   {reference}")


def main() -> None:
    start = time.monotonic()
    shutil.rmtree(DEMO, ignore_errors=True)
    raw, corpus, model = DEMO / "raw", DEMO / "corpus", DEMO / "model"
    splits = [f"{name}={raw / name}" for name in ("train", "valid", "test")]
    run(str(Path(__file__).with_name("make_corpus.py")), f"out={raw}")
    run("nmt-preprocess", "source=en", "target=qav", *splits, "vocab_size=2000", f"out={corpus}")
    run("nmt-train", f"corpus={corpus}", f"run={model}", *TRAINING)
    run("nmt-generate", f"checkpoint={model}", f"corpus={corpus}", "split=test", f"output={DEMO / 'test.hyp'}")
    show(DEMO)
    print(f"\nThe demo took {time.monotonic() - start:.0f} s; the model is in {model}.")


if __name__ == "__main__":
    main()
