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
from nmt.text.vocabulary import EOS
from nmt.untrusted import check_inside, file_size

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
COUNTED_IDS = 1 << 22
"""Ids that are counted at once; numpy makes int64 of them."""


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
    check_inside(path.parent, path)
    if not path.is_file():
        raise DataError(f"{path}: missing file of the corpus")
    size = file_size(path)
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

    def __init__(
        self, folder: Path, index: int, lines: int, files: Mapping[str, int], vocab_sizes: Mapping[str, int]
    ) -> None:
        """Describe a shard.

        Args:
            folder: of the split.
            index: number of the shard.
            lines: how many.
            files: size in bytes by file name; all lines of a side without files are empty.
            vocab_sizes: number of pieces by side; ids must be below it.
        """
        self.folder = folder
        self.index = index
        self.lines = lines
        self.files = dict(files)
        self.vocab_sizes = dict(vocab_sizes)
        self._arrays: dict[tuple[str, str], IntArray] = {}

    def __reduce__(self) -> tuple[type[Shard], tuple[Path, int, int, dict[str, int], dict[str, int]]]:
        return type(self), (self.folder, self.index, self.lines, self.files, self.vocab_sizes)

    def array(self, side: str, kind: str) -> IntArray:
        """One of the arrays.

        Raises:
            DataError: see `map_array`; or the offsets do not fit.
        """
        found = self._arrays.get((side, kind))
        if found is None:
            name = file_name(side, self.index, kind)
            if name in self.files:
                found = map_array(self.folder / name, kind, self.files[name])
            else:
                found = np.broadcast_to(np.zeros(1, DTYPES[kind][0]), self.lines + 1 if "offsets" in kind else 0)
            self._arrays[side, kind] = found
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
            DataError: the offsets run backwards or lead out of the data.
        """
        offsets = self.array(side, "ids_offsets")
        self._check_offsets(side, "ids", offsets[:-1], offsets[1:])
        lengths = np.diff(offsets)
        if len(lengths) and lengths.max() > np.iinfo(np.int32).max:
            raise self._damaged(side, "ids_offsets", "a line has more than 2^31 tokens")
        return lengths.astype(np.int32)

    def _damaged(self, side: str, kind: str, why: str) -> DataError:
        return DataError(f"{self.folder / file_name(side, self.index, kind)}: damaged ({why})")

    def _check_offsets(self, side: str, kind: str, starts: IntArray, ends: IntArray) -> None:
        """Refuse lines that end before they start or lie outside of the data; differences could overflow."""
        items = len(self.array(side, kind))
        if len(starts) and ((starts > ends).any() or starts.min() < 0 or ends.max() > items):
            raise self._damaged(side, f"{kind}_offsets", "offsets run backwards")

    def _checked(self, side: str, ids: IntArray) -> IntArray:
        """The same ids if all are in the vocabulary: a model reads beyond its matrix otherwise."""
        size = self.vocab_sizes[side]
        if len(ids) and ids.max() >= size:
            raise self._damaged(side, "ids", f"id {ids.max()} is not in the vocabulary of {size} pieces")
        return ids

    def ids(self, side: str, line: int) -> IntArray:
        """Ids of one line; `lengths` has checked the offsets.

        Raises:
            DataError: an id is not in the vocabulary.
        """
        offsets = self.array(side, "ids_offsets")
        return self._checked(side, self.array(side, "ids")[offsets[line] : offsets[line + 1]])

    def counts(self, side: str) -> IntArray:
        """How often every id of the vocabulary occurs, each line's eos counted (vocab_size,) int64.

        Raises:
            DataError: an id is not in the vocabulary.
        """
        ids, size = self.array(side, "ids"), self.vocab_sizes[side]
        counts = np.zeros(size, np.int64)
        for start in range(0, len(ids), COUNTED_IDS):
            counts += np.bincount(self._checked(side, ids[start : start + COUNTED_IDS]), minlength=size)
        counts[EOS] += self.lines
        return counts

    def gather(self, side: str, lines: IntArray) -> tuple[IntArray, IntArray]:
        """Ids of some lines, one after the other, and the length of each (int64); `lengths` has checked the offsets.

        Raises:
            DataError: an id is not in the vocabulary.
        """
        offsets = self.array(side, "ids_offsets")
        starts = offsets[lines]
        lengths = offsets[lines + 1] - starts
        ends = np.cumsum(lengths)
        # Position p of the result, in row r, comes from starts[r] + (p - first position of row r).
        places = np.arange(ends[-1] if len(ends) else 0) + np.repeat(starts - ends + lengths, lengths)
        return self._checked(side, self.array(side, "ids")[places]), lengths

    def text(self, side: str, line: int) -> str:
        """Raw text of one line.

        Raises:
            DataError: it is not UTF-8, or its offsets are damaged.
        """
        offsets = self.array(side, "text_offsets")[line : line + 2]
        self._check_offsets(side, "text", offsets[:1], offsets[1:])
        raw = self.array(side, "text")[offsets[0] : offsets[1]].tobytes()
        try:
            return raw.decode("utf-8")
        except UnicodeDecodeError as error:
            raise self._damaged(side, "text", f"line {line + 1} is not UTF-8") from error
