"""Words ranked by frequency: counted when a training begins, kept by checkpoints, averages and resuming."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from nmt.checkpoints.average import average_checkpoints
from nmt.checkpoints.checkpoint import load_model
from nmt.checkpoints.checksums import SUMS_FILE, write_sums
from nmt.config import DataError
from nmt.data.corpus import Corpus
from nmt.generation.translator import Translator

ADAPTIVE = [
    "model.output={name: adaptive, cutoffs: [6, 10]}",
    "model.embedding={name: adaptive, share: all, cutoffs: [6, 10], max_positions: 64}",
]


def test_order_of_a_training(train, digits: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    train(f"run={run}", *ADAPTIVE, "train.max_updates=4", "checkpoints.every=2", "checkpoints.keep_last=2")
    loaded = load_model(run)
    ranks = loaded.model.output.order.ranks
    assert loaded.model.embedding.source.words.order is loaded.model.output.order
    split = Corpus.open(digits).split("train")
    counts = torch.zeros(len(ranks), dtype=torch.int64)
    for line in range(len(split)):
        for ids in (split.source_ids(line), split.target_ids(line)):
            counts += torch.bincount(torch.tensor([*ids.tolist(), 2]), minlength=len(ranks))
    order = ranks.argsort()
    assert order[:4].tolist() == [0, 1, 2, 3]
    assert counts[order[4:]].diff().le(0).all()
    assert not order.equal(torch.arange(len(order)))
    # going on, averaging
    train(f"run={run}", *ADAPTIVE, "train.max_updates=6", "checkpoints.every=2", "checkpoints.keep_last=2")
    assert load_model(run).model.output.order.ranks.equal(ranks)
    average_checkpoints([str(run)], 2, str(tmp_path / "average"))
    assert load_model(tmp_path / "average").model.output.order.ranks.equal(ranks)
    # searching with and without all log-probabilities
    translator = Translator.load(run, device="cpu")
    lines = ["1 2 3", "9 4 4 1"]
    fast = translator.translate(lines, beam=3)
    for model in translator.models:
        model.output.top_log_probs = lambda hidden, k, output=model.output: output.log_probs(hidden)
    assert translator.translate(lines, beam=3) == fast


@pytest.mark.parametrize("wrong", [[0, 0], [24, 25], [-1, 0], [1, 0]])
def test_what_is_no_order_is_refused(train, tmp_path: Path, wrong: list[int]) -> None:
    run = tmp_path / "run"
    train(f"run={run}", *ADAPTIVE, "train.max_updates=1")
    path = next((run / "checkpoints").glob("update-*")) / "model.safetensors"
    tensors = load_file(path)
    [name] = [name for name in tensors if name.endswith("ranks")]
    tensors[name][:2] = torch.tensor(wrong)
    save_file(tensors, path)
    write_sums(path.with_name(SUMS_FILE))
    with pytest.raises(DataError, match=r"ranks is not an order of the model's \d+ words$"):
        load_model(path.parent)
