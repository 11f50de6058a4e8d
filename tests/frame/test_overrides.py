"""What users type as a text arrives as they typed it: in every command, in lists and dicts, in sweeps, in YAML."""

from __future__ import annotations

import dataclasses
import shlex
from collections.abc import Iterator
from enum import Enum
from pathlib import Path
from typing import Annotated, Any, get_args, get_origin

import pytest
from hydra.core.override_parser.overrides_parser import OverridesParser
from hypothesis import given
from hypothesis import strategies as st
from omegaconf import OmegaConf

from nmt.config import SCHEMAS, ConfigError, NamedTexts, Texts, command_schema, compose, parse_options, to_hydra
from nmt.overrides import NAMED_TEXTS, TEXTS, hint_at, hints_of, is_texts, literal, quoted, without_none, written
from nmt.untrusted import read_yaml

PARSER = OverridesParser.create()
NUMBERS = ["2024_11_24", "1.10", "1.1", "1e3", "0x10", "1_0", "007", "+1", "-0", ".5", "1.", "inf", "NaN", "1:30"]
WORDS = ["true", "False", "null", "NULL", "none", "on", "off", "no", "yes", "y", "~", "2024-11-24", "=", "<<"]
SIGNS = [
    "a=b",
    "a,b",
    "it's",
    'a"b',
    "a\\",
    "\\'",
    "'",
    '"',
    "größe (1)",
    "a: b",
    "[a",
    "a]",
    "{a",
    "[a]b",
    " a ",
    "$a",
]
SIGNS += [
    "choice(a,b)",
    "a#b",
    "#",
    "!!x",
    "*x",
    "&x",
    "%",
    "@",
    "-",
    "- a",
    "",
    "\u00a0",
    "漢字",
    "\U0001f600",
    "}{",
    "a}",
]
NASTY = [*NUMBERS, *WORDS, *SIGNS]

PRINTABLE = st.sampled_from(NASTY) | st.text(st.characters(exclude_categories=["Cc", "Cs"]), max_size=12)
PRINTABLE |= st.text("'\"\\\\,[]{}()=:$ 1.e_ntrue", max_size=12)


def typed(value: str, hint: Any, *, sweep: bool = False) -> Any:
    """What Hydra makes of a value that was typed for a key."""
    parsed = PARSER.parse_override(f"++key={written(value, hint, sweep=sweep)}")
    if not parsed.is_sweep_override():
        return parsed.value()
    return [PARSER.parse_override(f"key={one}").value() for one in parsed.sweep_string_iterator()]


def is_plain(text: str) -> bool:
    """Whether a text means itself: not in quotes, nothing to fill in, and not Hydra's sign for a missing value."""
    in_quotes = len(text) > 1 and text[0] == text[-1] and text[0] in "'\""
    return not in_quotes and "${" not in text and text != "???"


def text_keys(schema: type, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Dotted key and annotation of every text, list and dict of texts."""
    for name, hint in hints_of(schema).items():
        inner, _ = without_none(hint)
        if dataclasses.is_dataclass(inner):
            yield from text_keys(inner, f"{prefix}{name}.")  # type: ignore[arg-type]
        elif inner is str or is_texts(inner) or get_args(inner) == (str,):
            yield f"{prefix}{name}", hint


KEYS = [(command, key, hint) for command in SCHEMAS for key, hint in text_keys(command_schema(command))]


def test_text_keys_are_found() -> None:
    found = {(command, key) for command, key, _ in KEYS}
    assert len(found) > 60
    for wanted in (
        "train run",
        "train corpus",
        "bench plugins",
        "preprocess test",
        "preprocess source",
        "import path",
        "generate search.no_repeat_except",
    ):
        assert tuple(wanted.split()) in found
    assert ("reproduce", "recipe.benchmark.precision") in found


@pytest.mark.parametrize(("command", "key", "hint"), KEYS, ids=lambda value: value if isinstance(value, str) else "")
def test_every_text_key_is_found_by_its_path(command: str, key: str, hint: Any) -> None:
    schema = command_schema(command)
    assert hint_at(schema, key.split(".")) == hint
    inner, optional = without_none(hint)
    value = "1.10" if get_origin(inner) is not list else "[1.10,true]"
    assert PARSER.parse_override(to_hydra(f"{key}={value}", schema)).value() in ("1.10", ["1.10", "true"])
    null = PARSER.parse_override(to_hydra(f"{key}=null", schema)).value()
    assert null == (None if optional else "null")


@given(PRINTABLE.filter(is_plain))
def test_any_printable_text_arrives(text: str) -> None:
    assert typed(text, str) == text
    assert typed(text, str | None) == (None if text == "null" else text)
    if not (text.startswith("[") and text.endswith("]")):
        assert typed(text, Texts) == text
        if not (text.startswith("{") and text.endswith("}")):
            assert typed(text, NamedTexts) == text


@given(PRINTABLE.filter(lambda text: "${" not in text and text != "???"))
def test_in_quotes_any_text_arrives(text: str) -> None:
    for hint in (str, str | None, Texts, NamedTexts, Any):
        assert typed(quoted(text), hint) == text
        assert typed(literal(text), hint) == text
    assert typed(literal([text, text]), list[str]) == [text, text]
    assert typed(f"{quoted(text)},{quoted(text)}", str, sweep=True) == [text] * 2


PLAIN_ITEM = PRINTABLE.filter(is_plain).map(str.strip).filter(lambda text: not set(text) & set(",[]{}'\"") and text)


@given(st.lists(PLAIN_ITEM, max_size=4))
def test_items_of_lists_arrive(items: list[str]) -> None:
    assert typed(f"[{', '.join(items)}]", list[str]) == items
    assert typed(f"[{','.join(items)}]", Texts) == items
    assert typed(literal(items), Texts) == items


@given(PLAIN_ITEM, PLAIN_ITEM)
def test_values_of_a_sweep_arrive(first: str, second: str) -> None:
    assert typed(f"{first},{second}", str, sweep=True) == [first, second]


@pytest.mark.parametrize(
    ("value", "hint", "expected"),
    [
        ("[]", list[str], []),
        ("['a,b', \"c'd\" , [e]]", Texts, ["a,b", "c'd", ["e"]]),
        ("[a=b,train.max_epochs=2]", list[str], ["a=b", "train.max_epochs=2"]),
        ("[{name: 1}]", list[str], ["{name: 1}"]),
        ("{1.10: x, 2016: [1.10, a], no: 'b,c'}", NamedTexts, {"1.10 ": "x", "2016 ": ["1.10", "a"], "no": "b,c"}),
        ("{tiny: [a=1]}", dict[str, list[str]], {"tiny": ["a=1"]}),
        ("{paper: 1.5}", dict[str, float], {"paper": 1.5}),
        ("{}", NamedTexts, {}),
        ("{a}", NamedTexts, "{a}"),
        ("{a: 1}", Texts, "{a: 1}"),
        ("[1,2]", list[int], [1, 2]),
        ("1_0", int, 10),
        ("{name: 1.10, k: 1.10, inner: {name: on}}", Any, {"name": "1.10", "k": 1.1, "inner": {"name": "on"}}),
        ("[{name: 1.10}]", Any, [{"name": "1.10"}]),
        ("1.10", Any, 1.1),
        ("1.10", None, 1.1),
    ],
)
def test_containers(value: str, hint: Any, expected: Any) -> None:
    assert typed(value, hint) == expected


def test_sweeps_of_functions_are_hydras() -> None:
    assert typed("choice(a,b)", str, sweep=True) == ["a", "b"]
    assert typed("choice(a,b)", str) == "choice(a,b)"
    assert typed("[a,b],[c]", Texts, sweep=True) == [["a", "b"], ["c"]]


# --- whole commands ---------------------------------------------------------------------------------------------------

FIXED = {"reproduce": ["recipe=deep_shallow"]}
"""What must be given beside the texts."""

OWN_RULES = {"bench": ["peers", "precision"], "generate": ["corpus", "prefix", "score_target"]}
OWN_RULES |= {"reproduce": ["recipe.name", "recipe.baseline"]}
"""Texts with few values, or that exclude each other."""


@pytest.mark.parametrize("command", SCHEMAS)
def test_texts_of_a_command_arrive(command: str, tmp_path: Path) -> None:
    """Each text key with another nasty value, through Hydra, the schema, and a file of the configuration."""
    schema = command_schema(command)
    wanted: dict[str, Any] = {}
    for (key, hint), text in zip(text_keys(schema), NASTY * 4):
        inner, optional = without_none(hint)
        if key in OWN_RULES.get(command, []) or not is_plain(text):
            continue
        text = "NULL" if optional and text == "null" else text
        wanted[key] = [text] if get_origin(inner) is list else text
    words = [f"{key}={literal(value) if isinstance(value, list) else value}" for key, value in wanted.items()]
    config = compose(command, [*FIXED.get(command, []), *words])
    options = parse_options(schema, config)
    (tmp_path / "config.yaml").write_text(OmegaConf.to_yaml(config, resolve=True), encoding="utf-8")
    again = parse_options(schema, read_yaml(tmp_path / "config.yaml"))
    for key, value in wanted.items():
        for found in (options, again):
            for part in key.split("."):
                found = getattr(found, part)
            assert found == value, key


@pytest.mark.parametrize("text", NASTY)
def test_text_survives_a_configuration_file(text: str, tmp_path: Path) -> None:
    """``run: 1.10`` or ``source: no`` in a file that we write is a text when it is read."""
    path = tmp_path / "config.yaml"
    path.write_text(OmegaConf.to_yaml(OmegaConf.create({"run": text, text.strip() or "k": [text]})), encoding="utf-8")
    assert read_yaml(path) == {"run": text, text.strip() or "k": [text]}


class Colour(Enum):
    red = "red"


@dataclasses.dataclass
class Options:
    one: str = "a"
    some: Texts = "a"
    named: NamedTexts | None = None
    plain: list[str] = dataclasses.field(default_factory=list)
    paper: dict[str, float] = dataclasses.field(default_factory=dict)
    colour: Colour = Colour.red


@pytest.mark.parametrize(
    ("node", "message"),
    [
        ({"one": 1.1}, "k.one=1.1 is a number, but text is needed: put it in quotes"),
        ({"one": False}, "k.one=False is a truth value, but text is needed: put it in quotes"),
        ({"some": 1.1}, "k.some=1.1 is a number, but text is needed: put it in quotes"),
        ({"some": ["a", 2]}, "k.some=2 is a number, but text is needed: put it in quotes"),
        ({"some": {"a": "b"}}, "k.some={'a': 'b'} must be a text or a list of texts: k.some=A or k.some=[A,B]"),
        ({"some": None}, "k.some is required: give k.some=VALUE"),
        ({"named": {"a": [1]}}, "k.named.a=1 is a number, but text is needed: put it in quotes"),
        ({"named": {1: "a"}}, "a name in k.named=1 is a number, but text is needed: put it in quotes"),
        ({"plain": [True]}, "k.plain=True is a truth value, but text is needed: put it in quotes"),
        ({"plain": "a"}, "k.plain=a must be a list: k.plain=[a]"),
    ],
)
def test_numbers_of_yaml_are_no_texts(node: dict[str, Any], message: str) -> None:
    for one in (node, OmegaConf.create(node)):
        with pytest.raises(ConfigError) as caught:
            parse_options(Options, one, key="k")
        assert str(caught.value).startswith(message)


def test_names_of_a_dict_lose_their_padding() -> None:
    got = parse_options(Options, {"named": {"1.10 ": "x"}, "paper": {"2016 ": 1}})
    assert (got.named, got.paper) == ({"1.10": "x"}, {"2016": 1.0})


def test_marks_are_seen_through_none() -> None:
    assert without_none(Texts | None) == (Annotated[Any, TEXTS], True)
    assert is_texts(NamedTexts)
    assert is_texts(NamedTexts, NAMED_TEXTS)
    assert not is_texts(NamedTexts, TEXTS)


@pytest.mark.parametrize(
    "value", [None, True, 3, 0.5, [1, "true"], {"a": {"b": "1.10"}}, "null", "it's \\", "a b", "/x/y"]
)
def test_literals_are_read_back(value: Any) -> None:
    assert PARSER.parse_override(f"k={literal(value)}").value() == value
    assert shlex.split(shlex.join([literal(value)])) == [literal(value)]
