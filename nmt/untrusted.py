"""Files that may come from anyone: read with limits, so that whatever is in them can only fail with one clear line.

Sizes are looked at before memory is taken; JSON and YAML come out as plain values of bounded depth. docs/security.md
says what is trusted and what is not.
"""

from __future__ import annotations

import dataclasses
import io
import json
import math
import os
import re
import stat
from collections.abc import Iterator
from pathlib import Path
from types import UnionType
from typing import Any, NoReturn, Union, get_args, get_origin, get_type_hints

import yaml
from omegaconf import DictConfig, OmegaConf

from nmt.config import DataError

MAX_JSON_BYTES = 1 << 26
"""A corpus.json has a few KiB; the random states of 1,000 processes in a training.json have 10 MiB."""

MAX_JSON_VALUES = 1 << 22
"""What parsing makes of two bytes (an empty list) takes 130: the values are counted before any is made. A vocabulary of
a million words has 2 million, keys and values; the random states of 1,000 processes have 3."""

MAX_YAML_BYTES = 1 << 18
"""A configuration has a few KiB; the parser reads some 100 KiB a second."""

MAX_DEPTH = 64
"""Of values inside values."""

MAX_DIGITS = 20
"""Of a whole number: int64 has 19."""


def shorten(value: object, length: int = 80) -> str:
    """A value from a file as a short part of a message, on one line."""
    text = " ".join(str(value).split())
    return text if len(text) <= length else f"{text[:length]}..."


def file_size(path: Path) -> int:
    """Size of a regular file in bytes: a pipe or a device could be read without end.

    Raises:
        DataError: it is missing, or no regular file.
    """
    try:
        found = path.stat()
    except (OSError, ValueError) as error:  # ValueError: a NUL in the name
        raise DataError(f"{path}: cannot be read ({getattr(error, 'strerror', None) or error})") from error
    if not stat.S_ISREG(found.st_mode):
        raise DataError(f"{path}: cannot be read (not a regular file)")
    return found.st_size


def read_bytes(path: Path, most: int) -> bytes:
    """The content of a file that may have so many bytes at most.

    Raises:
        DataError: it is missing, unreadable, too long, or no regular file.
    """
    size = file_size(path)
    if size > most:
        raise DataError(f"{path}: {size} bytes, but such a file has {most} at most")
    try:
        with path.open("rb") as file:
            return file.read(size)  # asking for more would take the memory for it
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror or error})") from error


def check_inside(folder: Path, path: Path) -> None:
    """Refuse a link that leads out of a foreign folder: what it leads to is not for whoever wrote the folder to name.

    Args:
        folder: a corpus or a run; it may be reached by a link itself.
        path: below the folder; any part of it may be a link.

    Raises:
        DataError: it leads elsewhere.
    """
    if not Path(os.path.realpath(path)).is_relative_to(os.path.realpath(folder)):
        raise DataError(f"{path}: a link that leads out of {folder}")


def is_plain_name(name: str) -> bool:
    """Whether a name can only mean something in the folder where it is looked for."""
    return re.fullmatch(r"\w[\w.-]{0,200}", name) is not None


# --- JSON -------------------------------------------------------------------------------------------------------------


def read_json(path: Path, *, finite: bool = True) -> Any:
    """The value of a JSON file; see ``parse_json``.

    Raises:
        DataError: missing, too long, or not such JSON.
    """
    return parse_json(read_bytes(path, MAX_JSON_BYTES), str(path), finite=finite)


def parse_json(raw: bytes, name: str, *, finite: bool = True) -> Any:
    """A JSON text as plain values: no key twice, whole numbers of ``MAX_DIGITS``, depth ``MAX_DEPTH``, valid Unicode.

    It has ``MAX_JSON_VALUES`` values at most.

    Args:
        raw: UTF-8.
        name: where it lies, for messages.
        finite: refuse NaN and infinities, which are no JSON but what Python's writer makes of them.

    Raises:
        DataError: anything else.
    """

    def refuse(text: str) -> NoReturn:
        raise ValueError(f"{text} is no number")

    def number(text: str) -> float:
        value = float(text)
        return value if math.isfinite(value) or not finite else refuse(shorten(text))

    try:
        # Before each value but the first stands one of these; a few more may stand inside of texts.
        if sum(map(raw.count, (b",", b":", b"[", b"{"))) > MAX_JSON_VALUES:
            raise ValueError(f"more than {MAX_JSON_VALUES} values")
        hooks: dict[str, Any] = {"parse_constant": refuse} if finite else {}
        value = json.loads(raw.decode(), object_pairs_hook=_object, parse_int=_whole, parse_float=number, **hooks)
        for item, depth in _walk(value):
            if depth > MAX_DEPTH:
                raise ValueError(f"deeper than {MAX_DEPTH} values")
            if isinstance(item, str):
                item.encode()
    except (ValueError, RecursionError) as error:
        raise DataError(f"{name}: not JSON ({shorten(error)})") from error
    return value


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    value = dict(pairs)
    if len(value) < len(pairs):
        raise ValueError("a key stands twice in one object")
    return value


def _whole(text: str) -> int:
    if len(text) > MAX_DIGITS:
        raise ValueError(f"a whole number of {len(text)} digits")
    return int(text)


def _walk(value: Any) -> Iterator[tuple[Any, int]]:
    """Every value with its depth, keys among them; nothing below one that is too deep."""
    todo = [(value, 0)]
    while todo:
        item, depth = todo.pop()
        yield item, depth
        if isinstance(item, dict):
            todo += [(part, depth + 1) for pair in item.items() for part in pair]
        elif isinstance(item, list):
            todo += [(part, depth + 1) for part in item]


def typed(kind: Any, value: Any, key: str = "", *, least: int | None = None) -> Any:
    """A value of JSON as the type that an annotation names: dataclasses, lists, dicts, tuples, ``X | None``, scalars.

    Args:
        kind: the annotation.
        value: from ``read_json``.
        key: where the value stands, for messages.
        least: smallest whole number.

    Raises:
        TypeError: it is of another type, too small, or a key is missing or unknown.
    """
    if kind is Any:
        return value
    if dataclasses.is_dataclass(kind):
        hints = get_type_hints(kind)
        if not isinstance(value, dict) or set(value) != set(hints):
            raise TypeError(f"{shorten(key) or 'the top'} must hold exactly the keys {', '.join(hints)}")
        start = f"{key}." if key else ""
        parts = {name: typed(hint, value[name], f"{start}{name}", least=least) for name, hint in hints.items()}
        return kind(**parts)  # type: ignore[operator]
    origin, arguments = get_origin(kind), get_args(kind)
    if origin in (Union, UnionType):
        return None if value is None else typed(arguments[0], value, key, least=least)
    if origin is dict and isinstance(value, dict):
        return {name: typed(arguments[1], item, f"{key}.{name}", least=least) for name, item in value.items()}
    if origin is list and isinstance(value, list):
        return [typed(arguments[0], item, f"{key}[{index}]", least=least) for index, item in enumerate(value)]
    if origin is tuple and isinstance(value, list) and len(value) == len(arguments):
        return tuple(typed(part, item, f"{key}[]", least=least) for part, item in zip(arguments, value))
    if kind is float and type(value) is int:
        return float(value)
    if type(value) is not kind or (kind is int and least is not None and value < least):
        raise TypeError(f"{shorten(key)} must be a {getattr(kind, '__name__', kind)} and not {shorten(repr(value))}")
    return value


# --- YAML -------------------------------------------------------------------------------------------------------------


def read_yaml(path: Path) -> DictConfig:
    """A configuration as it was written: plain values only.

    Aliases (which can blow up), tags (which can name Python's types) and interpolations (which can read the
    environment) are refused. Configurations are written with their interpolations resolved.

    Raises:
        DataError: missing, too long, not YAML, not a mapping, or more than plain values.
    """
    return parse_yaml(read_bytes(path, MAX_YAML_BYTES), str(path))


def parse_yaml(raw: bytes, name: str) -> DictConfig:
    """What `read_yaml` makes of a file's content.

    Args:
        raw: UTF-8, of ``MAX_YAML_BYTES`` at most.
        name: where it lies, for messages.

    Raises:
        DataError: not YAML, not a mapping, or more than plain values.
    """
    try:
        if len(raw) > MAX_YAML_BYTES:
            raise ValueError(f"{len(raw)} bytes")
        text = raw.decode()
        _check_events(text)
        config = OmegaConf.load(io.StringIO(text))
    except Exception as error:  # the two libraries let a dozen kinds out
        raise DataError(f"{name}: not a configuration ({shorten(error, 200)})") from error
    if not isinstance(config, DictConfig):
        raise DataError(f"{name}: not a configuration (no keys at the top)")
    return config


def _check_events(text: str) -> None:
    """Refuse what is not plain, before any value is made."""
    depth = 0
    for event in yaml.parse(text, Loader=yaml.SafeLoader):
        if isinstance(event, yaml.AliasEvent) or getattr(event, "anchor", None) is not None:
            raise ValueError("it has aliases")
        tag = getattr(event, "tag", None)
        if tag is not None:
            raise ValueError(f"it has a tag, {tag}")
        if isinstance(event, yaml.ScalarEvent) and "${" in event.value:
            raise ValueError(f"it has an interpolation, {event.value}")
        depth += isinstance(event, yaml.CollectionStartEvent) - isinstance(event, yaml.CollectionEndEvent)
        if depth > MAX_DEPTH:
            raise ValueError(f"deeper than {MAX_DEPTH} values")
