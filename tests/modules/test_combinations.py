"""Components of a decoder together: they learn, decode, and come back from a file; or are refused.

Every two of them occur in some model of a small set that covers all pairs. Those that declare that they have to do with
their neighbours are also tested pair by pair, where nothing else can hide what is wrong. All other pairs, one by one,
are slow tests.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator
from itertools import combinations
from pathlib import Path
from typing import Any

import pytest
import torch
from omegaconf import OmegaConf
from torch import Tensor
from torch.testing import assert_close

from nmt.checkpoints.checkpoint import read_tensors, save_tensors
from nmt.config import ConfigError, compose
from nmt.data.batch import Batch
from nmt.generation.options import SearchOptions
from nmt.generation.translate import GenerationBatchOptions, translate_ids
from nmt.models.encoder_decoder import EncoderDecoder, build_model, full_log_probs
from nmt.models.interfaces import Layer, Part
from nmt.models.tensors import load_tensors, model_tensors
from nmt.registry import build, discover, find, slots
from nmt.text.vocabulary import BOS, EOS

discover()

KEYS = {slot: f"decoder.{slot}" for slot in ("self_attention", "cross_attention", "feed_forward", "layer", "stack")}
KEYS |= {slot: slot for slot in ("embedding", "norm", "linear", "output")}
CHOICES: dict[str, dict[str, dict[str, Any]]] = {
    slot: {name: {"name": name} for name in slots()[slot].components} for slot in KEYS
}
"""What each slot may hold: a name, and the node of the configuration."""

CHOICES["stack"]["layer_drop"] = {"name": "sequential", "layer_drop": 0.3}
CHOICES["layer"]["post_norm"] = {"name": "transformer", "norm_position": "post"}
CHOICES["feed_forward"]["swiglu"] = {"name": "dense", "activation": "swiglu"}

USUAL = {"self_attention": "multihead", "cross_attention": "multihead", "feed_forward": "dense"}
REFUSED = {
    frozenset({(slot, name), ("layer", "compressed")}): rf"{slot}\.(name|activation)=\w+ would do nothing"
    for slot, usual in USUAL.items()
    for name in CHOICES[slot]
    if name != usual
}
"""Pairs that have no meaning, with what the error says."""

Choice = tuple[str, str]
PAIRS: list[tuple[Choice, Choice]] = [
    ((one, a), (other, b)) for one, other in combinations(CHOICES, 2) for a in CHOICES[one] for b in CHOICES[other]
]
POSSIBLE = [pair for pair in PAIRS if frozenset(pair) not in REFUSED]
BASE = OmegaConf.to_container(compose("train", ["model=tiny"]).model)
for side in ("encoder", "decoder"):
    BASE[side].update(embed_dim=16, ffn_dim=24, num_heads=2)


def make(*choices: Choice, **options: float) -> EncoderDecoder:
    """A model 16 wide with 2 + 2 layers over 25 words, with what was chosen in its decoder."""
    node = copy.deepcopy(BASE)
    for slot, name in choices:
        parent, _, last = KEYS[slot].rpartition(".")
        (node[parent] if parent else node)[last] = CHOICES[slot][name]
    node.update(options)
    torch.manual_seed(1)
    return build_model(node, source_size=25, target_size=25, joint=True)


def declares(choice: Choice) -> bool:
    """Whether a component says by the facts of its interface that others of its model must heed it, or it them."""
    slot, name = choice
    component = find(slot, CHOICES[slot][name]["name"], slot).factory
    if getattr(component, "absent", False):
        return True
    model = make(choice)
    return (
        any(part.takes_raw or part.follows or part.causal_only or layers_differ(part) for part in parts_of(model))
        or any(layer.unused or layer.normalised for layer in parts_of(model) if isinstance(layer, Layer))
        or model.decoder.stack.skips_layers
        or model.embedding.output_bands() is not None
    )


def parts_of(model: EncoderDecoder) -> list[Part]:
    return [part for part in model.decoder.modules() if isinstance(part, Part)]


def layers_differ(part: Part) -> bool:
    """Whether its options mean a certain number of layers."""
    return type(part).select_layers.__func__ is not Part.select_layers.__func__


def covering() -> Iterator[tuple[Choice, ...]]:
    """Models that hold a choice of every slot, until every possible pair has been in one of them."""
    left = {frozenset(pair) for pair in POSSIBLE}
    while left:
        row = next(list(pair) for pair in POSSIBLE if frozenset(pair) in left)
        for slot in (slot for slot in CHOICES if slot not in dict(row)):
            found = [
                (slot, name)
                for name in CHOICES[slot]
                if not any(frozenset({(slot, name), other}) in REFUSED for other in row)
            ]
            row.append(max(found, key=lambda new: sum(frozenset({new, other}) in left for other in row)))
        left -= {frozenset(pair) for pair in combinations(row, 2)}
        yield tuple(row)


def named(choices: tuple[Choice, ...]) -> str:
    return "+".join(f"{slot}-{name}" for slot, name in choices)


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


@pytest.mark.parametrize("pair", [pair for pair in PAIRS if frozenset(pair) in REFUSED], ids=named)
def test_pairs_without_a_meaning_are_refused(pair: tuple[Choice, Choice]) -> None:
    with pytest.raises(ConfigError, match=REFUSED[frozenset(pair)]):
        make(*pair)


DECLARING = {choice for slot in CHOICES for choice in ((slot, name) for name in CHOICES[slot]) if declares(choice)}
TOGETHER = [
    *covering(),
    *(pair if set(pair) <= DECLARING else pytest.param(pair, marks=pytest.mark.slow) for pair in POSSIBLE),
]


@pytest.mark.parametrize("choices", TOGETHER, ids=named)
def test_learns_decodes_and_comes_back(choices: tuple[Choice, ...], tmp_path: Path) -> None:
    model = make(*choices, dropout=0.1)
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
        again = make(*choices).eval()
        for tensor in model_tensors(again).values():
            tensor.zero_()
        load_tensors(again, read_tensors(tmp_path / "model.safetensors"), tmp_path)
        assert torch.equal(full_log_probs(again, SOURCE, PREFIX), expected)
