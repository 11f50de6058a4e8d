"""The whole model against ``torch.nn.Transformer`` with the same weights, in float64: outputs and every gradient."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.testing import assert_close

from nmt.data.batch import Batch
from nmt.models.encoder_decoder import EncoderDecoder
from nmt.registry import build

WIDTH, INNER, HEADS, DEPTH = 16, 24, 2, 2
TOLERANCE = {"rtol": 0.0, "atol": 1e-11}
BATCH = Batch(
    src_tokens=torch.tensor([[4, 5, 6, 7, 2], [8, 9, 2, 0, 0], [2, 0, 0, 0, 0]]),
    prev_output_tokens=torch.tensor([[1, 10, 11, 12], [1, 13, 0, 0], [1, 14, 15, 0]]),
    target=torch.tensor([[10, 11, 12, 2], [13, 2, 0, 0], [14, 15, 2, 0]]),
    num_tokens=9,
    ids=[0, 1, 2],
)
CASES = [(True, "relu"), (False, "relu"), (True, "gelu"), (False, "gelu")]


def torch_model(norm_first: bool, activation: str) -> nn.Transformer:
    common: dict[str, Any] = {"dropout": 0.0, "activation": activation, "batch_first": True, "norm_first": norm_first}
    common["dtype"] = torch.float64

    def norm() -> nn.Module | None:  # after a post-norm stack torch would normalise twice
        return nn.LayerNorm(WIDTH, dtype=torch.float64) if norm_first else None

    encoder_layer = nn.TransformerEncoderLayer(WIDTH, HEADS, INNER, **common)
    decoder_layer = nn.TransformerDecoderLayer(WIDTH, HEADS, INNER, **common)
    encoder = nn.TransformerEncoder(encoder_layer, DEPTH, norm(), enable_nested_tensor=False)
    decoder = nn.TransformerDecoder(decoder_layer, DEPTH, norm())
    return nn.Transformer(WIDTH, HEADS, custom_encoder=encoder, custom_decoder=decoder, batch_first=True)


def pairs(ours: EncoderDecoder, theirs: nn.Transformer) -> list[tuple[list[Tensor], Tensor]]:
    """Our parameters (several stand for one: they are stacked) beside torch's."""
    found: list[tuple[list[Tensor], Tensor]] = []

    def linear(mine: list[nn.Linear], weight: Tensor, bias: Tensor) -> None:
        found.extend([([m.weight for m in mine], weight), ([m.bias for m in mine], bias)])

    for side, other in ((ours.encoder, theirs.encoder), (ours.decoder.stack, theirs.decoder)):
        for mine, layer in zip(side.layers, other.layers, strict=True):
            attention = layer.self_attn
            linear([mine.self_attention.qkv], attention.in_proj_weight, attention.in_proj_bias)
            linear([mine.self_attention.out], attention.out_proj.weight, attention.out_proj.bias)
            norms = [mine.around_self, mine.around_feed_forward]
            if mine.cross_attention is not None:
                cross, attention = mine.cross_attention, layer.multihead_attn
                linear([cross.q, cross.kv], attention.in_proj_weight, attention.in_proj_bias)
                linear([cross.out], attention.out_proj.weight, attention.out_proj.bias)
                norms.insert(1, mine.around_cross)
            linear([mine.feed_forward.inner], layer.linear1.weight, layer.linear1.bias)
            linear([mine.feed_forward.outer], layer.linear2.weight, layer.linear2.bias)
            for number, around in enumerate(norms, start=1):
                norm = getattr(layer, f"norm{number}")
                linear([around.norm], norm.weight, norm.bias)
        if other.norm is not None:
            linear([side.norm], other.norm.weight, other.norm.bias)
    return found


def positions(length: int) -> Tensor:
    """Section 3.5 of arXiv:1706.03762, a value at a time."""
    table = torch.empty(length, WIDTH, dtype=torch.float64)
    for pos in range(length):
        for i in range(WIDTH):
            angle = pos / 10000 ** ((i - i % 2) / WIDTH)
            table[pos, i] = math.cos(angle) if i % 2 else math.sin(angle)
    return table


def reference_loss(theirs: nn.Transformer, words: Tensor) -> tuple[Tensor, Tensor]:
    """Decoder states and summed loss of torch's model with our shared word vectors."""

    def embed(tokens: Tensor) -> Tensor:
        return F.embedding(tokens, words, padding_idx=0) * math.sqrt(WIDTH) + positions(tokens.size(1))

    padding = BATCH.src_tokens.eq(0)
    length = BATCH.prev_output_tokens.size(1)
    future = torch.ones(length, length, dtype=torch.bool).triu(1)
    hidden = theirs(
        embed(BATCH.src_tokens),
        embed(BATCH.prev_output_tokens),
        tgt_mask=future,
        src_key_padding_mask=padding,
        memory_key_padding_mask=padding,
    )
    logits = (hidden @ words.t()).flatten(0, 1)
    target = BATCH.target.flatten()
    return hidden, F.cross_entropy(logits, target, ignore_index=0, label_smoothing=0.1, reduction="sum")


@pytest.mark.parametrize(("norm_first", "activation"), CASES)
def test_outputs_and_gradients(norm_first: bool, activation: str, make_model) -> None:
    overrides = [
        f"model.{side}.layer.norm_position={'pre' if norm_first else 'post'}" for side in ("encoder", "decoder")
    ]
    overrides += [f"model.{side}.feed_forward.activation={activation}" for side in ("encoder", "decoder")]
    ours = make_model(*overrides, "model.dropout=0", dtype=torch.float64)
    for side in (ours.embedding.source, ours.embedding.target):
        side.table = positions(len(side.table))  # they are kept in float32
    theirs = torch_model(norm_first, activation)
    matched = pairs(ours, theirs)
    with torch.no_grad():
        for mine, other in matched:
            other.normal_(std=0.3)
            for part, values in zip(mine, other.split([len(part) for part in mine])):
                part.copy_(values)
    words = ours.embedding.source.words.weight.detach().clone().requires_grad_()

    hidden, loss = reference_loss(theirs, words)
    loss.backward()
    output = build("criterion", {"name": "cross_entropy"}, key="criterion")(ours, BATCH)
    output.loss.backward()

    real = BATCH.target.ne(0)
    assert_close(ours(BATCH.src_tokens, BATCH.prev_output_tokens).hidden[real], hidden[real], **TOLERANCE)
    assert_close(output.loss, loss, **TOLERANCE)
    assert_close(ours.embedding.source.words.weight.grad, words.grad, **TOLERANCE)
    for mine, other in matched:
        assert_close(torch.cat([part.grad for part in mine]), other.grad, **TOLERANCE)
    assert sum(len(mine) for mine, _ in matched) + 1 == len(list(ours.parameters()))
    assert len(matched) == len(list(theirs.parameters()))


def test_sinusoids(make_model) -> None:
    table = make_model().embedding.source.table
    assert_close(table.double(), positions(len(table)), rtol=0, atol=1e-7)
