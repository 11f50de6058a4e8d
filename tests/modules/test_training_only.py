"""What acts in training alone, dropout above all: in every part that should have it, and never in evaluation.

A module is asked by itself: it alone is in training mode, and the loss is another one or it is not.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Iterator
from enum import Enum
from functools import cache
from types import CodeType, FunctionType

import pytest
import torch
from torch import nn

from nmt.data.batch import Batch
from nmt.models.dropout import Dropout
from nmt.models.encoder_decoder import EncoderDecoder, SharedOptions
from nmt.models.interfaces import CrossAttention, FeedForward, Layer, SelfAttention
from nmt.registry import Component, build, find, slots

RATES = ("model.dropout", "model.attention_dropout", "model.activation_dropout")
PARTS = (SelfAttention, CrossAttention, FeedForward)
SEEDS = range(2)
"""Four layers, each left out half of the time, all stay in both passes once in 256 times."""


@cache
def criterion() -> nn.Module:
    return build("criterion", {"name": "cross_entropy"}, key="criterion")


def loss(model: EncoderDecoder, batch: Batch, seed: int = 0) -> float:
    torch.manual_seed(seed)
    with torch.no_grad():
        return float(criterion()(model, batch).loss)


def places(model: EncoderDecoder, batch: Batch) -> set[str]:
    """Names of the modules that make another loss when they alone are in training mode."""
    expected, found = loss(model.eval(), batch), set()
    for name, module in model.named_modules():
        if asks_for_mode(type(module)):
            module.training = True
            if loss(model, batch) != expected:
                found.add(name)
            module.training = False
    return found


@cache
def asks_for_mode(kind: type[nn.Module]) -> bool:
    """Whether a class reads ``training`` anywhere: to run the model once for each of the others would take long."""

    def codes(code: CodeType) -> Iterator[CodeType]:
        yield code
        for inner in code.co_consts:
            if isinstance(inner, CodeType):
                yield from codes(inner)

    own = [vars(base) for base in kind.__mro__ if base not in (nn.Module, object)]
    functions = [value for members in own for value in members.values() if isinstance(value, FunctionType)]
    return any("training" in code.co_names for function in functions for code in codes(function.__code__))


def below(name: str, names: set[str]) -> set[str]:
    """Those that are a module or a part of it."""
    return {other for other in names if other == name or other.startswith(f"{name}.")}


def drops_nothing(part: nn.Module) -> bool:
    """Parts without attention weights or an inner activation of their own."""

    def is_a(slot: str, name: str) -> bool:
        return type(part) is find(slot, name, slot).factory

    return (
        is_a("self_attention", "ssru")
        or (is_a("self_attention", "average") and part.ffn is None)
        or (is_a("cross_attention", "shared") and part.follows and not part.shares_weights)  # it passes a context on
    )


def test_dropout_acts_in_every_part(variant, make_variant, batch: Batch) -> None:
    model = make_variant(variant, *(f"{rate}=0.5" for rate in RATES), dtype=torch.float64)
    without = make_variant(variant, *(f"{rate}=0" for rate in RATES), dtype=torch.float64)
    assert loss(model.eval(), batch) == loss(without.eval(), batch), "evaluation depends on a rate"
    found = places(model, batch)
    modules = dict(model.named_modules())
    parts = {name for name, module in modules.items() if isinstance(module, PARTS)}
    dropouts = {name for name, module in modules.items() if isinstance(module, Dropout) and module.p}
    assert dropouts <= found, "a module is made and not used"
    silent = {name for name in parts if not drops_nothing(modules[name]) and not below(name, found)}
    assert not silent, "no dropout in these parts"
    for name, module in modules.items():
        if isinstance(module, Layer):
            own = below(name, parts)
            residuals = below(name, found) - set().union(*(below(part, found) for part in own))
            branches = [part for part in own if not any(part != other and part in below(other, own) for other in own)]
            assert len(residuals) >= max(1, len(branches)), f"{name}: a residual branch without dropout"
    embedding = model.embedding
    for embed, tokens in ((embedding.embed_source, batch.src_tokens), (embedding.embed_target, batch.target)):
        embedding.eval()
        expected = embed(tokens)
        embedding.train()
        assert not torch.equal(embed(tokens), expected)


# --- options ----------------------------------------------------------------------------------------------------------

OPTIONS = {
    f"{component.slot}-{component.name}-{item.name}": (component, item)
    for slot in slots().values()
    for component in slot.components.values()
    for item in dataclasses.fields(component.options)
}
TRAINING_ONLY = {name: found for name, found in OPTIONS.items() if found[1].metadata["training_only"]}


def other_values(item: dataclasses.Field[object]) -> Iterator[str]:
    """Values far from the default of an option."""
    if isinstance(item.default, bool):
        yield str(not item.default).lower()
    elif isinstance(item.default, Enum):
        yield from (value.name for value in type(item.default) if value is not item.default)
    else:
        yield "0.75"


def test_options_that_sound_like_it_are_declared() -> None:
    undeclared = set(OPTIONS) - set(TRAINING_ONLY)
    assert not {name for name in undeclared if re.search(r"drop|jitter|noise", name.rpartition("-")[2])}


@pytest.mark.parametrize(("component", "item"), TRAINING_ONLY.values(), ids=TRAINING_ONLY)
def test_option_changes_training_alone(
    component: Component, item: dataclasses.Field[object], variants, make_variant, batch: Batch
) -> None:
    """In some variant of its component: an option may belong to a choice that is not the default."""
    acted = False
    for variant in variants(component):
        for value in other_values(item):
            changed = dataclasses.replace(variant, options=(*variant.options, (item.name, value)))
            models = [make_variant(v, *(f"{r}=0.5" for r in RATES), dtype=torch.float64) for v in (variant, changed)]
            before, after = (loss(model.eval(), batch) for model in models)
            assert before == after, f"evaluation depends on {item.name}={value}"
            acted = acted or any(len({loss(model.train(), batch, seed) for model in models}) == 2 for seed in SEEDS)
        if acted:
            return
    pytest.fail(f"training never depends on {item.name}")


@pytest.mark.parametrize(
    "name", [item.name for item in dataclasses.fields(SharedOptions) if item.metadata["training_only"]]
)
def test_rate_of_the_model_changes_training_alone(name: str, make_model, batch: Batch) -> None:
    others = [f"{rate}=0" for rate in RATES]
    models = [make_model(*others, f"model.{name}={value}", dtype=torch.float64) for value in (0, 0.5)]
    assert len({loss(model.eval(), batch) for model in models}) == 1
    assert len({loss(model.train(), batch) for model in models}) == 2
