"""A checkpoint with random weights, and lines of one length: the same work for every toolkit, whatever was learnt.

    python scripts/make_random_checkpoint.py model=base out=runs/base-random
    nmt-bench checkpoint=runs/base-random input=runs/base-random/input.txt forced_length=25 out=results/bench-base ...

``nmt-train``'s keys choose the model. The vocabulary (32,000 pieces by default) is trained on made-up words; every line
of ``input.txt`` has exactly ``length`` tokens.
"""

from __future__ import annotations

import itertools
import sys
from pathlib import Path

import numpy as np
import torch
from omegaconf import OmegaConf

from nmt.checkpoints.checkpoint import describe, model_files
from nmt.config import compose, parse_options
from nmt.models.tensors import model_tensors
from nmt.registry import build, discover
from nmt.text.subword import VocabularyTraining, train_vocabulary
from nmt.text.vocabulary import Vocabulary, VocabularyPair
from nmt.training.options import TrainOptions

OWN = {"vocab_size": 32000, "lines": 256, "length": 25, "seed": 1}
"""Keys of this script beside ``out``, with their defaults; all others are nmt-train's."""


def made_up_words(number: int, rng: np.random.Generator) -> list[str]:
    """Different words of three syllables."""
    syllables = [c + v for c in "bdfghjklmnprstvwxz" for v in "aeiou"]
    words = ["".join(parts) for parts in itertools.product(syllables, repeat=3)]
    return [words[i] for i in rng.choice(len(words), size=number, replace=False)]


def make_vocabulary(size: int, rng: np.random.Generator) -> tuple[Vocabulary, list[str]]:
    """A sentencepiece model of exactly ``size`` pieces, and words that are one piece each."""
    words = made_up_words(2 * size, rng)
    # Frequencies fall from word to word, so that the first are worth a piece of their own.
    counts = np.maximum(1, 20 * size // np.arange(1, len(words) + 1))
    text = [" ".join([word] * min(int(count), 50)) for word, count in zip(words, counts)]
    vocabulary = train_vocabulary(text, VocabularyTraining(size))
    assert len(vocabulary) == size, "so many words have so many pieces"
    whole = [word for word in words if len(vocabulary.encode(word)) == 1]
    return vocabulary, whole


def main(arguments: list[str]) -> None:
    given = dict(argument.split("=", 1) for argument in arguments)
    if "out" not in given:
        raise SystemExit("make_random_checkpoint: out=FOLDER is required")
    out = Path(given.pop("out"))
    vocab_size, num_lines, length, seed = (int(given.pop(key, default)) for key, default in OWN.items())
    rng = np.random.default_rng(seed)
    vocabulary, words = make_vocabulary(vocab_size, rng)
    pair = VocabularyPair.shared(vocabulary)
    config = compose("train", ["corpus=none", "run=none", *(f"{key}={value}" for key, value in given.items())])
    options = parse_options(TrainOptions, config)
    discover(options.plugins)
    torch.manual_seed(seed)
    model = build("task", options.task, key="task").build_model(options.model, pair)
    merged = {**OmegaConf.to_container(config), "checkpoint": describe(pair, "xx", "yy")}  # type: ignore[dict-item]
    lines = [" ".join(rng.choice(words, size=length)) for _ in range(num_lines)]
    assert {len(ids) for ids in vocabulary.encode_batch(lines)} == {length}
    text = "".join(f"{line}\n" for line in lines)
    more = {"input.txt": lambda path: path.write_text(text, encoding="utf-8")}
    model_files(model_tensors(model), OmegaConf.create(merged), pair, more).write(out)
    print(f"{out}: {sum(p.numel() for p in model.parameters()) / 1e6:.1f} M parameters, {len(vocabulary)} pieces")


if __name__ == "__main__":
    main(sys.argv[1:])
