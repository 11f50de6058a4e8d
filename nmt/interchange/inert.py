"""Pickles read as inert data: nothing that a pickle names is imported, called or built.

``pickletools`` splits a pickle into its operations without carrying them out; a small machine puts them together. It
makes numbers, text, lists, tuples, sets and dicts. Whatever asks for a class or a function becomes a `Record` that
holds the name and the arguments, and does nothing. So it does not matter what a hostile file names.

What is built is bounded like what is read: an operation takes the time and the memory of the bytes that it consumes. An
item is put into a container by the operation that follows its own, what is memoised is referred to and never copied,
and the one call that copies (an ordered dict of pairs) counts what it copies as operations.
"""

from __future__ import annotations

import pickletools
from collections.abc import Callable
from dataclasses import dataclass
from typing import IO, Any, NoReturn

from nmt.config import DataError
from nmt.untrusted import shorten

MAX_BYTES = 1 << 26
"""Longest pickle that is read. The largest checkpoints have one of a few MiB: tensors are stored apart."""

MAX_ITEMS = 1 << 20
"""Most operations that are carried out. A model of 1,000 tensors takes 30,000, with its optimiser's state 100,000; each
makes 216 bytes at most (an empty set)."""

MAX_NAME = 1024
"""Longest text that is a name or a key: both are compared, each time that they are used."""

MAX_KEY = (1 << 61) - 2
"""Largest number that is kept as a key of a dict: its own hash."""


@dataclass(frozen=True, slots=True)
class Name:
    """A class or a function that a pickle names."""

    module: str
    name: str

    def __str__(self) -> str:
        return f"{self.module}.{self.name}"


@dataclass(eq=False, slots=True)
class Record:
    """What a pickle would have built by calling something.

    Attributes:
        kind: what it would have called.
        args: with which arguments.
        state: what it would have set afterwards (``__setstate__`` or the attributes), None where nothing.
    """

    kind: Any
    args: Any
    state: Any = None

    def __repr__(self) -> str:
        return f"Record({self.kind if isinstance(self.kind, Name) else '...'})"  # anything else may be deep

    def calls(self, *names: str) -> bool:
        """Whether it stands for a call of one of these functions (``module.name``)."""
        return isinstance(self.kind, Name) and str(self.kind) in names


@dataclass(frozen=True, slots=True)
class Reference:
    """Something stored outside the pickle (``persistent_id``); ``key`` says what."""

    key: Any


def show(value: Any) -> str:
    """A value as a short part of a message. Containers refer to each other: written out, they may have no end."""
    if isinstance(value, str | bytes | float | bool | None):
        return shorten(repr(value))
    small = isinstance(value, int) and -MAX_KEY <= value <= MAX_KEY
    return repr(value) if small else f"a {type(value).__name__}"


_MARK = object()


def _name(module: Any, name: Any) -> Name:
    if not isinstance(module, str) or not isinstance(name, str):
        raise ValueError("a name that is no text")
    if len(module) + len(name) > MAX_NAME:
        raise ValueError(f"a name of {len(module) + len(name)} characters")
    return Name(module, name)


def _key(value: Any) -> Any:
    """A key of a dict or an item of a set.

    Hashing a tuple that is deep enough would overflow the stack; numbers can be chosen so that all have one hash, which
    makes a dict of them take hours; long texts that are equal take as long as they are, at every use.
    """
    small = isinstance(value, int) and -MAX_KEY <= value <= MAX_KEY
    short = isinstance(value, str | bytes) and len(value) <= MAX_NAME
    return value if small or short or isinstance(value, Name | None) else Record(None, value)


_PUSH = frozenset(
    {
        *("INT", "BININT", "BININT1", "BININT2", "LONG", "LONG1", "LONG4", "FLOAT", "BINFLOAT"),
        *("STRING", "BINSTRING", "SHORT_BINSTRING", "BINBYTES", "SHORT_BINBYTES", "BINBYTES8", "BYTEARRAY8"),
        *("UNICODE", "SHORT_BINUNICODE", "BINUNICODE", "BINUNICODE8"),
    }
)
_NOTHING = frozenset({"PROTO", "FRAME", "STOP"})


class _Machine:
    """The stack and the memo of one pickle."""

    def __init__(self) -> None:
        self.stack: list[Any] = []
        self.memo: dict[int, Any] = {}
        self.items = 0  # operations so far, and what they copied

    def above_mark(self) -> list[Any]:
        """Take what lies above the last mark, and the mark."""
        for place in range(len(self.stack) - 1, -1, -1):
            if self.stack[place] is _MARK:
                items = self.stack[place + 1 :]
                del self.stack[place:]
                return items
        raise ValueError("no mark")

    def run(self, name: str, arg: Any) -> None:
        """Carry out one operation."""
        self.count(1)
        stack = self.stack
        if name in _PUSH:
            stack.append(arg)
        elif name in _ACTIONS:
            _ACTIONS[name](self, arg)
        elif name not in _NOTHING:
            raise ValueError(f"operation {name}")

    def count(self, items: int) -> None:
        """Raise an error where this makes too many."""
        self.items += items
        if self.items > MAX_ITEMS:
            raise ValueError(f"more than {MAX_ITEMS} operations")

    def call(self, kind: Any, args: Any) -> None:
        """Stands for a call: only an ordered dict becomes what it would have been."""
        record = Record(kind, args)
        if record.calls("collections.OrderedDict") and isinstance(args, tuple):
            pairs = args[0] if args else []
            if not isinstance(pairs, list | tuple):
                raise ValueError("an ordered dict of what are no pairs")
            self.count(len(pairs))
            self.stack.append({_key(key): value for key, value in pairs})
        else:
            self.stack.append(record)

    def build(self) -> None:
        state = self.stack.pop()
        if isinstance(self.stack[-1], Record):
            self.stack[-1].state = state  # attributes of a dict (torch's _metadata) are left out

    def append(self, items: list[Any]) -> None:
        target = self.stack[-1]
        if isinstance(target, list):
            target.extend(items)
        elif not isinstance(target, Record):
            raise ValueError("items for what is no list")

    def set_items(self, items: list[Any]) -> None:
        target = self.stack[-1]
        if len(items) % 2:
            raise ValueError("a key without a value")
        if isinstance(target, dict):
            target.update(zip(map(_key, items[::2]), items[1::2]))
        elif not isinstance(target, Record):
            raise ValueError("keys for what is no dict")

    def pop(self, count: int) -> tuple[Any, ...]:
        """The last ``count`` values, first one first."""
        if len(self.stack) < count:
            raise ValueError("an empty stack")
        items = tuple(self.stack[len(self.stack) - count :])
        if any(item is _MARK for item in items):
            raise ValueError("a mark among values")
        del self.stack[len(self.stack) - count :]
        return items

    def dict_above_mark(self) -> None:
        items = self.above_mark()
        self.stack.append({})
        self.set_items(items)

    def memoise(self, place: int) -> None:
        self.memo[place] = self.stack[-1]


def _call_last_two(machine: _Machine) -> None:
    kind, args = machine.pop(2)
    machine.call(kind, args)


def _call_with_keywords(machine: _Machine) -> None:
    kind, args, keywords = machine.pop(3)
    machine.call(kind, (args, keywords))


def _instance(machine: _Machine) -> None:
    kind, *args = machine.above_mark()
    machine.call(kind, tuple(args))


def _extend_set(machine: _Machine) -> None:
    items = machine.above_mark()
    if isinstance(machine.stack[-1], set):
        machine.stack[-1].update(map(_key, items))


_Action = Callable[[_Machine, Any], object]
_ACTIONS: dict[str, _Action] = {
    "MARK": lambda m, _: m.stack.append(_MARK),
    "POP": lambda m, _: m.stack.pop(),
    "POP_MARK": lambda m, _: m.above_mark(),
    "DUP": lambda m, _: m.stack.append(m.stack[-1]),
    "NONE": lambda m, _: m.stack.append(None),
    "NEWTRUE": lambda m, _: m.stack.append(True),
    "NEWFALSE": lambda m, _: m.stack.append(False),
    "EMPTY_TUPLE": lambda m, _: m.stack.append(()),
    "EMPTY_LIST": lambda m, _: m.stack.append([]),
    "EMPTY_DICT": lambda m, _: m.stack.append({}),
    "EMPTY_SET": lambda m, _: m.stack.append(set()),
    "TUPLE": lambda m, _: m.stack.append(tuple(m.above_mark())),
    "TUPLE1": lambda m, _: m.stack.append(m.pop(1)),
    "TUPLE2": lambda m, _: m.stack.append(m.pop(2)),
    "TUPLE3": lambda m, _: m.stack.append(m.pop(3)),
    "DICT": lambda m, _: m.dict_above_mark(),
    "LIST": lambda m, _: m.stack.append(m.above_mark()),
    "FROZENSET": lambda m, _: m.stack.append(frozenset(map(_key, m.above_mark()))),
    "ADDITEMS": lambda m, _: _extend_set(m),
    "APPEND": lambda m, _: m.append(list(m.pop(1))),
    "APPENDS": lambda m, _: m.append(m.above_mark()),
    "SETITEM": lambda m, _: m.set_items(list(m.pop(2))),
    "SETITEMS": lambda m, _: m.set_items(m.above_mark()),
    "PUT": lambda m, arg: m.memoise(arg),
    "BINPUT": lambda m, arg: m.memoise(arg),
    "LONG_BINPUT": lambda m, arg: m.memoise(arg),
    "MEMOIZE": lambda m, _: m.memoise(len(m.memo)),
    "GET": lambda m, arg: m.stack.append(m.memo[arg]),
    "BINGET": lambda m, arg: m.stack.append(m.memo[arg]),
    "LONG_BINGET": lambda m, arg: m.stack.append(m.memo[arg]),
    "GLOBAL": lambda m, arg: m.stack.append(_name(*arg.split(" ", 1))),
    "STACK_GLOBAL": lambda m, _: m.stack.append(_name(*m.pop(2))),
    "REDUCE": lambda m, _: _call_last_two(m),
    "NEWOBJ": lambda m, _: _call_last_two(m),
    "NEWOBJ_EX": lambda m, _: _call_with_keywords(m),
    "INST": lambda m, arg: m.call(_name(*arg.split(" ", 1)), tuple(m.above_mark())),
    "OBJ": lambda m, _: _instance(m),
    "BUILD": lambda m, _: m.build(),
    "PERSID": lambda m, arg: m.stack.append(Reference(arg)),
    "BINPERSID": lambda m, _: m.stack.append(Reference(m.pop(1)[0])),
}


class _Bounded:
    """A file of which no more than ``MAX_BYTES`` can be asked, whatever length a pickle claims."""

    def __init__(self, file: IO[bytes]) -> None:
        self.file, self.end = file, file.tell() + MAX_BYTES

    def tell(self) -> int:
        return self.file.tell()

    def read(self, count: int) -> bytes:
        return self.file.read(min(count, self._left()))

    def readline(self) -> bytes:
        return self.file.readline(self._left())

    def _left(self) -> int:
        left = self.end - self.file.tell()
        if left <= 0:
            raise ValueError(f"longer than {MAX_BYTES >> 20} MiB")
        return left


def read_pickle(file: IO[bytes], name: str) -> Any:
    """One pickle as inert data.

    Args:
        file: at the pickle's first byte; left behind its last.
        name: where it lies, for messages.

    Returns:
        Numbers, text, bytes, lists, tuples, sets and dicts, and in them `Name`, `Record` and `Reference`. It may be
        deep and may refer back to itself: walk it without recursion.

    Raises:
        DataError: truncated, malformed, too long, or not a pickle.
    """

    def bad(why: object) -> NoReturn:
        raise DataError(f"{name}: not a pickle that can be read ({str(why)[:80]})")

    machine = _Machine()
    try:
        for code, arg, _ in pickletools.genops(_Bounded(file)):  # type: ignore[arg-type]
            machine.run(code.name, arg)
        (value,) = machine.pop(1)
    except (ValueError, IndexError, KeyError, TypeError, AttributeError, RecursionError, MemoryError) as error:
        if isinstance(error, DataError):
            raise
        bad(error)
    return value
