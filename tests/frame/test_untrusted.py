"""Files from anyone: every limit has its line, and nothing else comes out of them."""

from __future__ import annotations

import os
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from nmt.config import DataError
from nmt.untrusted import check_inside, parse_json, read_bytes, read_json, read_yaml, shorten, typed

GIVEN = settings(suppress_health_check=[HealthCheck.function_scoped_fixture])


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "Expecting value"),
        ('{"a": 1, "a": 2}', "a key stands twice in one object"),
        ("[NaN]", "NaN is no number"),
        ("[-Infinity]", "-Infinity is no number"),
        ("[1e999]", "1e999 is no number"),
        ("[" * 100_000, "recursion"),
        ('{"a":' * 2_000 + "1" + "}" * 2_000, "recursion"),
        ("[" * 66 + "]" * 66, "deeper than 64 values"),
        ("9" * 21, "a whole number of 21 digits"),
        ("9" * 100_000, "a whole number of 100000 digits"),
        ('["\\ud800"]', "surrogates not allo"),
        ('{"\\udfff": 1}', "surrogates not allo"),
    ],
)
def test_json_that_is_refused(text: str, message: str) -> None:
    with pytest.raises(DataError, match=f"^x.json: not JSON .*{message}") as caught:
        parse_json(text.encode(), "x.json")
    assert len(str(caught.value)) < 150


def test_json_that_is_read() -> None:
    nested = "[" * 65 + "]" * 65
    assert parse_json(b'{"a": [1, -2.5, true, null, "\\ud83d\\ude00"]}', "x") == {"a": [1, -2.5, True, None, "😀"]}
    assert parse_json(nested.encode(), "x") is not None
    assert parse_json(b"[NaN, Infinity]", "x", finite=False)[1] == float("inf")


@given(raw=st.binary() | st.text().map(str.encode))
def test_any_bytes_are_json_or_refused(raw: bytes, only_refused: Any) -> None:
    only_refused(lambda: parse_json(raw, "x"))


@pytest.mark.parametrize("kind", ["pipe", "folder", "device", "missing", "nul"])
def test_only_regular_files_are_read(kind: str, tmp_path: Path) -> None:
    """A pipe would wait for ever, a device has no end."""
    path = tmp_path / "x"
    if kind == "pipe":
        os.mkfifo(path)
    elif kind == "folder":
        path.mkdir()
    elif kind == "device":
        path.symlink_to("/dev/zero")
    elif kind == "nul":
        path = tmp_path / "a\0b"
    with pytest.raises(DataError, match="cannot be read"):
        read_json(path)


def test_a_file_beyond_its_limit_is_not_read(tmp_path: Path) -> None:
    path = tmp_path / "x.json"
    with path.open("wb") as file:
        file.truncate(1 << 40)  # sparse: no disk
    with pytest.raises(DataError, match=f"x.json: {1 << 40} bytes, but such a file has {1 << 26} at most"):
        read_json(path)
    with pytest.raises(DataError, match="but such a file has 10 at most"):
        read_bytes(path, 10)


def test_names_that_are_no_unicode(tmp_path: Path) -> None:
    path = tmp_path / os.fsdecode(b"\xff.json")
    path.write_text("{")
    with pytest.raises(DataError, match="not JSON"):
        read_json(path)


def test_links_stay_in_their_folder(tmp_path: Path) -> None:
    inside, outside = tmp_path / "inside", tmp_path / "outside"
    inside.mkdir()
    outside.write_text("secret")
    (inside / "a").write_text("a")
    links = {"b": "a", "c": "../outside", "d": str(outside), "e": "d", "f": "missing", "up": "..", "same": "."}
    for name, target in links.items():
        (inside / name).symlink_to(target)
    (tmp_path / "door").symlink_to(inside)
    for folder in (inside, tmp_path / "door"):
        for name in ("a", "b", "f", "none", "same/a", "up/inside/a"):
            check_inside(folder, folder / name)
        for name in ("c", "d", "e", "up", "up/outside", "same/c", "up/none"):
            with pytest.raises(DataError, match=f"{name}: a link that leads out of {folder}$"):
                check_inside(folder, folder / name)


# --- types ------------------------------------------------------------------------------------------------------------


@dataclass
class Inner:
    pair: tuple[float, str]
    maybe: float | None


@dataclass
class Outer:
    count: int
    parts: list[Inner]
    more: dict[str, int]


GOOD: dict[str, Any] = {"count": -1, "parts": [{"pair": [1, "a"], "maybe": None}], "more": {"x": 2}}


def test_typed_values() -> None:
    assert typed(Outer, GOOD) == Outer(-1, [Inner((1.0, "a"), None)], {"x": 2})


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"count": True}, "count must be a int and not True"),
        ({"count": "1"}, "count must be a int and not '1'"),
        ({"more": {"x": 1.0}}, r"more\.x must be a int and not 1\.0"),
        ({"parts": [{"pair": [1], "maybe": 1}]}, r"parts\[0\]\.pair must be a"),
        ({"parts": [{"pair": [1, 2], "maybe": 1}]}, r"parts\[0\]\.pair\[\] must be a str and not 2"),
        ({"parts": [{}]}, r"parts\[0\] must hold exactly the keys pair, maybe"),
        ({"new": 1}, "the top must hold exactly the keys count, parts, more"),
        ({"count": -2}, "count must be a int and not -2"),
    ],
)
def test_wrong_types(change: dict[str, Any], message: str) -> None:
    with pytest.raises(TypeError, match=message):
        typed(Outer, {**GOOD, **change}, least=-1)


def test_shorten() -> None:
    assert shorten("a\n b") == "a b"
    assert shorten("x" * 100, 10) == "x" * 10 + "..."


# --- YAML -------------------------------------------------------------------------------------------------------------

BOMB = "a: &a [x, x]\n" + "".join(
    f"{chr(98 + i)}: &{chr(98 + i)} [*{chr(97 + i)}, *{chr(97 + i)}]\n" for i in range(24)
)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (BOMB, "it has aliases"),
        ("a: &x 1", "it has aliases"),
        ("a: !!python/object/apply:os.system ['touch executed']", "it has a tag, tag:yaml.org,2002:python/object"),
        ("a: !!binary aGVsbG8=", "it has a tag"),
        ("a: !!int x", "it has a tag"),
        ("a: ${oc.env:HOME}", "it has an interpolation"),
        ("a: x${oc.decode:1}", "it has an interpolation"),
        ("${oc.env:HOME}: 1", "it has an interpolation"),
        ("a: 1\nb: ${a}", "it has an interpolation"),
        ("[" * 100_000, "deeper than 64 values"),
        ("a: " + "{a: " * 70 + "1" + "}" * 70, "deeper than 64 values"),
        ("- 1", "no keys at the top"),
        ("1", ""),
        ("a: 1\na: 2", "duplicate key"),
        ("a: [1", "expected"),
        ("a: 1\n---\nb: 2", ""),
        ("\ud800".encode("utf-8", "surrogatepass"), "codec can't decode"),
        (b"\xff\xfe", "codec can't decode"),
    ],
)
def test_yaml_that_is_refused(text: str | bytes, message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "x.yaml"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    start = time.monotonic()
    with pytest.raises(DataError, match=f"x.yaml: not a configuration .*{message}") as caught:
        read_yaml(path)
    assert time.monotonic() - start < 20
    assert "\n" not in str(caught.value)
    assert os.environ["HOME"] not in str(caught.value).removeprefix(str(path))
    assert not (tmp_path / "executed").exists()


@GIVEN
@given(data=st.data())
def test_any_yaml_is_read_or_refused(data: st.DataObject, tmp_path: Path, spoilt_value: Any, only_refused: Any) -> None:
    path = tmp_path / "x.yaml"
    value = spoilt_value(data, {"a": [1, {"b": "c"}], "d": {"e": 1.5, "f": None}})
    path.write_bytes(yaml.safe_dump(value, allow_unicode=True).encode("utf-8", "surrogatepass"))
    only_refused(lambda: read_yaml(path))
