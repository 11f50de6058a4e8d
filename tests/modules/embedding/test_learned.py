"""Word vectors, positions and what shares a matrix."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch.testing import assert_close

from nmt.config import ConfigError
from nmt.models.interfaces import VocabularySizes
from nmt.registry import build


def make(*, joint: bool = True, encoder_dim: int = 6, dropout: float = 0.0, **options: Any):
    sizes = VocabularySizes(10, 10 if joint else 12, joint, encoder_dim, 6, dropout)
    return build("embedding", {"name": "learned", **options}, key="model.embedding", sizes=sizes)


TOKENS = torch.tensor([[4, 5, 4]])


def position(pos: int, feature: int, dim: int) -> float:
    """Section 3.5 of arXiv:1706.03762."""
    angle = pos / 10000 ** (2 * (feature // 2) / dim)
    return math.sin(angle) if feature % 2 == 0 else math.cos(angle)


def test_word_times_root_of_the_width_plus_sinusoid() -> None:
    embedding = make()
    got = embedding.embed_source(TOKENS)
    for pos, word in enumerate([4, 5, 4]):
        for feature in range(6):
            value = embedding.source.words.weight[word, feature].item() * math.sqrt(6) + position(pos, feature, 6)
            assert got[0, pos, feature].item() == pytest.approx(value, abs=1e-6)


def test_scale_can_be_left_out() -> None:
    embedding = make(scale=False, positions="none")
    assert_close(embedding.embed_target(TOKENS), embedding.target.words.weight[TOKENS], rtol=0, atol=0)


@pytest.mark.parametrize("positions", ["sinusoidal", "learned"])
def test_later_positions_are_the_rest_of_the_whole(positions: str) -> None:
    embedding = make(positions=positions)
    assert_close(embedding.embed_target(TOKENS[:, 1:], 1), embedding.embed_target(TOKENS)[:, 1:], rtol=0, atol=0)


def test_learned_positions_are_a_parameter_of_each_side() -> None:
    embedding = make(positions="learned", max_positions=7)
    names = {name: tuple(p.shape) for name, p in embedding.named_parameters() if "positions" in name}
    assert names == {"source.positions": (7, 6), "target.positions": (7, 6)}
    difference = embedding.embed_source(torch.tensor([[4, 4]])).diff(dim=1)[0, 0]
    assert_close(difference, embedding.source.positions[1] - embedding.source.positions[0])


def test_sinusoids_are_not_stored() -> None:
    assert list(make().state_dict()) == ["source.words.weight", "target.words.weight"]


@pytest.mark.parametrize(
    ("share", "joint", "matrices", "tied_output"),
    [("all", True, 1, True), ("decoder", False, 2, True), ("none", True, 2, False)],
)
def test_sharing(share: str, joint: bool, matrices: int, tied_output: bool) -> None:
    embedding = make(share=share, joint=joint)
    assert len(list(embedding.parameters())) == matrices
    assert (embedding.source.words.weight is embedding.target.words.weight) == (matrices == 1)
    assert (embedding.output_weight() is embedding.target.words.weight) == tied_output
    assert embedding.target.words.weight.shape[0] == (10 if joint else 12)


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        ({"joint": False}, "model.embedding.share=all needs a joint vocabulary"),
        ({"encoder_dim": 4}, "model.embedding.share=all needs equal widths, but model.encoder.embed_dim=4 and"),
        ({"max_positions": 0}, "model.embedding.max_positions=0 is out of range: it must be at least 1"),
    ],
)
def test_mistakes(overrides: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        make(**overrides)
    assert str(caught.value).startswith(message)


def test_start_is_near_unit_variance_and_padding_is_zero() -> None:
    torch.manual_seed(1)
    sizes = VocabularySizes(2000, 2000, True, 64, 64, 0.0)
    weight = build("embedding", {"name": "learned"}, key="k", sizes=sizes).source.words.weight
    assert weight[0].abs().sum() == 0
    assert (weight[1:] * math.sqrt(64)).var().item() == pytest.approx(1, rel=0.02)


def test_dropout_falls_on_the_sum() -> None:
    embedding = make(dropout=0.5)
    got = embedding.embed_source(TOKENS.expand(200, -1))
    kept = got != 0
    assert 0.4 < kept.float().mean() < 0.6
    embedding.eval()
    assert_close(got[kept], 2 * embedding.embed_source(TOKENS.expand(200, -1))[kept])
