"""Texts of the command line in Hydra's grammar.

Hydra reads ``key=value`` before the typed schema does: to it ``1.10`` is a number, ``true`` a truth value, and ``a=b``
a mistake. So what the schema knows to be text is put in quotes before Hydra reads it, and arrives as it was typed.
"""

from __future__ import annotations

import dataclasses
import json
import re
from collections.abc import Mapping
from enum import Enum
from functools import cache
from types import UnionType
from typing import Any, Union, get_args, get_origin, get_type_hints

from hydra.core.override_parser.types import Quote, QuotedString

TEXTS = "a text or a list of texts"
NAMED_TEXTS = "a text, a list of texts, or a dict of either by name"
"""Marks of annotations: ``Annotated[Any, TEXTS]``."""

_QUOTED = re.compile(r"""'(?:\\.|[^'\\])*'|"(?:\\.|[^"\\])*\"""", re.DOTALL)
_SWEEP = re.compile(r"(?:choice|range|interval|glob|shuffle|sort|tag|extend_list)\(.*\)", re.DOTALL)
_NO_TEXT = re.compile(r"[+-]?(?:\d[\d_]*)?\.?\d*(?:e[+-]?\d+)?|[+-]?(?:inf|nan)|true|false|null", re.IGNORECASE)
"""What Hydra may take for something else; rather too much than too little."""


def quoted(text: str) -> str:
    """A text as a value of Hydra's grammar, whatever is in it (``${...}`` stays an interpolation)."""
    return QuotedString(text=text, quote=Quote.single).with_quotes()


def literal(value: Any) -> str:
    """A plain value as it is typed after ``key=``; texts have quotes where they need any."""
    if isinstance(value, list):
        return f"[{','.join(map(literal, value))}]"
    if isinstance(value, Mapping):
        return f"{{{','.join(f'{key}:{literal(child)}' for key, child in value.items())}}}"
    if not isinstance(value, str):
        return json.dumps(value)
    return value if re.fullmatch(r"[\w./-]+", value, re.ASCII) and not _NO_TEXT.fullmatch(value) else quoted(value)


# --- what a key is ----------------------------------------------------------------------------------------------------


def hints_of(schema: Any) -> dict[str, Any]:
    """The annotations of a dataclass, with their marks."""
    return _hints_of(schema)


@cache
def _hints_of(schema: Any) -> dict[str, Any]:
    return get_type_hints(schema, include_extras=True)


def without_none(hint: Any) -> tuple[Any, bool]:
    """``X`` of an annotation ``X | None``, and whether it was one."""
    if get_origin(hint) not in (Union, UnionType):
        return hint, False
    [inner] = [part for part in get_args(hint) if part is not type(None)]
    return inner, True


def is_texts(hint: Any, *marks: str) -> bool:
    """Whether an annotation has one of the marks; any where none is given."""
    return any(mark in (marks or (TEXTS, NAMED_TEXTS)) for mark in getattr(hint, "__metadata__", ()))


def hint_at(schema: Any, path: list[str]) -> Any:
    """The annotation of a dotted key; None where there is no such key, or only a component knows it.

    ``name`` within a component's node is text: the name of the component.
    """
    hint = schema
    for part in path:
        hint, _ = without_none(hint)
        if dataclasses.is_dataclass(hint):
            hint = hints_of(hint).get(part)
        elif get_origin(hint) is dict:
            hint = get_args(hint)[1]
        elif hint is Any:
            return str if path[-1] == "name" else Any
        elif not is_texts(hint):
            return None
    return hint


# --- rewriting --------------------------------------------------------------------------------------------------------


def written(value: str, hint: Any, *, sweep: bool = False) -> str:
    """A value as typed, in Hydra's grammar: texts in quotes, all else as it is.

    A text that stands in quotes already is what they hold, ``null`` where the key may be null is null, and what is no
    well-formed list or dict where one may stand is text.

    Args:
        value: what stands after ``key=``.
        hint: annotation of the key.
        sweep: commas stand between values to try (``--multirun``).
    """
    if hint is None or (sweep and _SWEEP.fullmatch(value)):
        return value
    if sweep and (choices := _split(value)) is not None and len(choices) > 1:
        return ",".join(written(choice, hint) for choice in choices)
    hint, optional = without_none(hint)
    if optional and value == "null":
        return value
    if isinstance(hint, type) and issubclass(hint, str | Enum):
        return value if _QUOTED.fullmatch(value) else quoted(value)
    if value.startswith("[") and (items := _inside(value, "[]")) is not None:
        inner = get_args(hint)[0] if get_origin(hint) is list else hint
        return f"[{','.join(written(item, inner) for item in items)}]"
    if value.startswith("{") and not is_texts(hint, TEXTS) and (items := _inside(value, "{}")) is not None:
        pairs = [item.partition(":") for item in items]
        if all(colon for _, colon, _ in pairs):
            return f"{{{','.join(_entry(key.strip(), child.strip(), hint) for key, _, child in pairs)}}}"
    return written(value, str) if is_texts(hint) or get_args(hint) == (str,) else value


def _entry(key: str, value: str, hint: Any) -> str:
    """An entry of a dict; a name of the user's is text too.

    Hydra takes no quotes there: with a space at its end it is text, and `parse_options` takes the space off.
    """
    child = hint if is_texts(hint) else hint_at(hint, [key])
    if (is_texts(hint) or get_origin(hint) is dict) and _NO_TEXT.fullmatch(key):
        key += "\\ "
    return f"{key}: {written(value, child)}"


def _inside(value: str, brackets: str) -> list[str] | None:
    """The items of a list or dict; None where it is not one."""
    if len(value) < 2 or value[0] != brackets[0] or value[-1] != brackets[1]:
        return None
    return _split(value[1:-1]) if value[1:-1].strip() else []


def _split(text: str) -> list[str] | None:
    """What stands between commas outside brackets and quotes; None where brackets do not match.

    Quotes count where they enclose a whole item, or the value of an entry.
    """
    pieces, depth, start, place = [], 0, 0, 0
    opening = True  # only white space since the last separator
    while place < len(text):
        sign = text[place]
        found = _QUOTED.match(text, place) if opening else None
        if found and re.match(r"\s*(?:[],:}]|$)", text[found.end() :]):
            place, opening = found.end(), False
            continue
        if sign == "," and not depth:
            pieces.append(text[start:place].strip())
            start = place + 1
        depth += (sign in "[{") - (sign in "]}")
        if depth < 0:
            return None
        opening = sign in ",:[{" or (opening and sign.isspace())
        place += 1
    return None if depth else [*pieces, text[start:].strip()]
