"""Files of ``torch.save``, read without unpickling: inert values, and tensors that are read one by one.

Both forms are known: the zip archive (since torch 1.6) and the stream of pickles before it. Sizes are compared with the
file before memory is taken; an archive's checksums are compared with what is used of it.
"""

from __future__ import annotations

import io
import math
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import torch
from torch import Tensor

from nmt.config import DataError
from nmt.interchange.archive import Member, check_member, read_directory, read_member
from nmt.interchange.inert import MAX_BYTES, Name, Record, Reference, read_pickle
from nmt.untrusted import file_size, shorten

_DTYPES = {
    "FloatStorage": torch.float32,
    "DoubleStorage": torch.float64,
    "HalfStorage": torch.float16,
    "BFloat16Storage": torch.bfloat16,
    "LongStorage": torch.int64,
    "IntStorage": torch.int32,
    "ShortStorage": torch.int16,
    "CharStorage": torch.int8,
    "ByteStorage": torch.uint8,
    "BoolStorage": torch.bool,
}
MAX_DIMS = 8
MAX_EXPANSION = 8
"""Bytes of all tensors in float32 for one of the file. Tied matrices have up to three names, float16 doubles."""

_LEGACY_MAGIC = 0x1950A86A20F9469CFC6C
_REBUILD = ("torch._utils._rebuild_tensor_v2", "torch._utils._rebuild_tensor")
_PARAMETER = ("torch._utils._rebuild_parameter", "torch.nn.parameter.Parameter")


@dataclass(frozen=True)
class StoredTensor:
    """A tensor that still lies in its file.

    Attributes:
        shape: its sizes.
        stride: steps between elements, in elements.
        offset: of its first element in the storage.
        dtype: of its elements.
        key: the storage.
        last: its last element in the storage; -1 where it has none.
    """

    shape: tuple[int, ...]
    stride: tuple[int, ...]
    offset: int
    dtype: torch.dtype
    key: str
    last: int

    @property
    def bytes(self) -> int:
        """What is read of its storage."""
        return (self.last + 1 - self.offset) * self.dtype.itemsize if self.last >= 0 else 0


class TorchFile:
    """A file of ``torch.save``.

    Args:
        path: the file.

    Attributes:
        value: what was saved, inert (see ``read_pickle``).

    Raises:
        DataError: missing, truncated, malformed, or of another kind.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._storages: dict[str, Member] = {}
        try:
            self.bytes = file_size(path)
            with open(path, "rb") as file:
                zipped = file.read(4) == b"PK\x03\x04"
                file.seek(0)
                self.value = self._open_zip(file) if zipped else self._open_legacy(file)
        except OSError as error:
            raise DataError(f"{path}: cannot be read ({error.strerror or error})") from error

    def _open_zip(self, file: IO[bytes]) -> Any:
        members = read_directory(file, self.path, "torch.save")
        pickles = [name for name in members if name.count("/") == 1 and name.endswith("/data.pkl")]
        if len(pickles) != 1:
            raise DataError(f"{self.path}: a zip archive, but not one of torch.save")
        root = pickles[0].removesuffix("data.pkl")
        start = f"{root}data/"
        self._storages = {name[len(start) :]: member for name, member in members.items() if name.startswith(start)}
        order = members.get(f"{root}byteorder")
        if order is not None and read_member(file, self.path, f"{root}byteorder", order, 16) != b"little":
            raise DataError(f"{self.path}: its numbers are not little-endian")
        pickled = read_member(file, self.path, pickles[0], members[pickles[0]], MAX_BYTES)
        return read_pickle(io.BytesIO(pickled), str(self.path))

    def _open_legacy(self, file: IO[bytes]) -> Any:
        name = str(self.path)
        if file.read(1) != b"\x80":
            raise DataError(f"{name}: not a file of torch.save")
        file.seek(0)
        if read_pickle(file, name) != _LEGACY_MAGIC:
            raise DataError(f"{name}: not a file of torch.save")
        read_pickle(file, name)  # version of the protocol
        system = read_pickle(file, name)
        if not isinstance(system, dict) or system.get("little_endian") is not True:
            raise DataError(f"{name}: its numbers are not little-endian")
        value = read_pickle(file, name)
        keys = read_pickle(file, name)
        sizes = _storage_sizes(value)
        for key in keys if isinstance(keys, list) else []:
            count = file.read(8)
            size = sizes.get(key) if isinstance(key, str) else None
            numel = struct.unpack("<q", count)[0] if len(count) == 8 else -1
            if size is None or not 0 <= numel * size <= self.bytes:
                raise DataError(f"{name}: truncated or not a file of torch.save")
            self._storages[key] = Member(file.tell(), numel * size)
            file.seek(numel * size, io.SEEK_CUR)
        return value

    def weights(self, value: Any, what: str) -> dict[str, Tensor]:
        """The tensors of a state dict in float32; those that are one in the file are one here.

        Raises:
            DataError: as for `tensors`, or the file is damaged.
        """
        stored = self.tensors(value, what)
        with open(self.path, "rb") as file:
            for key in sorted({tensor.key for tensor in stored.values()}):
                check_member(file, self.path, f"data/{key}", self._storages[key])
        read = {tensor: self.read(tensor).float() for tensor in set(stored.values())}
        return {name: read[tensor] for name, tensor in stored.items()}

    def tensors(self, value: Any, what: str) -> dict[str, StoredTensor]:
        """The tensors of a state dict; entries of other kinds are left out.

        Args:
            value: a dict of names (a part of ``value``).
            what: what it is, for messages.

        Raises:
            DataError: not a dict, or a tensor does not fit its storage or the file.
        """
        if not isinstance(value, Mapping):
            raise DataError(f"{self.path}: {what} is not a dict of tensors")
        found = {}
        for name, item in value.items():
            if isinstance(item, Record) and item.calls(*_PARAMETER) and isinstance(item.args, tuple) and item.args:
                item = item.args[0]
            if isinstance(name, str) and isinstance(item, Record) and item.calls(*_REBUILD):
                found[name] = self._stored(name, item.args)
        # Many names can share one storage: what all together become must not exceed what such a file holds.
        if sum(max(t.bytes, 4 * math.prod(t.shape)) for t in found.values()) > MAX_EXPANSION * self.bytes:
            raise DataError(f"{self.path}: its tensors claim more than the file holds")
        return found

    def _stored(self, name: str, args: Any) -> StoredTensor:
        name = shorten(name)
        try:
            reference, offset, shape, stride = args[:4]
            dtype, key, numel = _storage(reference)
            if not all(isinstance(sizes, tuple | list) and len(sizes) <= MAX_DIMS for sizes in (shape, stride)):
                raise ValueError("no sizes")
            numbers = (offset, numel, *shape, *stride)
            if not all(type(n) is int and 0 <= n < 1 << 48 for n in numbers) or len(shape) != len(stride):
                raise ValueError("no sizes")
        except (TypeError, ValueError) as error:
            raise DataError(f"{self.path}: {name} is not a tensor that can be read") from error
        storage = self._storages.get(key, Member(0, -1))
        last = offset + sum((n - 1) * step for n, step in zip(shape, stride)) if 0 not in shape else -1
        fits = storage.size >= 0 and storage.first + storage.size <= self.bytes
        if not fits or numel * dtype.itemsize > storage.size or last >= numel:
            raise DataError(f"{self.path}: {name} does not fit its storage (the file is truncated or was changed)")
        stored = StoredTensor(tuple(shape), tuple(stride), offset, dtype, key, last)
        if math.prod(shape) * dtype.itemsize > stored.bytes:
            raise DataError(f"{self.path}: {name} has more elements than its storage")
        return stored

    def read(self, stored: StoredTensor) -> Tensor:
        """A tensor's values, in memory of its own."""
        first = self._storages[stored.key].first
        with open(self.path, "rb") as file:
            file.seek(first + stored.offset * stored.dtype.itemsize)
            data = bytearray(file.read(stored.bytes))
        if len(data) < stored.bytes:
            raise DataError(f"{self.path}: truncated")
        if not data:
            return torch.empty(stored.shape, dtype=stored.dtype)
        whole = torch.frombuffer(data, dtype=stored.dtype)
        return whole.as_strided(stored.shape, stored.stride).contiguous()


def _storage(reference: Any) -> tuple[torch.dtype, str, int]:
    """Dtype, key and elements of a storage: ``("storage", type, key, location, numel, ...)``."""
    if not isinstance(reference, Reference) or not isinstance(reference.key, tuple) or len(reference.key) < 5:
        raise ValueError("no storage")
    tag, kind, key, _, numel = reference.key[:5]
    known = isinstance(kind, Name) and kind.module in ("torch", "torch.storage") and kind.name in _DTYPES
    if tag != "storage" or not known or not isinstance(key, str):
        raise ValueError("no storage")
    return _DTYPES[kind.name], key, numel


def _storage_sizes(value: Any) -> dict[str, int]:
    """Bytes an element of every storage below a value."""
    sizes, todo, seen = {}, [value], set()
    while todo:
        item = todo.pop()
        if id(item) in seen:
            continue
        seen.add(id(item))
        if isinstance(item, Reference):
            try:
                dtype, key, _ = _storage(item)
            except ValueError:
                continue
            sizes[key] = dtype.itemsize
        elif isinstance(item, Record):
            todo += [item.kind, item.args, item.state]
        elif isinstance(item, dict):
            todo += [*item.keys(), *item.values()]
        elif isinstance(item, list | tuple | set | frozenset):
            todo += item
    return sizes
