"""Initial values: Glorot's bounds, and each block of a joint projection as a matrix of its own."""

from __future__ import annotations

import math

import torch
from torch import nn

from nmt.models.initialisation import init_embedding, init_projection


def test_single_projection_has_glorots_bound() -> None:
    linear = nn.Linear(300, 100)
    init_projection(linear)
    bound = math.sqrt(6 / (300 + 100))
    assert 0.99 * bound < linear.weight.abs().max().item() <= bound
    assert linear.bias.abs().sum() == 0


def test_blocks_are_matrices_of_their_own_with_a_smaller_gain() -> None:
    linear = nn.Linear(100, 300, bias=False)
    init_projection(linear, parts=3)
    bound = math.sqrt(6 / (100 + 100)) / math.sqrt(2)  # not of 100 + 300
    for block in linear.weight.chunk(3):
        assert 0.99 * bound < block.abs().max().item() <= bound


def test_blocks_may_differ_in_size() -> None:
    linear = nn.Linear(100, 400)
    init_projection(linear, parts=(100, 300))
    for block, size in zip(linear.weight.split([100, 300]), (100, 300)):
        bound = math.sqrt(6 / (100 + size)) / math.sqrt(2)
        assert 0.99 * bound < block.abs().max().item() <= bound


def test_embedding_has_variance_one_over_width() -> None:
    embedding = nn.Embedding(2000, 50, padding_idx=0)
    init_embedding(embedding)
    assert abs(embedding.weight[1:].var().item() * 50 - 1) < 0.02
    assert embedding.weight[0].abs().sum() == 0
    init_embedding(nn.Embedding(3, 4))  # without padding nothing is set to zero
    assert torch.isfinite(embedding.weight).all()
