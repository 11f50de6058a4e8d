"""What components are given when they are built."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import pytest
from torch import nn

from nmt.models.interfaces import LayerContext

CONTEXT = LayerContext(
    key="model.decoder",
    embed_dim=8,
    ffn_dim=12,
    num_heads=2,
    memory_dim=6,
    dropout=0.0,
    attention_dropout=0.0,
    activation_dropout=0.0,
    causal=True,
    layer=0,
    num_layers=1,
    make_norm=nn.LayerNorm,
)


@pytest.fixture
def make_context() -> Callable[..., LayerContext]:
    """``make_context(embed_dim=...)``: a decoder layer 8 wide with 2 heads over an encoder 6 wide."""

    def make(**changes: Any) -> LayerContext:
        return dataclasses.replace(CONTEXT, **changes)

    return make
