"""The command line that trains a model like one that was trained before, with some keys changed."""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from typing import Any

from omegaconf import DictConfig, OmegaConf

from nmt.checkpoints.differences import flatten
from nmt.config import compose, presets
from nmt.overrides import literal

PLACES = ("run", "init_from", "corpus", "checkpoint")
"""Keys that say where things lie, not how training goes."""


def train_command(config: DictConfig, changes: Mapping[str, Any], *, corpus: Any, run: str, init_from: str) -> str:
    """A line for the shell.

    Args:
        config: of the checkpoint; keys that it does not have keep their defaults.
        changes: values by dotted key.
        corpus: folder, or list of folders.
        run: folder of the new run.
        init_from: checkpoint that it starts from.
    """
    plain = OmegaConf.to_container(config, resolve=True)
    assert isinstance(plain, dict)
    wanted = {k: v for k, v in flatten(plain).items() if k.split(".")[0] not in PLACES}
    for slot in [key for key in changes if key.endswith(".name")]:  # a component's options go with its name
        node = slot.removesuffix("name")
        wanted = {k: v for k, v in wanted.items() if not k.startswith(node)}
    wanted.update(changes)
    places = {"corpus": corpus, "run": run, "init_from": init_from}
    base = [f"{key}={literal(value)}" for key, value in places.items()]
    for group in ("criterion", "optimizer", "schedule"):
        if f"{group}.name" in wanted:
            base.append(f"{group}={literal(wanted[f'{group}.name'])}")
    words = min(([*base, f"model={name}"] for name in presets("model")), key=lambda words: len(_missing(words, wanted)))
    for _ in range(2):  # a component's name drops the options that the preset held for another one
        words += _missing(words, wanted)
    return shlex.join(["nmt-train", *words])


def _missing(words: list[str], wanted: Mapping[str, Any]) -> list[str]:
    """The words that are needed beside others to get the wanted values."""
    now = flatten(OmegaConf.to_container(compose("train", words), resolve=True))
    return [f"{key}={literal(value)}" for key, value in wanted.items() if key not in now or now[key] != value]
