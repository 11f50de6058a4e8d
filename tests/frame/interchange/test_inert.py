"""Pickles as inert data: what is read is what was written, and nothing of it runs."""

from __future__ import annotations

import argparse
import builtins
import collections
import contextlib
import io
import os
import pickle
import pickletools
import struct
import subprocess
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from nmt.config import DataError
from nmt.interchange.inert import MAX_BYTES, MAX_KEY, Name, Record, Reference, read_pickle

SCALARS = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text() | st.binary()
KEYS = st.integers(-MAX_KEY, MAX_KEY)
VALUES = st.recursive(
    SCALARS,
    lambda inner: (
        st.lists(inner)
        | st.lists(inner).map(tuple)
        | st.dictionaries(st.text() | KEYS, inner)
        | st.dictionaries(st.text(), inner).map(collections.OrderedDict)
        | st.sets(KEYS | st.text())
        | st.frozensets(st.text())
    ),
    max_leaves=20,
)


def read(data: bytes) -> Any:
    return read_pickle(io.BytesIO(data), "x.pkl")


def read_or_refuse(data: bytes) -> None:
    """Whatever the bytes are: a value or one line, no other exception."""
    with contextlib.suppress(DataError):
        read(data)


@given(VALUES, st.sampled_from([2, 3, 4, 5]))
def test_plain_values_come_back(value: Any, protocol: int) -> None:
    if protocol == 2:  # binary data and sets are calls there
        protocol = 3 if not _has_sets(value) else 4
    elif protocol == 3 and _has_sets(value):
        protocol = 4
    assert read(pickle.dumps(value, protocol)) == value


def _has_sets(value: Any) -> bool:
    return any(op.name == "REDUCE" for op, _, _ in pickletools.genops(pickle.dumps(value, 3)))


@given(st.recursive(st.integers() | st.text() | st.none(), lambda i: st.lists(i) | st.dictionaries(st.text(), i)))
def test_protocols_of_text(value: Any) -> None:
    for protocol in (0, 1, 2):
        assert read(pickle.dumps(value, protocol)) == value


def test_objects_become_records() -> None:
    record = read(pickle.dumps(argparse.Namespace(arch="transformer", layers=6)))
    assert isinstance(record, Record)
    assert (record.kind, record.state) == (Name("argparse", "Namespace"), {"arch": "transformer", "layers": 6})
    assert record.calls("argparse.Namespace")
    assert not record.calls("os.system")


def test_what_refers_to_itself() -> None:
    loop: list[Any] = [1]
    loop.append(loop)
    found = read(pickle.dumps(loop))
    assert found[0] == 1
    assert found[1] is found


def test_references_are_kept() -> None:
    class Pickler(pickle.Pickler):
        def persistent_id(self, value: Any) -> Any:
            return ("storage", value.nbytes) if isinstance(value, memoryview) else None

    file = io.BytesIO()
    Pickler(file, 2).dump({"a": memoryview(b"123")})
    assert read(file.getvalue()) == {"a": Reference(("storage", 3))}


class Call:
    """Pickles as a call of anything."""

    def __init__(self, function: Any, *args: Any) -> None:
        self.result = (function, args)

    def __reduce__(self) -> Any:
        return self.result


def attacks(mark: Path) -> dict[str, bytes]:
    """Pickles that leave ``mark`` behind when they are run."""
    touch = f"touch {mark}"
    code = f"open({str(mark)!r}, 'w')"
    inner = pickle.dumps(Call(os.system, touch))
    nested = io.BytesIO()
    torch.save(Call(os.system, touch), nested)
    text = b"\x8c" + struct.pack("<B", len(touch)) + touch.encode()
    return {
        "os.system": inner,
        "protocol 0": pickle.dumps(Call(os.system, touch), 0),
        "eval": pickle.dumps(Call(builtins.eval, code)),
        "exec": pickle.dumps(Call(builtins.exec, code)),
        "getattr": pickle.dumps(Call(getattr, Call(builtins.__import__, "os"), "system")),
        "call of a call": pickle.dumps([Call(map, os.system, [touch]), Call(list, Call(map, os.system, [touch]))]),
        "subprocess": pickle.dumps(Call(subprocess.check_output, ["touch", str(mark)])),
        "pickle in a pickle": pickle.dumps(Call(pickle.loads, inner)),
        "torch.load in a pickle": pickle.dumps(Call(torch.load, Call(io.BytesIO, nested.getvalue()))),
        "INST": b"(S'" + touch.encode() + b"'\nios\nsystem\n.",
        "OBJ": b"(cos\nsystem\n" + text + b"o.",
        "STACK_GLOBAL": b"\x80\x04\x8c\x02os\x8c\x06system\x93" + text + b"\x85R.",
        "NEWOBJ": b"\x80\x04cos\nsystem\n" + text + b"\x85\x81.",
        "NEWOBJ_EX": b"\x80\x04cos\nsystem\n" + text + b"\x85}\x92.",
        "dotted name": b"\x80\x04\x8c\x02os\x8c\x0bpath.os.system\x93"[:-1] + b"\x93" + text + b"\x85R.",
        "BUILD sets a dict": b"\x80\x04cbuiltins\ndict\n)R}(\x8c\x08__init__cos\nsystem\nub.",
        "from the memo": b"\x80\x04cos\nsystem\n\x940" + text + b"\x940h\x00h\x01\x85R.",
        "OrderedDict of a call": pickle.dumps(collections.OrderedDict(a=Call(os.system, touch))),
    }


@pytest.mark.parametrize("name", attacks(Path("mark")))
def test_attacks_do_nothing(name: str, tmp_path: Path) -> None:
    mark = tmp_path / "mark"
    read_or_refuse(attacks(mark)[name])
    assert not mark.exists()


@pytest.mark.parametrize("name", ["os.system", "protocol 0", "eval", "STACK_GLOBAL", "INST", "from the memo"])
def test_the_attacks_are_real(name: str, tmp_path: Path) -> None:
    """The same bytes, unpickled: otherwise the test above would show nothing."""
    mark = tmp_path / "mark"
    found = pickle.loads(attacks(mark)[name])
    assert mark.exists() or found is os.system


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b".",
        b"not a pickle",
        b"\x80\x04",
        b"\x80\x04K\x01",
        b"\x80\x04h\x07.",  # nothing memoised there
        b"\x80\x04t.",  # no mark
        b"\x80\x04((a.",
        b"\x80\x04R.",
        b"\x80\x04]K\x01s.",
        b"\x80\x04}(K\x01u.",  # a key without a value
        b"\x80\x04K\x01K\x02a.",  # an item for what is no list
        b"\x80\x04\x82\x01.",  # extension registry
        b"\x80\x05\x97.",  # out-of-band buffer
        b"\x80\x04ccollections\nOrderedDict\n(K\x01tR.",
        b"\x80\x04K\x01K\x02\x93.",  # a name that is no text
        b"\x80\x04B" + struct.pack("<I", 1 << 31) + b"x.",
        b"\x80\x04\x8e" + struct.pack("<Q", 1 << 60) + b"x.",
        b"\x80\x04\x8b" + struct.pack("<i", -5) + b".",
        pickle.dumps(list(range(1000)))[:-40],
    ],
)
def test_malformed_pickles_give_one_line(data: bytes) -> None:
    with pytest.raises(DataError, match=r"^x\.pkl: not a pickle that can be read \(.*\)$"):
        read(data)


@given(st.binary(max_size=60))
def test_any_bytes_are_read_or_refused(data: bytes) -> None:
    for start in (b"", b"\x80\x04", b"\x80\x04](}("):
        read_or_refuse(start + data + b".")


@given(st.data())
def test_changed_bytes_are_read_or_refused(data: st.DataObject) -> None:
    good = bytearray(
        pickle.dumps({"args": argparse.Namespace(a=[1, 2.5, "x"]), "model": collections.OrderedDict(w=(1,))})
    )
    for _ in range(data.draw(st.integers(1, 4))):
        good[data.draw(st.integers(0, len(good) - 1))] = data.draw(st.integers(0, 255))
    read_or_refuse(bytes(good))


def test_depth_does_no_harm() -> None:
    deep = b"\x80\x04)" + b"\x85" * 300_000
    assert read(deep + b".")
    assert isinstance(next(iter(read(b"\x80\x04}" + deep[2:] + b"K\x01s."))), Record)  # as a key
    assert len(read(b"\x80\x04\x8f(" + deep[2:] + b"\x90.")) == 1  # in a set
    with pytest.raises(DataError):
        read(deep + b"K\x01\x93.")  # as a name


def test_doubling_does_no_harm() -> None:
    """A list of two of a list of two of ...: small as long as nobody writes it out."""
    data = b"\x80\x04]" + b"".join(b"\x94]h" + bytes([i]) + b"ah" + bytes([i]) + b"a" for i in range(60)) + b"."
    assert len(read(data)) == 2
    call = data[:-1] + b"K\x01\x85R."
    assert len(repr(read(call))) < 100


def test_length_is_limited() -> None:
    class Endless(io.RawIOBase):
        place = 0

        def read(self, count: int = -1) -> bytes:
            assert 0 < count <= MAX_BYTES
            self.place += count
            return b"N" * count

        def tell(self) -> int:
            return self.place

    with pytest.raises(DataError, match=r"more than .* operations|longer than"):
        read_pickle(Endless(), "x.pkl")
