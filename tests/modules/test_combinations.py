"""Every two components of a decoder together: they learn, decode, and come back from a file; or are refused."""

from __future__ import annotations

from itertools import combinations
from pathlib import Path

import pytest
import torch
from torch import Tensor
from torch.testing import assert_close

from nmt.config import ConfigError
from nmt.data.batch import Batch
from nmt.generation.options import SearchOptions
from nmt.generation.translate import GenerationBatchOptions, translate_ids
from nmt.models.encoder_decoder import EncoderDecoder, full_log_probs
from nmt.registry import build, discover, slots
from nmt.text.vocabulary import BOS, EOS
from nmt.training.checkpoint import load_tensors, model_tensors, read_tensors, save_tensors

discover()

STACK_SLOTS = ("self_attention", "cross_attention", "feed_forward", "layer", "stack")
MODEL_SLOTS = ("embedding", "norm", "output")
CHOICES = {
    **{
        slot: {name: [f"model.decoder.{slot}.name={name}"] for name in slots()[slot].components} for slot in STACK_SLOTS
    },
    **{slot: {name: [f"model.{slot}.name={name}"] for name in slots()[slot].components} for slot in MODEL_SLOTS},
}
"""What each slot may hold: name to overrides."""

CHOICES["stack"]["layer_drop"] = ["model.decoder.stack.layer_drop=0.3"]
CHOICES["layer"]["post_norm"] = ["model.decoder.layer.norm_position=post"]
CHOICES["feed_forward"]["swiglu"] = ["model.decoder.feed_forward.activation=swiglu"]
PAIRS = {
    f"{one}-{a}+{other}-{b}": [*CHOICES[one][a], *CHOICES[other][b]]
    for one, other in combinations(CHOICES, 2)
    for a in CHOICES[one]
    for b in CHOICES[other]
}
UNUSED = {
    f"{slot}-{name}+layer-compressed": rf"{slot}.name={name} would do nothing"
    for slot, usual in {"self_attention": "multihead", "cross_attention": "multihead", "feed_forward": "dense"}.items()
    for name in slots()[slot].components
    if name != usual
}
REFUSED = {**UNUSED, "feed_forward-swiglu+layer-compressed": r"feed_forward\.activation=swiglu would do nothing"}
"""Pairs that have no meaning, with what the error says."""

SOURCE = torch.tensor([[4, 5, 6, 7, EOS], [10, 11, 12, EOS, 0], [8, EOS, 0, 0, 0]])
TARGET = torch.tensor([[7, 6, 5, 4, 9, EOS], [12, 11, 10, EOS, 0, 0], [8, EOS, 0, 0, 0, 0]])
PREFIX = torch.cat([torch.full((3, 1), BOS), TARGET[:, :-1].masked_fill(TARGET[:, :-1].eq(EOS), 0)], dim=1)
CLOSE = {"rtol": 1e-4, "atol": 1e-5}  # float32


def loss(model: EncoderDecoder) -> Tensor:
    batch = Batch(SOURCE, PREFIX, TARGET, int(TARGET.ne(0).sum()), [0, 1, 2])
    return build("criterion", {"name": "cross_entropy"}, key="criterion")(model, batch).loss


def translations(model: EncoderDecoder, max_sentences: int) -> list[list[int]]:
    sources = [row[row.ne(0)].tolist() for row in SOURCE]
    found = translate_ids(
        model,
        sources,
        SearchOptions(beam=3),
        batch=GenerationBatchOptions(max_sentences=max_sentences),
        device=torch.device("cpu"),
    )
    return [best[0].ids for best in found]


@pytest.mark.parametrize("pair", PAIRS)
def test_learns_decodes_and_comes_back(pair: str, make_model, tmp_path: Path) -> None:
    if pair in REFUSED:
        with pytest.raises(ConfigError, match=REFUSED[pair]):
            make_model(*PAIRS[pair])
        return
    model = make_model(*PAIRS[pair], "model.dropout=0.1")
    with torch.no_grad():
        before = loss(model.eval())
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)
    model.train()
    for _ in range(6):
        optimizer.zero_grad()
        loss(model).backward()
        optimizer.step()
    model.eval()
    with torch.no_grad():
        assert loss(model) < 0.9 * before
        expected = full_log_probs(model, SOURCE, PREFIX)
        state = model.init_state(model.encode(SOURCE), 1, PREFIX.size(1))
        for t in range(PREFIX.size(1)):
            real = PREFIX[:, t].ne(0)
            assert_close(model.step(PREFIX[:, t : t + 1], state)[real], expected[real, t], **CLOSE)
        assert translations(model, 1) == translations(model, 3)

        save_tensors({name: t.contiguous() for name, t in model_tensors(model).items()}, tmp_path / "model.safetensors")
        again = make_model(*PAIRS[pair]).eval()
        for tensor in model_tensors(again).values():
            tensor.zero_()
        load_tensors(again, read_tensors(tmp_path / "model.safetensors"), tmp_path)
        assert torch.equal(full_log_probs(again, SOURCE, PREFIX), expected)
