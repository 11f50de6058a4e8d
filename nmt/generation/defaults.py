"""What a search takes where the user says nothing: the checkpoint's own defaults, then those of ``SearchOptions``.

A checkpoint's ``config.yaml`` may hold a node ``search`` with keys of ``SearchOptions``: an imported model is searched
as in its own toolkit.
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import Enum
from pathlib import Path
from typing import Any

from omegaconf import DictConfig

from nmt.checkpoints.checkpoint import CONFIG_FILE, Checkpoint
from nmt.config import ConfigError, DataError, parse_options
from nmt.generation.options import GivenSearchOptions, SearchOptions, given_search
from nmt.overrides import literal
from nmt.untrusted import shorten

NEVER_CARRIED = "forced_length"
"""A measurement's option: null, which stands for its absence, could not be told from a key that was not given."""

COMMON = (
    *("beam", "length_penalty", "min_length", "max_length_ratio", "max_length_offset", "forced_length"),
    "no_repeat_ngram",
)
"""Options of a search that other toolkits have, too."""

Defaults = Mapping[str, Mapping[str, Any]]
"""By checkpoint, as the user named it: its own defaults."""


def read_defaults(config: DictConfig, folder: Path) -> dict[str, Any]:
    """The search defaults that a checkpoint carries.

    Args:
        config: its configuration.
        folder: where it lies, for messages.

    Raises:
        DataError: an unknown key, or a value that the key does not take.
    """
    node = config.get("search")
    if node is None:
        return {}
    try:
        if not isinstance(node, DictConfig):
            raise ConfigError(f"search={node} must be a group of keys")
        carried = given_search(parse_options(GivenSearchOptions, node, key="search"))
        if NEVER_CARRIED in carried:
            raise ConfigError(f"search.{NEVER_CARRIED} is for measurements and no default of a checkpoint")
        parse_options(SearchOptions, carried, key="search")
    except ConfigError as error:
        raise DataError(f"{folder / CONFIG_FILE}: {shorten(error, 1000)}") from error
    return carried


def defaults_of(checkpoint: str) -> dict[str, Any]:
    """The search defaults that the checkpoint of a path carries; raises what reading it raises."""
    found = Checkpoint.find(checkpoint)
    return read_defaults(found.config, found.folder)


def taken_defaults(given: Mapping[str, Any], defaults: Defaults) -> dict[str, Any]:
    """Which defaults of checkpoints hold beside what the user gave.

    Raises:
        ConfigError: the models of an ensemble carry different ones for a key that the user did not give.
    """
    taken = {}
    for key in sorted({key for carried in defaults.values() for key in carried} - given.keys()):
        values = {path: carried.get(key, getattr(SearchOptions(), key)) for path, carried in defaults.items()}
        first = next(iter(values.values()))
        if any(value != first for value in values.values()):
            each = ", ".join(f"{path}: {as_text(value)}" for path, value in values.items())
            raise ConfigError(f"search.{key}: the models of the ensemble have different defaults ({each}); give it")
        taken[key] = first
    return taken


def resolve_search(given: Mapping[str, Any], defaults: Defaults) -> SearchOptions:
    """The options of a search.

    Args:
        given: fields of ``SearchOptions`` that the user gave.
        defaults: what the checkpoints carry.

    Raises:
        ConfigError: an option is unknown, out of range, or does not go with another.
    """
    taken = taken_defaults(given, defaults)
    try:
        return parse_options(SearchOptions, {**taken, **given}, key="search")
    except ConfigError as error:
        involved = {key: value for key, value in taken.items() if f"search.{key}=" in str(error)}
        hint = f" (of the checkpoint: {describe_search(involved)})" if involved else ""
        raise ConfigError(f"{error}{hint}") from error


def uncommon(options: SearchOptions) -> dict[str, Any]:
    """What other toolkits have not, where it is not at its default."""
    ours = vars(SearchOptions())
    return {key: value for key, value in vars(options).items() if key not in COMMON and value != ours[key]}


def describe_search(options: Mapping[str, Any]) -> str:
    """Options as a user would type them."""
    return " ".join(f"search.{key}={as_text(value)}" for key, value in options.items())


def as_text(value: Any) -> str:
    """A value as a user would type it."""
    return literal(value.name if isinstance(value, Enum) else value)
