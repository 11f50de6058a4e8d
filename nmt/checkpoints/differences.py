"""In what two configurations differ, however they are spelled: an option left out is its default."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from omegaconf import DictConfig, OmegaConf

from nmt.registry import completed

MODEL_KEYS = ("task", "model", "checkpoint.source_language", "checkpoint.target_language")
"""Keys of a checkpoint's configuration, with all below them, that say what its weights mean; beside its vocabulary."""


def flatten(config: Any, prefix: str = "") -> dict[str, Any]:
    """A nested mapping as dotted keys."""
    if not isinstance(config, Mapping) or not config:
        return {prefix: config}
    flat: dict[str, Any] = {}
    for key, value in config.items():
        flat.update(flatten(value, f"{prefix}.{key}" if prefix else str(key)))
    return flat


def flat(config: DictConfig) -> dict[str, Any]:
    """All values of a configuration by dotted key, with the defaults of the components that it names."""
    plain = OmegaConf.to_container(config, resolve=True)
    assert isinstance(plain, dict)
    return flatten(completed({str(key): value for key, value in plain.items()}))


def differing(old: Mapping[str, Any], new: Mapping[str, Any]) -> list[str]:
    """Keys whose values differ, sorted; a key that is missing is one without a value."""
    return sorted(key for key in old.keys() | new.keys() if old.get(key) != new.get(key))


def listed(keys: Iterable[str], old: Mapping[str, Any], new: Mapping[str, Any], where: str = "here") -> str:
    """Both values of some keys, for messages; ``where`` is a word for the new ones."""
    return "; ".join(f"{key}: {old.get(key)} there, {new.get(key)} {where}" for key in keys)


def model_differences(there: DictConfig, here: DictConfig) -> str:
    """In what the models of two checkpoints' configurations differ, for messages; empty where they do not."""
    old, new = flat(there), flat(here)
    keys = [key for key in differing(old, new) if any(f"{key}.".startswith(f"{start}.") for start in MODEL_KEYS)]
    return listed(keys, old, new)
