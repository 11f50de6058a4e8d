"""Every file in ``conf/recipe`` fits the schema, names its paper, and describes models that can be built."""

from __future__ import annotations

import re
from typing import Any

import pytest
import torch

from nmt.config import compose, parse_options, presets
from nmt.models.encoder_decoder import build_model
from nmt.registry import build, discover
from nmt.reproduction.options import ReproduceOptions, Scale, VariantOptions
from nmt.reproduction.plan import train_overrides
from nmt.training.options import TrainOptions

discover()


def options_of(recipe: str, scale: str = "tiny") -> ReproduceOptions:
    config = compose("reproduce", [f"recipe={recipe}", f"scale={scale}", "corpus=given", "out=given"])
    return parse_options(ReproduceOptions, config)


def variants() -> list[Any]:
    found = []
    for recipe in presets("recipe"):
        for name, variant in options_of(recipe).recipe.variants.items():
            found += [pytest.param(recipe, name, scale.name, id=f"{recipe}-{name}-{scale.name}") for scale in Scale]
            assert isinstance(variant, VariantOptions)
    return found


@pytest.mark.parametrize("name", presets("recipe"))
def test_recipe_is_complete(name: str) -> None:
    recipe = options_of(name).recipe
    assert recipe.name == name
    assert re.match(r"[A-Z][\w\-. ]+ (19|20)\d\d, arXiv:\d{4}\.\d{4,5}\b", recipe.paper)
    assert len(recipe.variants) >= 2
    assert recipe.expectations
    assert len(recipe.claim) > 40


@pytest.mark.parametrize(("recipe", "name", "scale"), variants())
def test_variant_builds(recipe: str, name: str, scale: str) -> None:
    options = options_of(recipe, scale)
    variant = options.recipe.variants[name]
    if variant.derive is not None:
        command = variant.derive.command
        own = [*variant.overrides, *variant.scales.get(scale, [])]
        compose(command, ["checkpoint=given", "out=given", *own])
        return
    for choice in options.choices_of(name) or [None]:
        overrides = train_overrides(options, variant, choice)
        train = parse_options(TrainOptions, compose("train", ["corpus=given", "run=given", *overrides]))
        build("criterion", train.criterion, key="criterion")
        with torch.device("meta"):
            build_model(train.model, source_size=8000, target_size=8000, joint=True)
