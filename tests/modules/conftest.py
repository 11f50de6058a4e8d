"""What components are given when they are built, and every variant of every component of a model."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from enum import Enum
from typing import Any, get_type_hints

import pytest
import torch
from torch import nn

from nmt.config import ConfigError
from nmt.data.batch import Batch
from nmt.models.encoder_decoder import EncoderDecoder
from nmt.models.interfaces import LayerContext
from nmt.models.linear import LinearMaker
from nmt.registry import Component, discover, slots
from nmt.text.vocabulary import BOS, EOS

discover()

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
    make_linear=LinearMaker({"name": "dense"}),
)


@pytest.fixture
def make_context() -> Callable[..., LayerContext]:
    """``make_context(embed_dim=...)``: a decoder layer 8 wide with 2 heads over an encoder 6 wide."""

    def make(**changes: Any) -> LayerContext:
        return dataclasses.replace(CONTEXT, **changes)

    return make


# --- every variant of every component ---------------------------------------------------------------------------------


@dataclass(frozen=True)
class Variant:
    """A component in its place with at most one option that is not its default.

    Attributes:
        component: what is varied; None for a variant that was put together by hand.
        places: keys of the nodes where the component stands.
        options: of the component.
        more: overrides beside it.
    """

    component: Component | None
    places: tuple[str, ...] = ()
    options: tuple[tuple[str, str], ...] = ()
    more: tuple[str, ...] = ()

    def overrides(self, places: tuple[str, ...]) -> list[str]:
        """With the component in some of its places."""
        assert self.component is not None or not places
        given = [("name", self.component.name), *self.options] if self.component else []
        return [f"{place}.{name}={value}" for place in places for name, value in given] + list(self.more)


def finite_options(component: Component) -> Iterator[tuple[str, str]]:
    """Every value but the default of the options that are switches or choices."""
    types = get_type_hints(component.options)
    for item in dataclasses.fields(component.options):
        kind = types[item.name]
        if kind is bool:
            yield item.name, str(not item.default).lower()
        elif isinstance(kind, type) and issubclass(kind, Enum):
            yield from ((item.name, value.name) for value in kind if value is not item.default)


def places_of(key: str) -> tuple[str, ...]:
    """``model.{encoder,decoder}.layer`` to both keys, the encoder's first."""
    found = re.fullmatch(r"(.*)\{(.*)\}(.*)", key)
    return tuple(found[1] + side + found[3] for side in found[2].split(",")) if found else (key,)


ADAPTIVE = ("model.output.name=adaptive",)
NEEDS = {"embedding-adaptive-share=all": ADAPTIVE, "embedding-adaptive-share=decoder": ADAPTIVE}
"""Variants that cannot stand alone, with what they need beside them."""

VARIANTS = {
    "-".join([slot.name, component.name, *(f"{name}={value}" for name, value in options)]): Variant(
        component, places_of(slot.key), options
    )
    for slot in slots().values()
    if slot.key.startswith("model.")
    for component in slot.components.values()
    for options in [(), *((found,) for found in finite_options(component))]
}
VARIANTS |= {name: dataclasses.replace(VARIANTS[name], more=more) for name, more in NEEDS.items()}
BY_HAND = {
    "blocks": [
        "model.decoder.layers=4",
        "model.decoder.self_attention={name: shared, policy: [1, 3]}",
        "model.decoder.cross_attention={name: shared, policy: [3, 1]}",
    ],
    "blocks-weights": [
        "model.decoder.layers=3",
        "model.decoder.cross_attention={name: shared, policy: [3], share: weights}",
    ],
    "bands": [
        "model.embedding={name: adaptive, share: all, cutoffs: [6, 12], div_value: 2}",
        "model.output={name: adaptive, cutoffs: [6, 12], div_value: 2}",
    ],
    "few-places": [
        "model.decoder.feed_forward={name: moe, experts: 3, k: 2, layers: all, capacity_factor_train: 0.6}",
    ],
    "widths": ["model.encoder.embed_dim=24", "model.embedding.share=decoder"],
}
VARIANTS |= {name: Variant(None, more=tuple(overrides)) for name, overrides in BY_HAND.items()}


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """A test with the argument ``variant`` runs for each."""
    if "variant" in metafunc.fixturenames:
        metafunc.parametrize("variant", VARIANTS.values(), ids=VARIANTS)


@pytest.fixture(scope="session")
def variants() -> Callable[[Component], list[Variant]]:
    """``variants(component)``: those of a component, the one with its defaults first."""
    return lambda component: [variant for variant in VARIANTS.values() if variant.component is component]


@pytest.fixture
def make_variant(make_model) -> Callable[..., EncoderDecoder]:
    """``make_variant(variant, *overrides, dtype=)``: a small model with the component wherever it can stand.

    What it is initialised with may hide a mistake, such as zeros that are multiplied with: noise is added to all.
    """

    def make(variant: Variant, *overrides: str, **options: Any) -> EncoderDecoder:
        try:
            model = make_model(*variant.overrides(variant.places), *overrides, **options)
        except ConfigError:
            if len(variant.places) < 2:
                raise
            model = make_model(*variant.overrides(variant.places[-1:]), *overrides, **options)  # in the decoder alone
        generator = torch.Generator().manual_seed(2)
        with torch.no_grad():
            for parameter in model.parameters():
                parameter += 0.1 * torch.randn(parameter.shape, generator=generator, dtype=parameter.dtype)
        return model

    return make


SOURCE = torch.tensor([[4, 5, 6, 7, EOS], [10, 11, 12, EOS, 0], [8, EOS, 0, 0, 0]])
TARGET = torch.tensor([[7, 6, 5, 14, 9, EOS], [12, 11, 20, EOS, 0, 0], [24, EOS, 0, 0, 0, 0]])


@pytest.fixture
def batch() -> Batch:
    """Three pairs of several lengths, with frequent and rare words."""
    previous = torch.cat([torch.full((3, 1), BOS), TARGET[:, :-1].masked_fill(TARGET[:, :-1].eq(EOS), 0)], dim=1)
    return Batch(SOURCE, previous, TARGET, int(TARGET.ne(0).sum()), [0, 1, 2])
