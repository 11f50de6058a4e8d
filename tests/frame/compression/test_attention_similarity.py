"""Similarity of the layers of a model, against a recomputation from the weights of each layer."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch.testing import assert_close

from nmt.compression.attention_similarity import CROSS, DECODER_SELF, ENCODER_SELF, attention_similarity
from nmt.compression.sharing_policy import jensen_shannon_similarity
from nmt.data.batch import Batch, pad_rows
from nmt.models.encoder_decoder import EncoderDecoder

PAIRS = [([4, 5, 6, 7], [8, 9]), ([10], [11, 12, 13]), ([5, 5], [6])]


def batch(pairs: list[tuple[list[int], list[int]]]) -> Batch:
    sources, targets = [p[0] for p in pairs], [p[1] for p in pairs]
    return Batch(
        src_tokens=pad_rows(sources, last=2),
        prev_output_tokens=pad_rows(targets, first=1),
        target=pad_rows(targets, last=2),
        num_tokens=sum(len(t) + 1 for t in targets),
        ids=list(range(len(pairs))),
    )


def weights_of(model: EncoderDecoder, pair: tuple[list[int], list[int]]) -> dict[str, list[Tensor]]:
    """Weights (heads, queries, keys) of each layer for one sentence alone, by the softmax formula."""
    found: dict[str, list[Tensor]] = {ENCODER_SELF: [], DECODER_SELF: [], CROSS: []}

    def softmax(q: Tensor, k: Tensor, causal: bool) -> Tensor:
        q, k = (t[0].unflatten(-1, (2, 8)).transpose(0, 1) for t in (q, k))
        scores = q @ k.transpose(1, 2) / 8**0.5
        if causal:
            scores = scores.masked_fill(torch.ones_like(scores).triu(1).bool(), -torch.inf)
        return scores.softmax(-1)

    def self_hook(key: str):
        def hook(part, args) -> None:
            q, k, _ = part.qkv(args[0]).chunk(3, dim=-1)
            found[key].append(softmax(q, k, key == DECODER_SELF))

        return hook

    def cross_hook(part, args) -> None:
        found[CROSS].append(softmax(part.q(args[0]), part.kv(args[1].states).chunk(2, dim=-1)[0], False))

    handles = []
    for layers, key in ((model.encoder.layers, ENCODER_SELF), (model.decoder.stack.layers, DECODER_SELF)):
        for layer in layers:
            handles.append(layer.self_attention.register_forward_pre_hook(self_hook(key)))
            if key == DECODER_SELF:
                handles.append(layer.cross_attention.register_forward_pre_hook(cross_hook))
    one = batch([pair])
    model(one.src_tokens, one.prev_output_tokens)
    for handle in handles:
        handle.remove()
    return found


@torch.no_grad()
def test_equals_a_recomputation_sentence_by_sentence(make_model) -> None:
    """Whatever the batches, and with nothing of the padding in it."""
    model = make_model("model.encoder.layers=3", dtype=torch.float64).eval()
    collected: dict[str, list[list[Tensor]]] = {}
    for pair in PAIRS:
        for key, layers in weights_of(model, pair).items():
            collected.setdefault(key, []).append(layers)
    before = torch.get_rng_state()
    for batches in ([batch(PAIRS)], [batch(PAIRS[:1]), batch(PAIRS[1:])]):
        got = attention_similarity(model, batches)
        assert list(got) == [ENCODER_SELF, DECODER_SELF, CROSS]
        for key, item in got.items():
            for i in range(len(item.matrix)):
                for j in range(len(item.matrix)):
                    rows = [jensen_shannon_similarity(s[i], s[j]).flatten() for s in collected[key]]
                    assert_close(item.matrix[i, j], torch.cat(rows).mean(), rtol=0, atol=1e-12)
            assert item.rows == torch.cat(rows).numel()
    assert torch.equal(torch.get_rng_state(), before)
    assert not any(module._forward_hooks for module in model.modules()), "nothing is left behind"


@pytest.mark.parametrize("form", ["context", "weights"])
def test_layers_of_a_block_are_alike(form: str, make_model) -> None:
    model = make_model(
        *("model.decoder.layers=3", "model.decoder.self_attention={name: shared, policy: [2, 1]}"),
        f"model.decoder.cross_attention={{name: shared, policy: [1, 2], share: {form}}}",
    ).eval()
    got = attention_similarity(model, [batch(PAIRS)])
    for key, (alike, different) in {DECODER_SELF: ((0, 1), (1, 2)), CROSS: ((1, 2), (0, 1))}.items():
        assert got[key].matrix[alike] == pytest.approx(1, abs=1e-6)
        assert got[key].matrix[different] < 0.999
