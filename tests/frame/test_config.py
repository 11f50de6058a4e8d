"""Options, ranges and messages; composition, and what an override of a component's name does to its node."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from enum import Enum
from typing import Any

import pytest
from omegaconf import DictConfig, OmegaConf

from nmt.config import (
    ConfigError,
    Override,
    compose,
    option,
    options_table,
    parse_options,
    presets,
    reset_switched,
    to_hydra,
)
from nmt.training.options import TrainOptions

NEEDED = ["corpus=a", "run=b"]


class Colour(Enum):
    red = "red"
    blue = "blue"


@dataclass
class Inner:
    share: float = option(0.5, "a share", minimum=0, maximum=1)
    rate: float | None = option(None, "a rate", above=0, below=1)


@dataclass
class Outer:
    count: int = option(help="needed", minimum=1)
    colour: Colour = option(Colour.red, "a colour")
    weights: list[float] = option([1.0], "weights", above=0)
    inner: Inner = field(default_factory=Inner)


def test_values_are_typed() -> None:
    got = parse_options(Outer, {"count": "3", "colour": "blue", "inner": {"share": 1}})
    assert got == Outer(3, Colour.blue, [1.0], Inner(1.0, None))


def test_list_defaults_are_not_shared() -> None:
    first, second = Outer(1), Outer(1)
    first.weights.append(2.0)
    assert second.weights == [1.0]


@pytest.mark.parametrize(
    ("node", "message"),
    [
        ({}, "k.count is required: give k.count=VALUE"),
        ({"count": 0}, "k.count=0 is out of range: it must be at least 1"),
        ({"count": "many"}, "k.count: Value 'many' of type 'str' could not be converted to Integer"),
        ({"count": 1.5}, "k.count: Value '1.5' of type 'float' could not be converted to Integer"),
        ({"count": None}, "k.count: Incompatible value 'None' for field of type 'int'"),
        ({"count": 1, "colour": "green"}, "k.colour: Invalid value 'green', expected one of [red, blue]"),
        ({"count": 1, "weights": [1, 0]}, "k.weights=0.0 is out of range: it must be greater than 0"),
        ({"count": 1, "inner": {"share": 1.01}}, "k.inner.share=1.01 is out of range: it must be at most 1"),
        ({"count": 1, "inner": {"rate": 1}}, "k.inner.rate=1.0 is out of range: it must be less than 1"),
        ({"count": 1, "inner": {"rate": float("nan")}}, "k.inner.rate=nan is out of range: it must be a finite number"),
        ({"count": 1, "inner": 7}, "k.inner=7 must be a group of keys: k.inner.KEY=VALUE"),
        ({"count": "${nowhere}"}, "k.count: Interpolation key 'nowhere' not found"),
        ({"cuont": 1}, "unknown key k.cuont; valid keys here: colour, count, inner, weights (did you mean 'count'?)"),
        ({"count": 1, "xyz": 1}, "unknown key k.xyz; valid keys here: colour, count, inner, weights"),
        (
            {"count": 1, "inner": {"shared": 1}},
            "unknown key k.inner.shared; valid keys here: rate, share (did you mean 'share'?)",
        ),
    ],
)
def test_mistakes_are_one_line_with_the_full_key(node: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        parse_options(Outer, node, key="k")
    assert str(caught.value) == message
    with pytest.raises(ConfigError) as caught:  # the same at the top, without the key of the node
        parse_options(Outer, OmegaConf.create(node))
    assert str(caught.value) == re.sub(r"\bk\.", "", message)


def test_options_table_shows_enums_by_name() -> None:
    assert options_table(Inner) == [("share", "0.5", "a share"), ("rate", "None", "a rate")]
    assert options_table(Outer)[1:3] == [("colour", "red", "a colour"), ("weights", "[1.0]", "weights")]


# --- overrides --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("a.b=1", Override("", "a.b", "1")),
        ("++a=b=c", Override("++", "a", "b=c")),
        ("~a", Override("~", "a", "")),
        ("a=", Override("", "a", "")),
        ("a@b=c", Override("", "a@b", "c")),
        ("--cfg", None),
        ("job", None),
    ],
)
def test_overrides_are_split(text: str, expected: Override | None) -> None:
    assert Override.parse(text) == expected


@pytest.mark.parametrize(
    ("typed", "hydra"),
    [
        ("train.max_updates=3", "++train.max_updates=3"),
        ("model=tiny", "model=tiny"),
        ("model=tiny,small", "model=tiny,small"),
        ("model.dropout=0.2", "++model.dropout=0.2"),
        ("model={dropout: 0.2}", "++model={dropout: 0.2}"),
        ("criterion=cross_entropy", "criterion=cross_entropy"),
        ("criterion=from_a_plugin", "++criterion.name='from_a_plugin'"),
        ("++a.b=1", "++a.b=1"),
        ("++run=1.10", "++run='1.10'"),
        ("model.norm.name=1.10", "++model.norm.name='1.10'"),
        ("model={norm: {name: on, eps: 1e-6}}", "++model={norm: {name: 'on',eps: 1e-6}}"),
        ("~criterion", "~criterion"),
        ("hydra.verbose=true", "hydra.verbose=true"),
        ("--multirun", "--multirun"),
    ],
)
def test_overrides_reach_the_schema(typed: str, hydra: str) -> None:
    assert to_hydra(typed, TrainOptions) == hydra


@pytest.mark.parametrize("value", ["tny", "tiny,tny"])
def test_unknown_model_preset(value: str) -> None:
    with pytest.raises(
        ConfigError, match=r"^model=tny: no such preset; valid options: .*small, tiny \(did you mean 'tiny'"
    ):
        to_hydra(f"model={value}", TrainOptions)
    assert to_hydra(f"model={value}", TrainOptions, own_presets=True) == f"model={value}"


def test_presets() -> None:
    assert {"tiny", "small", "iwslt", "base", "deep_shallow"} <= set(presets("model"))
    assert "cross_entropy" in presets("criterion")


# --- composition ------------------------------------------------------------------------------------------------------

PRESET = {"name": "dense", "activation": "relu"}  # model.decoder.feed_forward of the presets


@pytest.mark.parametrize(
    ("overrides", "expected"),
    [
        ([], PRESET),
        (["model.decoder.feed_forward.activation=gelu"], {"name": "dense", "activation": "gelu"}),
        (["model.decoder.feed_forward={activation: gelu}"], {"name": "dense", "activation": "gelu"}),
        (["model.decoder.feed_forward.name=x"], {"name": "x"}),
        (["model.decoder.feed_forward.name=dense"], {"name": "dense"}),
        (["model.decoder.feed_forward.name=x", "model.decoder.feed_forward.k=1"], {"name": "x", "k": 1}),
        (["model.decoder.feed_forward.k.l=1", "model.decoder.feed_forward.name=x"], {"name": "x", "k": {"l": 1}}),
        (["model.decoder.feed_forward={name: x, k: 1}"], {"name": "x", "k": 1}),
        (["model.decoder.feed_forward={name:x}"], {"name": "x"}),
        (["model.decoder={feed_forward: {name: x}}"], {"name": "x"}),
        (["++model.decoder.feed_forward.name=x"], {"name": "x"}),
        (["model.encoder.feed_forward.name=x"], PRESET),
    ],
)
def test_another_component_drops_the_presets_options(overrides: list[str], expected: dict[str, Any]) -> None:
    assert compose("train", [*NEEDED, *overrides]).model.decoder.feed_forward == expected


def test_another_component_drops_an_option_of_any_name() -> None:
    """``layers`` is an option of a mixture of experts, as it is a dimension of a stack."""
    config = OmegaConf.create(
        {"encoder": {"layers": 3, "feed_forward": {"name": "dense", "layers": [1], "experts": 4}}}
    )
    reset_switched(config, ["encoder.feed_forward.name=dense"])
    assert config == {"encoder": {"layers": 3, "feed_forward": {"name": "dense"}}}


def test_another_decoder_keeps_the_dimensions() -> None:
    before, after = (compose("train", [*NEEDED, *o]).model.decoder for o in ([], ["model.decoder.name=x"]))
    assert after == {**before, "name": "x"}


@pytest.mark.parametrize(
    "overrides",
    [
        [],
        ["model=base", "schedule=cosine", "optimizer=adamw", "optimizer.lr=1e-3", "run=/tmp/a b", "mix=[1.0,0.5]"],
        ["model.decoder.feed_forward={name: moe, k: 1}", "model.decoder.self_attention.name=ssru", "criterion=x"],
        ["model.decoder.feed_forward.name=x", "optimizer.name=adam", "train.max_epochs=null", "plugins=[a.b,c]"],
    ],
)
def test_fixtures_compose_as_commands_do(overrides: list[str], composed) -> None:
    for _ in range(2):
        assert composed("train", [*NEEDED, *overrides]) == compose("train", [*NEEDED, *overrides])


def test_plugin_in_a_group_without_preset() -> None:
    assert compose("train", [*NEEDED, "criterion=x", "criterion.k=2"]).criterion == {"name": "x", "k": 2}


def train_options(*overrides: str) -> TrainOptions:
    return parse_options(TrainOptions, compose("train", [*NEEDED, *overrides]))


def test_defaults_fit_the_schema() -> None:
    options = train_options("train.max_updates=5", "model=base")
    assert (options.corpus, options.run, options.train.max_updates) == ("a", "b", 5)
    assert isinstance(options.model, dict | DictConfig)
    assert options.model["encoder"]["embed_dim"] == 512


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("train.max_update=5", r"unknown key train\.max_update; valid keys .* \(did you mean 'max_updates'\?\)"),
        ("trian.max_updates=5", r"unknown key trian; valid keys .* \(did you mean 'train'\?\)"),
        ("train.precision=fp8", r"train\.precision: Invalid value 'fp8', expected one of \[fp32, bf16, fp16\]"),
        ("train.log_every=11", r"train\.log_every=11 is out of range: it must be at most 10"),
        ("device=tpu", r"device: Invalid value 'tpu', expected one of \[auto, cpu, cuda\]"),
        ("batch=4096", r"batch=4096 must be a group of keys: batch\.KEY=VALUE"),
        ("corpus=???", r"corpus is required: give corpus=VALUE"),
        ("plugins=mine", r"plugins=mine must be a list: plugins=\[mine\]"),
        ("run=a${b", r"run='a\$\{b': \$\{ begins an interpolation, \$\{KEY\}; a text cannot hold it"),
        ("run=\\${b}", r"run=\$\{b\}: a text cannot hold \$\{"),
    ],
)
def test_mistakes_in_a_training(override: str, message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        train_options(override)
    assert re.fullmatch(message, str(caught.value))
