"""Memory-mapped shards: a few thousand sentences of one side as flat arrays beside their offsets.

A shard of a side is four ``.npy`` files: ``ids`` (uint16 or uint32, without bos and eos), ``text`` (the raw line,
UTF-8 bytes), and ``ids_offsets``, ``text_offsets`` (int64, one more than lines): line i lies in [offsets[i],
offsets[i + 1]). The raw text serves as reference and for random segmentation.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from nmt.config import DataError

IntArray = npt.NDArray[Any]

SIDES = ("source", "target")
KINDS = ("ids", "ids_offsets", "text", "text_offsets")
DTYPES = {"ids": ("uint16", "uint32"), "ids_offsets": ("int64",), "text": ("uint8",), "text_offsets": ("int64",)}
# What `write_array` puts in front of the items (format 1.0 of .npy). numpy's own parser evaluates the header as a
# Python literal and lets through whatever a hostile one raises; this pattern either matches or does not.
HEADER = re.compile(
    rb"\x93NUMPY\x01\x00(?P<length>..)"
    rb"\{'descr': '(?P<dtype>[<>|=]?\w{1,8})', 'fortran_order': (?:False|True), "
    rb"'shape': (?P<shape>\([\d, ]*\)), \} *\n",
    re.DOTALL,
)
MOST_HEADER_BYTES = 4096


def file_name(side: str, shard: int, kind: str) -> str:
    """Name of one array's file inside the folder of its split."""
    return f"{side}.{shard:05d}.{kind}.npy"


def id_dtype(vocab_size: int) -> type[np.unsignedinteger[Any]]:
    """The smallest type that holds every id."""
    return np.uint16 if vocab_size <= 2**16 else np.uint32


def offsets_of(lengths: Sequence[int] | IntArray) -> IntArray:
    """Where each item starts in the flat array, and where the last one ends (int64, one more than lengths)."""
    offsets = np.zeros(len(lengths) + 1, dtype=np.int64)
    np.cumsum(lengths, out=offsets[1:])
    return offsets


def write_array(path: Path, array: IntArray) -> dict[str, Any]:
    """Write one array and describe its file: ``bytes`` and ``sha256``."""
    with path.open("wb") as stream:
        np.lib.format.write_array(stream, np.ascontiguousarray(array), allow_pickle=False)
    content = path.read_bytes()
    return {"bytes": len(content), "sha256": hashlib.sha256(content).hexdigest()}


def map_array(path: Path, kind: str, expected_bytes: int) -> IntArray:
    """Memory-map an array after checking size and header.

    Raises:
        DataError: the file is missing, truncated, or holds something else.
    """
    try:
        size = path.stat().st_size
    except OSError as error:
        raise DataError(f"{path}: missing file of the corpus") from error
    if size != expected_bytes:
        raise DataError(f"{path}: {size} bytes, but corpus.json says {expected_bytes} (truncated or foreign)")
    with path.open("rb") as stream:
        header = stream.read(MOST_HEADER_BYTES)
    found = HEADER.match(header)
    if found is None or found.end() != 10 + int.from_bytes(found["length"], "little"):
        raise DataError(f"{path}: not an array file of this corpus")
    start, shape = found.end(), found["shape"].decode()
    kinds = {np.dtype(name).newbyteorder("<").str: np.dtype(name) for name in DTYPES[kind]}
    dtype = kinds.get(found["dtype"].decode())
    length = re.fullmatch(r"\((\d{1,18}),\)", shape)
    if dtype is None or length is None:
        held = f"{found['dtype'].decode()} of shape {shape}"
        raise DataError(f"{path}: holds {held}, but one row of {' or '.join(DTYPES[kind])} is needed")
    items = int(length[1])
    if start + items * dtype.itemsize != size:
        raise DataError(f"{path}: {size} bytes do not hold the {items} items of its header")
    if items == 0:
        return np.zeros(0, dtype=dtype)  # nothing can be mapped
    # The plain-array view spares the bookkeeping of np.memmap at every slice; it stays mapped.
    return np.memmap(path, dtype=dtype, mode="r", offset=start, shape=(items,)).view(np.ndarray)


class Shard:
    """The arrays of one shard, mapped when first used and again in every process that it is sent to."""

    def __init__(self, folder: Path, index: int, lines: int, files: Mapping[str, int]) -> None:
        """Describe a shard.

        Args:
            folder: of the split.
            index: number of the shard.
            lines: how many.
            files: size in bytes by file name.
        """
        self.folder = folder
        self.index = index
        self.lines = lines
        self.files = dict(files)
        self._arrays: dict[tuple[str, str], IntArray] = {}

    def __reduce__(self) -> tuple[type[Shard], tuple[Path, int, int, dict[str, int]]]:
        return type(self), (self.folder, self.index, self.lines, self.files)

    def array(self, side: str, kind: str) -> IntArray:
        """One of the arrays.

        Raises:
            DataError: see `map_array`; or the offsets do not fit.
        """
        found = self._arrays.get((side, kind))
        if found is None:
            name = file_name(side, self.index, kind)
            found = self._arrays[side, kind] = map_array(self.folder / name, kind, self.files[name])
        return found

    def open(self) -> None:
        """Map and check everything, so that a damaged corpus is refused at once.

        Raises:
            DataError: a file is missing, truncated or foreign.
        """
        for side in SIDES:
            for kind in ("ids", "text"):
                data, offsets = self.array(side, kind), self.array(side, f"{kind}_offsets")
                if len(offsets) != self.lines + 1 or offsets[0] != 0 or offsets[-1] != len(data):
                    name = file_name(side, self.index, f"{kind}_offsets")
                    raise DataError(f"{self.folder / name}: does not fit the {self.lines} lines of its shard")

    def lengths(self, side: str) -> IntArray:
        """Tokens of every line, without eos (int32).

        Raises:
            DataError: the offsets run backwards.
        """
        lengths = np.diff(self.array(side, "ids_offsets"))
        if (lengths < 0).any():
            name = file_name(side, self.index, "ids_offsets")
            raise DataError(f"{self.folder / name}: damaged (offsets run backwards)")
        return lengths.astype(np.int32)

    def ids(self, side: str, line: int) -> IntArray:
        """Ids of one line."""
        offsets = self.array(side, "ids_offsets")
        return self.array(side, "ids")[offsets[line] : offsets[line + 1]]

    def gather(self, side: str, lines: IntArray) -> tuple[IntArray, IntArray]:
        """Ids of some lines, one after the other, and the length of each line (int64)."""
        offsets = self.array(side, "ids_offsets")
        starts = offsets[lines]
        lengths = offsets[lines + 1] - starts
        ends = np.cumsum(lengths)
        # Position p of the result, in row r, comes from starts[r] + (p - first position of row r).
        places = np.arange(ends[-1] if len(ends) else 0) + np.repeat(starts - ends + lengths, lengths)
        return self.array(side, "ids")[places], lengths

    def text(self, side: str, line: int) -> str:
        """Raw text of one line.

        Raises:
            DataError: it is not UTF-8.
        """
        offsets = self.array(side, "text_offsets")
        raw = self.array(side, "text")[offsets[line] : offsets[line + 1]].tobytes()
        try:
            return raw.decode("utf-8")
        except UnicodeDecodeError as error:
            name = file_name(side, self.index, "text")
            raise DataError(f"{self.folder / name}: damaged (line {line + 1} is not UTF-8)") from error
