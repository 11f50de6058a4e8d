"""Typed configuration: dataclass schemas checked by OmegaConf, one-line errors, composition by Hydra.

YAML under ``conf/`` holds the defaults of the commands and says what each key means; the dataclasses here and in the
rest of the frame give the types and ranges. A component's options are one dataclass with defaults.
"""

from __future__ import annotations

import dataclasses
import difflib
import math
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import MISSING, dataclass, field
from functools import cache
from importlib import import_module, resources
from typing import Annotated, Any, TypeVar, get_args, get_origin

from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import (
    ConfigAttributeError,
    ConfigKeyError,
    InterpolationResolutionError,
    MissingMandatoryValue,
    OmegaConfBaseException,
    ValidationError,
)

from nmt.overrides import NAMED_TEXTS, TEXTS, hint_at, hints_of, is_texts, without_none, written

GROUPS = ("model", "task", "criterion", "optimizer", "schedule", "method")
"""Configuration groups: ``KEY=NAME`` selects ``conf/KEY/NAME.yaml``."""

FILES_ONLY = ("model", "recipe")
"""Groups whose names are files; those of the others are components, which need none."""

SCHEMAS = {
    "average": "nmt.commands.average:AverageOptions",
    "bench": "nmt.benchmark.options:BenchOptions",
    "components": "nmt.commands.components:ComponentsOptions",
    "export": "nmt.commands.export:ExportOptions",
    "generate": "nmt.generation.options:GenerateOptions",
    "import": "nmt.commands.import_:ImportOptions",
    "preprocess": "nmt.data.prepare:PreprocessOptions",
    "prune": "nmt.compression.options:PruneOptions",
    "reproduce": "nmt.reproduction.options:ReproduceOptions",
    "score": "nmt.metrics.scoring:ScoreOptions",
    "similarity": "nmt.compression.similarity_options:SimilarityOptions",
    "train": "nmt.training.options:TrainOptions",
}
"""Where the dataclass of each command is, so that what is composed from Python is read as on the command line."""

Texts = Annotated[Any, TEXTS]
"""The type of an option that takes a text or a list of texts."""

NamedTexts = Annotated[Any, NAMED_TEXTS]
"""The type of an option that takes a text, a list of texts, or a dict of either by name."""

MAX_WHOLE = 2**64
"""Beyond it nothing counts on: Python's own whole numbers have no end, and become no float at some size."""

T = TypeVar("T")


class ConfigError(ValueError):
    """A mistake in what the user typed: one line that names key, value and the valid options."""


class DataError(ValueError):
    """A mistake in a file: one line that names the file and, where there is one, the line."""


def suggest(name: str, valid: Iterable[str]) -> str:
    """`` (did you mean 'x'?)`` for the nearest valid name, or nothing."""
    near = difflib.get_close_matches(name, list(valid), n=1)
    return f" (did you mean {near[0]!r}?)" if near else ""


def option(
    default: Any = "???",
    help: str = "",
    *,
    minimum: float | None = None,
    maximum: float | None = None,
    above: float | None = None,
    below: float | None = None,
    training_only: bool = False,
) -> Any:
    """A dataclass field with a meaning and a range.

    Args:
        default: the default; without one the value must come from YAML or the user.
        help: what the option means, with its unit (shown by ``nmt-components``).
        minimum: smallest valid value.
        maximum: largest valid value.
        above: valid values are strictly greater.
        below: valid values are strictly smaller.
        training_only: evaluation is the same whatever the value, as with every kind of dropout; tests hold it to that.
    """
    limits = {"minimum": minimum, "maximum": maximum, "above": above, "below": below}
    metadata = {"help": help, "training_only": training_only, **limits}
    if isinstance(default, list | dict):
        return field(default_factory=lambda: type(default)(default), metadata=metadata)
    return field(default=default, metadata=metadata)


def parse_options(schema: type[T], node: Mapping[str, Any] | DictConfig, *, key: str = "") -> T:
    """Check a configuration node against a dataclass and return an instance of it.

    Args:
        schema: dataclass; nested dataclasses and enums are followed.
        node: the values.
        key: full key of the node, for messages; empty at the top.

    Raises:
        ConfigError: unknown key (with the nearest valid one), wrong type, value out of range, or a missing value.
    """
    prefix = f"{key}." if key else ""
    _check_kinds(schema, node, key)
    try:
        typed = OmegaConf.merge(_structured(schema), node)
        result = OmegaConf.to_object(typed)
    except (ConfigKeyError, ConfigAttributeError) as error:
        name = str(error.full_key or error.key)
        parent, _, last = name.rpartition(".")
        valid = _field_names(schema, parent)
        raise ConfigError(
            f"unknown key {prefix}{name}; valid keys here: {', '.join(valid)}{suggest(last, valid)}"
        ) from error
    except MissingMandatoryValue as error:
        raise ConfigError(f"{prefix}{error.full_key} is required: give {prefix}{error.full_key}=VALUE") from error
    except ValidationError as error:
        raise ConfigError(f"{prefix}{error.full_key}: {_first_line(error)}") from error
    except (InterpolationResolutionError, OmegaConfBaseException) as error:
        where = ".".join(part for part in (key, error.full_key) if part)
        raise ConfigError(f"{where or 'configuration'}: {_first_line(error)}") from error
    return _check_values(result, {}, key)


def _structured(schema: Any) -> DictConfig:
    """A dataclass as OmegaConf sees it; to make it takes longer than to check a node against it."""
    return _structured_once(schema)


@cache
def _structured_once(schema: Any) -> DictConfig:
    return OmegaConf.structured(schema)


def _check_kinds(hint: Any, value: Any, key: str) -> None:
    """Texts are texts and groups are groups: OmegaConf makes texts of numbers, and does not say which group is none.

    Args:
        hint: annotation of the key.
        value: its value, before interpolations are resolved.
        key: full key, for messages; empty at the top.
    """
    hint, optional = without_none(hint)
    value = OmegaConf.to_container(value, resolve=False) if OmegaConf.is_config(value) else value
    if is_texts(hint):
        if value is None and not optional:
            raise ConfigError(f"{key} is required: give {key}=VALUE")
        if isinstance(value, Mapping) and is_texts(hint, TEXTS):
            raise ConfigError(f"{key}={value} must be {TEXTS}: {key}=A or {key}=[A,B]")
        for name, child in value.items() if isinstance(value, Mapping) else ():
            _check_text(name, f"a name in {key}")
            _check_kinds(hint, child, f"{key}.{name}")
        for child in value if isinstance(value, list) else ():
            _check_kinds(hint, child, key)
    if is_texts(hint) or hint is str:
        _check_text(value, key)
    elif value is None or (isinstance(value, str) and (value == "???" or "${" in value)):
        return
    elif dataclasses.is_dataclass(hint):
        if dataclasses.is_dataclass(value):
            return  # made and checked already
        if not isinstance(value, Mapping):
            raise ConfigError(f"{key}={value} must be a group of keys: {key}.KEY=VALUE")
        for name, child in hints_of(hint).items():
            if name in value:
                _check_kinds(child, value[name], f"{key}.{name}" if key else name)
    elif get_origin(hint) is list:
        if not isinstance(value, list | tuple):
            raise ConfigError(f"{key}={value} must be a list: {key}=[{value}]")
        for child in value:
            _check_kinds(get_args(hint)[0], child, key)
    elif isinstance(value, int) and abs(value) > MAX_WHOLE:
        raise ConfigError(f"{key}={str(value)[:20]}... is out of range: it must be at most {MAX_WHOLE}")
    elif get_origin(hint) is dict and isinstance(value, Mapping):
        for name, child in value.items():
            _check_kinds(get_args(hint)[1], child, f"{key}.{name}")


def _check_text(value: Any, key: str) -> None:
    if isinstance(value, bool | int | float):
        kind = "a truth value" if isinstance(value, bool) else "a number"
        raise ConfigError(f"{key}={value} is {kind}, but text is needed: put it in quotes")


def _first_line(error: Exception) -> str:
    return str(error).strip().splitlines()[0]


def _field_names(schema: Any, path: str) -> list[str]:
    """Names of the keys at a dotted path below a dataclass."""
    node = OmegaConf.structured(schema)
    found = OmegaConf.select(node, path) if path else node
    return sorted(str(k) for k in found) if OmegaConf.is_dict(found) else []


def _check_values(value: Any, limits: Mapping[str, Any], key: str) -> Any:
    """Numbers are within their ranges, at any depth of what was parsed; the value, keys of dicts without padding."""
    if dataclasses.is_dataclass(value):
        for item in dataclasses.fields(value):
            child = getattr(value, item.name)
            checked = _check_values(child, item.metadata, f"{key}.{item.name}" if key else item.name)
            if checked != child:
                setattr(value, item.name, checked)
    elif isinstance(value, list):
        return [_check_values(child, limits, key) for child in value]
    elif isinstance(value, dict):
        return {
            name.strip() if isinstance(name, str) else name: _check_values(child, limits, f"{key}.{name}")
            for name, child in value.items()
        }
    elif isinstance(value, int | float) and not isinstance(value, bool):
        _check_range(value, limits, key)
    elif isinstance(value, str) and "${" in value:
        raise ConfigError(f"{key}={value}: a text cannot hold ${{")
    return value


def _check_range(value: float, limits: Mapping[str, Any], key: str) -> None:
    tests: dict[str, tuple[str, Callable[[float, float], bool]]] = {
        "minimum": ("at least", lambda v, limit: v >= limit),
        "maximum": ("at most", lambda v, limit: v <= limit),
        "above": ("greater than", lambda v, limit: v > limit),
        "below": ("less than", lambda v, limit: v < limit),
    }
    if isinstance(value, float) and not math.isfinite(value):
        raise ConfigError(f"{key}={value} is out of range: it must be a finite number")
    for name, (words, holds) in tests.items():
        limit = limits.get(name)
        if limit is not None and not holds(value, limit):
            raise ConfigError(f"{key}={value} is out of range: it must be {words} {limit}")


def options_table(schema: type) -> list[tuple[str, str, str]]:
    """(name, default, meaning) of every option of a component."""
    rows = []
    for item in dataclasses.fields(schema):
        default = item.default if item.default_factory is MISSING else item.default_factory()
        default = getattr(default, "name", default)
        rows.append((item.name, str(default), item.metadata.get("help", "")))
    return rows


# --- composition ------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Override:
    """One ``key=value`` of the command line, split."""

    prefix: str  # "", "+", "++" or "~"
    key: str
    value: str

    @classmethod
    def parse(cls, text: str) -> Override | None:
        """None where the text is not an override (an option such as ``--cfg``)."""
        match = re.fullmatch(r"(\+{0,2}|~)([A-Za-z_][\w./@-]*)(?:=(.*))?", text, flags=re.DOTALL)
        if match is None or (match[3] is None and match[1] != "~"):
            return None
        return cls(match[1], match[2], match[3] or "")


def presets(group: str) -> list[str]:
    """Names that ``group=NAME`` can take."""
    folder = resources.files("nmt.conf") / group
    return sorted(p.name[: -len(".yaml")] for p in folder.iterdir() if p.name.endswith(".yaml"))


def to_hydra(
    text: str, schema: type, *, groups: Iterable[str] = GROUPS, own_presets: bool = False, sweep: bool = False
) -> str:
    """Rewrite one command-line override so that texts stay texts and Hydra accepts keys that only a component knows.

    ``a.b=v`` becomes ``++a.b=v``: whether the key exists is checked by the typed schema, whose message names the
    nearest valid key. A group's choice stays as it is; for groups of components a name without a preset stands for
    ``group.name=NAME``, so that a plug-in needs no YAML.

    Args:
        text: as typed.
        schema: of the command; says which values are texts.
        groups: groups that this command has.
        own_presets: the user brings a folder of presets (``--config-dir``): names are left for Hydra to check.
        sweep: commas stand between values to try (``--multirun``).

    Raises:
        ConfigError: no such preset.
    """
    override = Override.parse(text)
    if override is None or override.prefix == "~" or override.key.startswith("hydra") or "@" in override.key:
        return text
    if override.prefix or override.key not in groups or override.value.startswith("{"):
        value = written(override.value, hint_at(schema, override.key.split(".")), sweep=sweep)
        _check_interpolation(override.key, value)
        return f"{override.prefix or '++'}{override.key}={value}"
    if own_presets:
        return text
    choices, known = re.split(r",\s*", override.value), presets(override.key)
    if all(choice in known for choice in choices):
        return text
    if override.key not in FILES_ONLY:
        return f"++{override.key}.name={written(override.value, str, sweep=sweep)}"
    bad = next(c for c in choices if c not in known)
    raise ConfigError(f"{override.key}={bad}: no such preset; valid options: {', '.join(known)}{suggest(bad, known)}")


def _check_interpolation(key: str, value: str) -> None:
    if "${" in value:
        try:
            OmegaConf.create([value])
        except OmegaConfBaseException as error:
            raise ConfigError(f"{key}={value}: ${{ begins an interpolation, ${{KEY}}; a text cannot hold it") from error


def reset_switched(config: DictConfig, overrides: Iterable[str]) -> DictConfig:
    """Where the user chose another component by name, drop the options that the preset held for the old one.

    Args:
        config: as composed by Hydra, changed in place.
        overrides: the command line's overrides.
    """
    given = {key for text in overrides for key in _given_keys(text)}
    for key in given:
        parent, _, last = key.rpartition(".")
        node = OmegaConf.select(config, parent) if last == "name" and parent else None
        # A node that holds other components (model.decoder) has dimensions beside its own options: they stay.
        if not isinstance(node, DictConfig) or any(_is_component(child) for child in node.values()):
            continue
        for option_name in list(node):
            own = f"{parent}.{option_name}"
            if not any(k == own or k.startswith(f"{own}.") for k in given):
                OmegaConf.set_struct(node, False)
                del node[option_name]
    return config


def _is_component(node: Any) -> bool:
    return isinstance(node, DictConfig) and "name" in node


def _given_keys(text: str) -> Iterator[str]:
    """The keys that one override of the command line sets, those inside a dict among them."""
    from hydra.core.override_parser.overrides_parser import OverridesParser

    override = Override.parse(text)
    if override is None:
        return
    yield override.key
    if override.value.startswith("{"):
        yield from _keys_below(OverridesParser.create().parse_override(text).value(), override.key)


def _keys_below(node: Any, key: str) -> Iterator[str]:
    for name, child in node.items() if isinstance(node, Mapping) else ():
        yield f"{key}.{name}"
        yield from _keys_below(child, f"{key}.{name}")


def compose(command: str, overrides: Iterable[str] = ()) -> DictConfig:
    """The configuration of a command from Python, as the command line would compose it.

    Args:
        command: name of a file in ``conf/``: ``train``, ``generate``, ...
        overrides: as typed after the command.
    """
    from hydra import compose as hydra_compose
    from hydra import initialize_config_module
    from hydra.core.global_hydra import GlobalHydra

    groups, schema = command_groups(command), command_schema(command)
    rewritten = [to_hydra(text, schema, groups=groups) for text in overrides]
    hydra = GlobalHydra.instance()
    running, hydra.hydra = hydra.hydra, None  # within a command Hydra is there already, and it allows one at a time
    try:
        with initialize_config_module("nmt.conf", version_base="1.3"):
            config = hydra_compose(command, overrides=rewritten)
    finally:
        GlobalHydra.instance().hydra = running
    return reset_switched(config, rewritten)


def command_schema(command: str) -> type:
    """The dataclass of a command's options."""
    module, _, name = SCHEMAS[command].partition(":")
    found: type = getattr(import_module(module), name)
    return found


def command_groups(command: str) -> list[str]:
    """Groups in the defaults list of ``conf/COMMAND.yaml``."""
    text = (resources.files("nmt.conf") / f"{command}.yaml").read_text(encoding="utf-8")
    defaults = OmegaConf.to_container(OmegaConf.create(text)).get("defaults", [])  # type: ignore[union-attr]
    return [str(name) for entry in defaults if isinstance(entry, dict) for name in entry]
