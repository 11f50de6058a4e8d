"""What every registered component promises, found through the registry so that a new one is covered by its name."""

from __future__ import annotations

import dataclasses
import re

import pytest
import torch
from torch import nn

from nmt.models.encoder_decoder import DecoderOptions, EncoderDecoder, ModelOptions
from nmt.registry import Component, build, discover, slots

discover()
COMPONENTS = [component for slot in slots().values() for component in slot.components.values()]
every_component = pytest.mark.parametrize("component", COMPONENTS, ids=lambda c: f"{c.slot}-{c.name}")

NO_METHOD = {("feed_forward", "none"), ("linear", "dense"), ("output", "linear"), ("schedule", "linear")}
NO_METHOD |= {("callback", "freeze"), ("task", "translation"), ("task", "language_modeling")}
"""Components without a paper: nothing that anybody would claim."""

MODEL_KEYS = {
    **{slot: f"model.{slot}" for slot in ("embedding", "norm", "linear", "output")},
    **{
        slot: f"model.decoder.{slot}"
        for slot in ("self_attention", "cross_attention", "feed_forward", "layer", "stack")
    },
    "decoder": "model.decoder",
}
"""Where a model has each slot; the other slots are built without one."""


def test_every_slot_has_a_component() -> None:
    assert [name for name, slot in slots().items() if not slot.components] == []


@every_component
def test_builds_from_its_defaults(component: Component, make_model) -> None:
    slot, node = component.slot, {"name": component.name}
    if slot in MODEL_KEYS:
        model = make_model(f"{MODEL_KEYS[slot]}.name={component.name}")
        held = any(type(module) is component.factory for module in model.modules())
        assert held != getattr(component.factory, "absent", False)
    elif slot == "optimizer":
        built = build(slot, node, key=slot, parameters=[nn.Parameter(torch.zeros(2, 2)), nn.Parameter(torch.zeros(2))])
        assert sum(len(group["params"]) for group in built.param_groups) == 2
    elif slot == "schedule":
        assert build(slot, node, key=slot, total_updates=10_000).factor(1) > 0
    else:
        assert isinstance(build(slot, node, key=slot), slots()[slot].interface)


@every_component
def test_purpose_is_one_sentence(component: Component) -> None:
    assert component.factory.__dict__.get("__doc__"), "no docstring of its own"
    assert re.fullmatch(r"[A-Z][^\n]{10,110}\.", component.purpose)


@every_component
def test_paper_is_named(component: Component) -> None:
    if (component.slot, component.name) in NO_METHOD:
        assert component.paper == ""
    else:
        assert re.match(r"[A-Z][\w\-. ]+ (19|20)\d\d, arXiv:\d{4}\.\d{4,5}\b", component.paper)


@every_component
def test_one_method_a_file_named_after_it(component: Component) -> None:
    folder = {"criterion": "criterions", "task": "tasks"}.get(component.slot, f"modules.{component.slot}")
    assert component.factory.__module__ == f"nmt.{folder}.{component.name}"


@every_component
def test_options_have_a_default_and_a_meaning(component: Component) -> None:
    for item in dataclasses.fields(component.options):
        assert item.name != "name", "the name of the component itself"
        assert re.match(r"\S.{3,}", item.metadata.get("help", "")), f"{item.name} has no meaning"
        assert item.default != "???", f"{item.name} has no default"


@pytest.mark.parametrize("schema", [ModelOptions, DecoderOptions])
def test_model_options_have_a_meaning(schema: type) -> None:
    fields = [item for item in dataclasses.fields(schema) if item.default_factory is dataclasses.MISSING]
    assert [item.name for item in fields if not item.metadata.get("help")] == []


@pytest.mark.parametrize(
    "component", [c for c in COMPONENTS if c.slot in MODEL_KEYS], ids=lambda c: f"{c.slot}-{c.name}"
)
def test_trains_every_parameter(component: Component, make_model) -> None:
    """What a component registers as a parameter takes part in the forward pass."""
    model: EncoderDecoder = make_model(f"{MODEL_KEYS[component.slot]}.name={component.name}")
    src, prev = torch.tensor([[4, 5, 6, 2], [7, 2, 0, 0]]), torch.tensor([[1, 8, 9], [1, 10, 0]])
    output = model(src, prev)
    loss, _ = model.output.loss(output.hidden.flatten(0, 1), torch.tensor([8, 9, 2, 10, 2, 3]), 0.1)
    (loss + sum(output.losses.values())).backward()
    assert [name for name, p in model.named_parameters() if p.grad is None or not p.grad.isfinite().all()] == []
