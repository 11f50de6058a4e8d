"""A training that begins with the weights of a checkpoint begins with its model, whatever its own data would give."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.testing import assert_close

from nmt.checkpoints.checkpoint import load_model
from nmt.data.corpus import Corpus
from nmt.models.encoder_decoder import full_log_probs
from nmt.models.from_data import FromData, check_from_data, use_data
from nmt.models.tensors import model_tensors
from nmt.registry import discover, slots

discover()

MODEL_SLOTS = [name for name, slot in slots().items() if slot.key.startswith("model.")]
SIDES = dict.fromkeys(("self_attention", "feed_forward", "layer", "stack"), ("encoder", "decoder"))
CASES = {
    f"{slot}-{name}": [
        f"{slots()[slot].key.replace('{encoder,decoder}', side)}.name={name}"
        for side in ("decoder", *SIDES.get(slot, ())[:1])
        if not (side == "encoder" and (slot == "layer" or getattr(component.factory, "causal_only", False)))
    ]
    for slot in MODEL_SLOTS
    for name, component in slots()[slot].components.items()
}
CASES["adaptive both, shared"] = [
    "model.embedding={name: adaptive, share: all, cutoffs: [6, 12]}",
    "model.output={name: adaptive, cutoffs: [6, 12]}",
]
CASES["adaptive both, apart"] = [
    "model.embedding={name: adaptive, share: none, cutoffs: [6, 12]}",
    "model.output={name: adaptive, cutoffs: [5, 11]}",
]


@pytest.fixture(scope="module")
def corpora(make_corpus) -> tuple[Path, Path]:
    """Two with one vocabulary, in which other words are frequent."""
    first = make_corpus(40, seed=1)

    def sevens(row: Sequence[str]) -> list[str]:
        return ["7" if digit < "5" else digit for digit in row]

    return first, make_corpus(40, seed=2, vocabulary=str(first), target=sevens)


@pytest.mark.parametrize("overrides", CASES.values(), ids=CASES)
def test_a_new_run_begins_with_the_model_it_was_given(
    overrides: list[str], corpora: tuple[Path, Path], make_trainer: Any, tmp_path: Path
) -> None:
    """Log-probabilities at update 0 are those of the checkpoint, for every component that fills a slot of a model."""
    here, elsewhere = map(str, corpora)
    short = [f"corpus={here}", "train.max_updates=1", *overrides]
    trained = make_trainer(f"run={tmp_path / 'a'}", "seed=3", *short)
    for parameter in trained.model.parameters():
        nn.init.normal_(parameter, std=0.3)  # what no fresh model has
    checkpoint = trained._model_files(model_tensors(trained.model))
    checkpoint.write(tmp_path / "given")
    begun = make_trainer(*short, f"run={tmp_path / 'b'}", f"init_from={tmp_path / 'given'}", f"corpus={elsewhere}")
    begun._epochs = dict
    begun.fit()
    src, prev = torch.tensor([[4, 9, 13, 2], [7, 2, 0, 0]]), torch.tensor([[1, 5, 8], [1, 11, 0]])
    with torch.no_grad():
        given = load_model(tmp_path / "given").model
        assert_close(full_log_probs(begun.model.eval(), src, prev), full_log_probs(given, src, prev), rtol=0, atol=0)


def test_the_corpora_rank_words_differently(corpora: tuple[Path, Path]) -> None:
    """Else the test above could not tell."""
    ranks = [Corpus.open(corpus).split("train").counts("target").argsort().tolist() for corpus in corpora]
    assert ranks[0] != ranks[1]


class Mean(FromData):
    """A part of a plug-in that keeps two buffers of its data."""

    sides = ("source", "target")

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("share", torch.zeros(3))
        self.register_buffer("total", torch.zeros(()))

    def use(self, counts: Tensor) -> None:
        self.get_buffer("total").copy_(counts.sum())
        self.get_buffer("share").copy_(counts / counts.sum())

    def why_not(self, buffers: Mapping[str, Tensor]) -> str | None:
        return "share is negative" if (buffers["share"] < 0).any() else None


def test_parts_of_plugins_take_from_the_data_too() -> None:
    model = nn.ModuleDict({"known": Mean(), "partly": Mean(), "new": Mean()})
    counts = {"source": torch.tensor([1.0, 0.0, 2.0]), "target": torch.tensor([0.0, 1.0, 0.0])}
    use_data(model, counts.__getitem__, known={"known.share", "known.total", "partly.share"})
    assert [float(part.get_buffer("total")) for part in model.values()] == [0, 4, 4]
    assert model["new"].get_buffer("share").tolist() == [0.25, 0.25, 0.5]
    tensors = model_tensors(model)
    check_from_data(model, tensors, Path("x"))
    with pytest.raises(ValueError, match=r"^x: partly\.share is negative$"):
        check_from_data(model, {**tensors, "partly.share": torch.tensor([0.0, -1.0, 0.0])}, Path("x"))


def test_a_hostile_order_is_refused_by_a_training_that_begins_with_it(
    corpora: tuple[Path, Path], make_trainer: Any, tmp_path: Path
) -> None:
    overrides = [*CASES["adaptive both, shared"], f"corpus={corpora[0]}", "train.max_updates=1"]
    trained = make_trainer(f"run={tmp_path / 'a'}", *overrides)
    tensors = model_tensors(trained.model)
    [name] = [name for name in tensors if name.endswith("ranks")]
    trained._model_files({**tensors, name: tensors[name] + 10**9}).write(tmp_path / "given")
    with pytest.raises(ValueError, match=r"given/model\.safetensors: .*ranks is not an order of the model's \d+ words"):
        make_trainer(*overrides, f"run={tmp_path / 'b'}", f"init_from={tmp_path / 'given'}")
