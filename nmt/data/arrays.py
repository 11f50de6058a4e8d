"""The arrays of one side of a split: one file of each kind, written as a stream and mapped into memory when read.

A side has four files of bare little-endian items: ``ids`` (uint16 or uint32, without bos and eos), ``text`` (the raw
lines as UTF-8, each with its line feed: a plain text file), and ``ids_offsets``, ``text_offsets`` (int64, one more than
lines): line i lies in [offsets[i], offsets[i + 1]). What a file holds follows from its kind, the number of lines and
the vocabulary: there are no headers to distrust. The raw text serves as reference and for random segmentation.
"""

from __future__ import annotations

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
BLOCK_ITEMS = 1 << 20
"""Items of a mapped array that are worked on at once, so that memory does not grow with the corpus."""


def file_name(side: str, kind: str) -> str:
    """Name of one array's file inside the folder of its split."""
    return f"{side}.{kind}"


def dtype_of(kind: str, vocab_size: int) -> np.dtype[Any]:
    """Type of the items of one kind; ids have the smallest that holds every id of the vocabulary."""
    if kind == "ids":
        return np.dtype("<u2" if vocab_size <= 2**16 else "<u4")
    return np.dtype("<i8" if kind.endswith("offsets") else "u1")


def offsets_of(lengths: Sequence[int] | IntArray, start: int = 0) -> IntArray:
    """Where each item starts in the flat array, and where the last one ends (int64, one more than lengths)."""
    offsets = np.full(len(lengths) + 1, start, dtype=np.int64)
    offsets[1:] += np.cumsum(lengths, dtype=np.int64)
    return offsets


def map_array(path: Path, dtype: np.dtype[Any], expected_bytes: int) -> IntArray:
    """Memory-map the items of a file after checking its size.

    Raises:
        DataError: the file is missing, a link out of its folder, truncated, or holds something else.
    """
    check_inside(path.parent, path)
    if not path.is_file():
        raise DataError(f"{path}: missing file of the corpus")
    size = file_size(path)
    if size != expected_bytes or size % dtype.itemsize:
        raise DataError(f"{path}: {size} bytes, but corpus.json says {expected_bytes} (truncated or foreign)")
    if size == 0:
        return np.zeros(0, dtype)  # nothing can be mapped
    try:
        # The plain-array view spares the bookkeeping of np.memmap at every slice; it stays mapped.
        return np.memmap(path, dtype=dtype, mode="r", shape=(size // dtype.itemsize,)).view(np.ndarray)
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror or error})") from error


class Side:
    """The lines of one side of a split, mapped when first used and again in every process that they are sent to."""

    def __init__(self, folder: Path, name: str, lines: int, files: Mapping[str, int], vocab_size: int) -> None:
        """Describe a side.

        Args:
            folder: of the split.
            name: ``source`` or ``target``.
            lines: how many.
            files: size in bytes by file name; all lines of a side without files are empty.
            vocab_size: number of pieces; ids must be below it.
        """
        self.folder = folder
        self.name = name
        self.lines = lines
        self.files = dict(files)
        self.vocab_size = vocab_size
        self._arrays: dict[str, IntArray] = {}

    def __reduce__(self) -> tuple[type[Side], tuple[Path, str, int, dict[str, int], int]]:
        return type(self), (self.folder, self.name, self.lines, self.files, self.vocab_size)

    def array(self, kind: str) -> IntArray:
        """One of the arrays.

        Raises:
            DataError: see `map_array`.
        """
        found = self._arrays.get(kind)
        if found is None:
            dtype, name = dtype_of(kind, self.vocab_size), file_name(self.name, kind)
            if name in self.files:
                found = map_array(self.folder / name, dtype, self.files[name])
            else:
                found = np.broadcast_to(np.zeros(1, dtype), self.lines + 1 if kind.endswith("offsets") else 0)
            self._arrays[kind] = found
        return found

    def open(self) -> None:
        """Map all arrays and check that they fit each other, so that a damaged corpus is refused at once.

        Raises:
            DataError: a file is missing, truncated or foreign.
        """
        for kind in ("ids", "text"):
            data, offsets = self.array(kind), self.array(f"{kind}_offsets")
            if len(offsets) != self.lines + 1 or offsets[0] != 0 or offsets[-1] != len(data):
                path = self.folder / file_name(self.name, f"{kind}_offsets")
                raise DataError(f"{path}: does not fit the {self.lines} lines of its split")

    def lengths(self, start: int = 0, stop: int | None = None) -> IntArray:
        """Tokens of the lines from ``start`` to ``stop`` (all by default), without eos (int32).

        Raises:
            DataError: the offsets run backwards or lead out of the data.
        """
        stop = self.lines if stop is None else stop
        lengths = np.empty(stop - start, np.int32)
        for first in range(start, stop, BLOCK_ITEMS):
            last = min(first + BLOCK_ITEMS, stop)
            starts, ends = self._spans("ids", slice(first, last))
            block = ends - starts
            if block.max() > np.iinfo(np.int32).max:
                raise self._damaged("ids_offsets", "a line has more than 2^31 tokens")
            lengths[first - start : last - start] = block
        return lengths

    def _damaged(self, kind: str, why: str) -> DataError:
        return DataError(f"{self.folder / file_name(self.name, kind)}: damaged ({why})")

    def _spans(self, kind: str, lines: slice | IntArray) -> tuple[IntArray, IntArray]:
        """Where some lines start and end; refuses those that end before they start or lie outside of the data."""
        offsets = self.array(f"{kind}_offsets")
        starts, ends = offsets[:-1][lines], offsets[1:][lines]
        items = len(self.array(kind))
        # Compared and not subtracted: differences could overflow.
        if len(starts) and ((starts > ends).any() or starts.min() < 0 or ends.max() > items):
            raise self._damaged(f"{kind}_offsets", "offsets run backwards")
        return starts, ends

    def _line(self, kind: str, line: int) -> IntArray:
        starts, ends = self._spans(kind, slice(line, line + 1))
        return self.array(kind)[starts[0] : ends[0]]

    def _checked(self, ids: IntArray) -> IntArray:
        """The same ids if all are in the vocabulary: a model reads beyond its matrix otherwise."""
        if len(ids) and ids.max() >= self.vocab_size:
            raise self._damaged("ids", f"id {ids.max()} is not in the vocabulary of {self.vocab_size} pieces")
        return ids

    def ids(self, line: int) -> IntArray:
        """Ids of one line.

        Raises:
            DataError: an id is not in the vocabulary, or the offsets are damaged.
        """
        return self._checked(self._line("ids", line))

    def gather(self, lines: IntArray) -> tuple[IntArray, IntArray]:
        """Ids of some lines, one after the other, and the length of each (int64).

        Raises:
            DataError: an id is not in the vocabulary, or the offsets are damaged.
        """
        starts, stops = self._spans("ids", lines)
        lengths = stops - starts
        ends = np.cumsum(lengths)
        # Position p of the result, in row r, comes from starts[r] + (p - first position of row r).
        places = np.arange(ends[-1] if len(ends) else 0) + np.repeat(starts - ends + lengths, lengths)
        return self._checked(self.array("ids")[places]), lengths

    def counts(self) -> IntArray:
        """How often every id of the vocabulary occurs, each line's eos counted (vocab_size,) int64.

        Raises:
            DataError: an id is not in the vocabulary.
        """
        ids = self.array("ids")
        counts = np.zeros(self.vocab_size, np.int64)
        for start in range(0, len(ids), BLOCK_ITEMS):
            counts += np.bincount(self._checked(ids[start : start + BLOCK_ITEMS]), minlength=self.vocab_size)
        counts[EOS] += self.lines
        return counts

    def text(self, line: int) -> str:
        """Raw text of one line, without its line feed.

        Raises:
            DataError: it is not one line of UTF-8, or the offsets are damaged.
        """
        raw = self._line("text", line).tobytes()
        if self.files and raw.find(b"\n") != len(raw) - 1:
            raise self._damaged("text", f"line {line + 1} is not one line")
        try:
            return raw[:-1].decode("utf-8")
        except UnicodeDecodeError as error:
            raise self._damaged("text", f"line {line + 1} is not UTF-8") from error
