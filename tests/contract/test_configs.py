"""Every file under ``conf/`` composes with the schema of its command, says what each key means, and builds."""

from __future__ import annotations

import importlib
import re
from collections.abc import Iterator
from itertools import pairwise
from keyword import iskeyword
from pathlib import Path
from typing import Any

import pytest
import torch
from omegaconf import DictConfig, OmegaConf

from nmt.config import command_groups, command_schema, compose, parse_options, presets
from nmt.models.encoder_decoder import build_model, num_parameters
from nmt.registry import discover, find, slots

discover()
CONF = Path(__file__).parents[2] / "conf"
FILES = sorted(CONF.rglob("*.yaml"))
COMMANDS = [path.stem for path in FILES if path.parent == CONF]
GROUP_FILES = [path for path in FILES if path.parent != CONF]
CHOICES = [
    (command, group, name)
    for command in COMMANDS
    for group in command_groups(command)
    if group != "recipe"  # tests/contract/test_recipes.py has these
    for name in presets(group)
]


def relative(path: Path) -> str:
    return str(path.relative_to(CONF))


ONE_OF = {"generate": ["input=given"], "reproduce": ["recipe=deep_shallow"]}
"""Where the user must choose between keys, or a file of a group."""


def required(command: str) -> list[str]:
    """Overrides that give every value which the user must give."""
    text = (CONF / f"{command}.yaml").read_text(encoding="utf-8")
    names = re.findall(r"^(\w+): *\?\?\?", text, flags=re.MULTILINE)
    return [f"{name}=given" for name in names] + ONE_OF.get(command, [])


def check(command: str, overrides: list[str], monkeypatch: pytest.MonkeyPatch) -> DictConfig:
    """Compose and parse as the command would."""
    module = importlib.import_module(f"nmt.commands.{command}{'_' * iskeyword(command)}")
    seen: list[Any] = []
    monkeypatch.setattr(module, "run_app", lambda *arguments: seen.append(arguments))
    module.main()
    [(name, schema, _)] = seen
    assert name == command
    assert schema is command_schema(command), "composed from Python with the same schema"
    config = compose(command, [*required(command), *overrides])
    parse_options(schema, config)
    return config


BY_KEY = {slot.key: slot.name for slot in slots().values()}
"""Slots that stand at the top under a key of another name: ``method`` holds a ``pruner``."""


def nodes(node: Any, key: str) -> Iterator[tuple[str, str, DictConfig]]:
    """(slot, key, node) of every component that a configuration names."""
    for name, child in node.items():
        if isinstance(child, DictConfig):
            slot = BY_KEY.get(name, name)
            if "name" in child and slot in slots():
                yield slot, f"{key}.{name}", child
            yield from nodes(child, f"{key}.{name}")


@pytest.mark.parametrize("command", COMMANDS)
def test_command_composes_with_its_schema(command: str, monkeypatch: pytest.MonkeyPatch) -> None:
    check(command, [], monkeypatch)


@pytest.mark.parametrize(("command", "group", "name"), CHOICES, ids="-".join)
def test_preset_composes_and_knows_its_options(
    command: str, group: str, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = check(command, [f"{group}={name}"], monkeypatch)
    found = list(nodes(OmegaConf.create({group: config[group]}), ""))
    assert len(found) >= (1 if group in BY_KEY else 8)
    for slot, key, node in found:
        if slot != "decoder":  # its node holds the dimensions of the stack too: the building of models checks it
            component = find(slot, node.name, key)
            parse_options(component.options, {k: v for k, v in node.items() if k != "name"}, key=key)
    if group in BY_KEY:
        assert config[group].name == name, "a preset is named after its component"


def test_every_group_is_reachable() -> None:
    used = {group for command in COMMANDS for group in command_groups(command)}
    assert {path.parent.name for path in GROUP_FILES} == used


@pytest.mark.parametrize("path", FILES, ids=relative)
def test_every_key_carries_a_comment(path: Path) -> None:
    """On its line or the line above; a key that only opens a group needs none."""
    lines = ["", *path.read_text(encoding="utf-8").splitlines()]
    bare = [
        line
        for above, line in pairwise(lines)
        if re.match(r"\s*\w+:\s*[^\s#]", line) and " # " not in line and not above.lstrip().startswith("#")
    ]
    assert bare == []


@pytest.mark.parametrize("path", GROUP_FILES, ids=relative)
def test_preset_opens_with_its_purpose(path: Path) -> None:
    assert re.match(r"(# @package _global_\n)?# [A-Z0-9].{10,}\n", path.read_text(encoding="utf-8"))


DEPTHS = {"tiny": (2, 2, 128), "small": (3, 3, 256), "iwslt": (6, 6, 512), "base": (6, 6, 512), "big": (6, 6, 1024)}
DEPTHS |= {"deep_shallow": (12, 1, 512), "base_6_1": (6, 1, 512), "base_9_2": (9, 2, 512)}


@pytest.mark.parametrize("name", presets("model"))
def test_model_preset_builds(name: str) -> None:
    node = compose("train", [f"model={name}"]).model
    with torch.device("meta"):
        model = build_model(node, source_size=37_000, target_size=37_000, joint=True)
    encoder, decoder = len(model.encoder.layers), len(model.decoder.stack.layers)
    assert (encoder, decoder) == (node.encoder.layers, node.decoder.layers)
    stated = re.search(r"(\d+)\+(\d+) layers", (CONF / "model" / f"{name}.yaml").read_text(encoding="utf-8"))
    assert stated is None or (int(stated[1]), int(stated[2])) == (encoder, decoder)
    assert DEPTHS.get(name, (encoder, decoder, node.decoder.embed_dim)) == (encoder, decoder, node.decoder.embed_dim)


@pytest.mark.parametrize(("name", "millions"), [("base", 65), ("big", 213)])
def test_size_is_that_of_the_paper(name: str, millions: int) -> None:
    """Vaswani et al. 2017, table 3; they count 37,000 pieces and round."""
    with torch.device("meta"):
        node = compose("train", [f"model={name}"]).model
        model = build_model(node, source_size=37_000, target_size=37_000, joint=True)
    assert num_parameters(model) / 1e6 == pytest.approx(millions, rel=0.04)


@pytest.mark.parametrize(
    ("key", "values"),
    [
        ("model.decoder.feed_forward.activation", ["relu", "gelu", "silu", "glu", "reglu", "geglu", "swiglu"]),
        ("model.decoder.layer.norm_position", ["pre", "post"]),
        ("model.embedding.share", ["none", "decoder", "all"]),
        ("model.embedding.positions", ["sinusoidal", "learned", "none"]),
        ("model.norm.name", ["layer_norm", "rms_norm"]),
    ],
)
def test_variants_of_a_preset_build(key: str, values: list[str], make_model) -> None:
    sizes = [num_parameters(make_model(f"{key}={value}")) for value in values]
    gated = num_parameters(make_model(f"{key}={values[-1]}"))
    assert all(size > 0 for size in sizes)
    assert gated == sizes[-1], "the size of a model does not depend on what was built before"
