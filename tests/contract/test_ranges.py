"""Every number that a user can give has the range in which it means something, in every command and component."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Iterator, Mapping
from typing import Any, get_args

import pytest

from nmt.config import SCHEMAS, ConfigError, command_schema, option, parse_options
from nmt.models.encoder_decoder import DecoderOptions, ModelOptions
from nmt.overrides import hints_of, without_none
from nmt.registry import discover, slots

discover()

NODES = {"task", "model", "criterion", "optimizer", "schedule", "method", "encoder", "decoder", "stack", "layer"}
NODES |= {"embedding", "norm", "linear", "output", "self_attention", "cross_attention", "feed_forward"}
"""Keys of components, which are checked when they are built."""


def numbers(hint: Any) -> bool:
    """Whether an annotation holds numbers, in lists and dicts too."""
    return hint in (int, float) or any(numbers(part) for part in get_args(hint))


def schemas_in(hint: Any) -> Iterator[type]:
    if dataclasses.is_dataclass(hint):
        yield hint  # type: ignore[misc]
    for part in get_args(hint):
        yield from schemas_in(part)


def options(schema: type, where: str) -> Iterator[tuple[str, Any, Mapping[str, Any]]]:
    """Key, annotation and limits of every option of a schema and of those within it."""
    for item in dataclasses.fields(schema):
        hint = hints_of(schema)[item.name]
        yield f"{where}.{item.name}", hint, item.metadata
        for inner in schemas_in(hint):
            yield from options(inner, f"{where}.{item.name}")


SCHEMA_OF = {command: command_schema(command) for command in SCHEMAS}
SCHEMA_OF |= {"model": ModelOptions, "model.decoder": DecoderOptions}
COMPONENTS = {f"{slot.name} {c.name}": c for slot in slots().values() for c in slot.components.values()}
SCHEMA_OF |= {name: component.options for name, component in COMPONENTS.items()}

ALL = [found for where, schema in SCHEMA_OF.items() for found in options(schema, where)]
NUMBERS = [(key, metadata) for key, hint, metadata in ALL if numbers(hint)]


def test_numbers_are_found() -> None:
    found = dict(NUMBERS)
    assert len(found) > 120
    for key in (
        "train.train.max_updates",
        "train.batch.workers",
        "train.mix",
        "reproduce.recipe.expectations.at_least",
    ):
        assert key in found
    for key in ("optimizer adam.lr", "model.encoder.layers", "reproduce.recipe.variants.paper", "generate.search.beam"):
        assert key in found


@pytest.mark.parametrize(("key", "limits"), NUMBERS, ids=lambda value: value if isinstance(value, str) else "")
def test_every_number_has_both_ends(key: str, limits: Mapping[str, Any]) -> None:
    assert limits.get("minimum") is not None or limits.get("above") is not None, f"{key} has no smallest value"
    assert limits.get("maximum") is not None or limits.get("below") is not None, f"{key} has no largest value"


@pytest.mark.parametrize(("key", "hint", "limits"), [one for one in ALL if without_none(one[1])[0] is Any])
def test_what_takes_anything_says_what(key: str, hint: Any, limits: Mapping[str, Any]) -> None:
    """``Any`` is a component's node, or numbers and lists of them with their range; texts have a type of their own."""
    assert key.rpartition(".")[2] in NODES or (limits["minimum"] is not None and limits["maximum"] is not None)


def ends(limits: Mapping[str, Any], whole: bool) -> dict[str, tuple[list[float], list[float]]]:
    """Values at each end that are valid, and such that are not."""
    step = 1 if whole else 1e-9
    low, high = limits["minimum"], limits["maximum"]
    found: dict[str, tuple[list[float], list[float]]] = {
        "low": ([low], [low - max(step, abs(low) * 1e-9)]) if low is not None else ([], [limits["above"]]),
        "high": ([high], [high + max(step, abs(high) * 1e-9)]) if high is not None else ([], [limits["below"]]),
    }
    found["high"][1].append(10**400 if whole else 1e308)
    return found


@dataclasses.dataclass
class Example:
    whole: int = option(1, minimum=1, maximum=10)
    share: float = option(0.5, above=0, below=1)
    listed: list[int] = option([1], minimum=1, maximum=10)
    anything: Any = option(1, minimum=1, maximum=10)
    named: dict[str, float] = option({}, minimum=-1, maximum=1)


@pytest.mark.parametrize("value", [0, 11, 10**400])
@pytest.mark.parametrize("name", ["whole", "listed", "anything", "named"])
def test_ranges_hold_in_lists_and_dicts(name: str, value: int) -> None:
    given: Any = {"listed": [1, value], "anything": [1, value], "named": {"a": value or 2.0}}.get(name, value)
    with pytest.raises(ConfigError, match=rf"^k\.{name}.* is out of range: it must be at (least|most) "):
        parse_options(Example, {name: given}, key="k")


FLAT = [
    (where, item.name)
    for where, schema in SCHEMA_OF.items()
    for item in dataclasses.fields(schema)
    if numbers(hints_of(schema)[item.name]) and (where in COMPONENTS)
]


@pytest.mark.parametrize(("where", "name"), FLAT)
@pytest.mark.parametrize("end", ["low", "high"])
def test_components_parse_up_to_their_ends(where: str, name: str, end: str) -> None:
    schema = SCHEMA_OF[where]
    hint, _ = without_none(hints_of(schema)[name])
    limits = next(item.metadata for item in dataclasses.fields(schema) if item.name == name)
    valid, invalid = ends(limits, int in (hint, *get_args(hint)))[end]
    for value in valid:
        parse_options(schema, {name: [value] if get_args(hint) else value}, key="k")
    for value in invalid:
        with pytest.raises(ConfigError, match=r"out of range|finite"):
            parse_options(schema, {name: [value] if get_args(hint) else value}, key="k")


PLACES = {
    **{
        slot: f"model.decoder.{slot}"
        for slot in ("self_attention", "cross_attention", "feed_forward", "layer", "stack")
    },
    **{slot: f"model.{slot}" for slot in ("embedding", "norm", "linear", "output")},
}


@pytest.mark.parametrize(("where", "name"), [pair for pair in FLAT if pair[0].split()[0] in PLACES])
@pytest.mark.parametrize("end", ["low", "high"])
def test_models_build_or_refuse_at_the_ends(where: str, name: str, end: str, make_model) -> None:
    """An option at its end gives a model, or one line."""
    if (where, name, end) == ("feed_forward moe", "experts", "high"):
        pytest.skip("builds thousands of modules")
    slot, component = where.split()
    hint, _ = without_none(hints_of(SCHEMA_OF[where])[name])
    limits = next(item.metadata for item in dataclasses.fields(SCHEMA_OF[where]) if item.name == name)
    valid, _ = ends(limits, int in (hint, *get_args(hint)))[end]
    for value in valid:
        given = [value] if get_args(hint) else value
        with contextlib.suppress(ConfigError):
            make_model(f"{PLACES[slot]}.name={component}", f"{PLACES[slot]}.{name}={given}")
