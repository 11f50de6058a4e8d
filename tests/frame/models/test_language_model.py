"""The decoder-only model: steps equal the whole for every component of a decoder, and nothing is built in vain."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch.testing import assert_close

from nmt.config import ConfigError
from nmt.models.encoder_decoder import full_log_probs, num_parameters
from nmt.models.language_model import LanguageModel, build_language_model
from nmt.registry import discover, slots

discover()

SMALL = ["model=tiny", *(f"model.decoder.{key}" for key in ("embed_dim=16", "ffn_dim=24", "num_heads=2"))]
CASES = {
    f"{slot}-{name}": [f"model.decoder.{slot}.name={name}"]
    for slot in ("self_attention", "feed_forward", "layer", "stack")
    for name in slots()[slot].components
    if (slot, name) != ("layer", "compressed")  # it reads an encoder
}
CASES |= {
    f"{slot}-{name}": [f"model.{slot}.name={name}"]
    for slot in ("norm", "linear", "embedding", "output")
    for name in slots()[slot].components
}
CASES |= {"post-norm": ["model.decoder.layer.norm_position=post"], "untied": ["model.embedding.share=none"]}
SRC = torch.tensor([[2], [2], [2]])


@pytest.fixture
def make(composed) -> Callable[..., LanguageModel]:
    """``make("model.norm.name=rms_norm")``: a small one in float64."""

    def build(*overrides: str) -> LanguageModel:
        torch.manual_seed(1)
        node = composed("train", [*SMALL, *overrides]).model
        return build_language_model(node, vocab_size=25).double().eval()

    return build


@pytest.mark.parametrize("overrides", CASES.values(), ids=CASES)
@torch.no_grad()
def test_steps_with_a_beam_equal_the_whole(make, overrides: list[str]) -> None:
    model, beam = make(*overrides), 2
    state, seen = model.init_state(model.encode(SRC), beam, 9), torch.empty(6, 0, dtype=torch.int64)
    rows = torch.tensor([1, 0, 2, 2, 5, 4])
    for span in (1, 3, 1, 2):
        tokens = torch.randint(4, 23, (6, span))
        seen = torch.cat([seen, tokens], dim=1)
        expected = full_log_probs(model, seen[:, :1], seen)[:, -1]
        assert_close(model.step(tokens, state), expected, rtol=0, atol=1e-10)
        state.reorder(rows)
        seen = seen[rows]


@pytest.mark.parametrize("overrides", CASES.values(), ids=CASES)
def test_every_parameter_learns(make, overrides: list[str]) -> None:
    model = make(*overrides).train()
    prev = torch.randint(4, 23, (3, 5))
    loss, _ = model.output.loss(model(SRC, prev).hidden.flatten(0, 1), torch.arange(15) + 4, 0.1)
    loss.backward()
    without = [name for name, p in model.named_parameters() if p.grad is None]
    assert without == []


def test_sources_are_ignored(make) -> None:
    model, prev = make(), torch.tensor([[1, 5, 6]])
    assert torch.equal(full_log_probs(model, torch.tensor([[7, 8, 2]]), prev), full_log_probs(model, SRC[:1], prev))


def test_number_of_parameters_by_hand(make) -> None:
    """16 wide, 24 inner, 25 words, pre-norm; no encoder, no cross-attention, no source words."""
    attention, feed_forward, norm = 4 * (16 * 16 + 16), (16 * 24 + 24) + (24 * 16 + 16), 2 * 16
    layers = 2 * (attention + feed_forward + 2 * norm) + norm
    for share, matrices in (("all", 1), ("decoder", 1), ("none", 2)):
        assert num_parameters(make(f"model.embedding.share={share}")) == matrices * 25 * 16 + layers


def test_encoder_and_cross_attention_of_a_preset_are_not_looked_at(make) -> None:
    assert num_parameters(make("model.encoder.layers=9", "~model.decoder.cross_attention")) == num_parameters(make())


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("model.decoder.num_heads=3", "model.decoder.num_heads=3 does not divide model.decoder.embed_dim=16"),
        ("model.decoder.gate=1", "unknown key model.decoder.gate"),
        ("model.norms=1", "unknown key model.norms"),
        ("model.decoder=x", "model.decoder=x must be a group of keys"),
    ],
)
def test_mistakes_name_the_full_key(make, override: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        make(override)
