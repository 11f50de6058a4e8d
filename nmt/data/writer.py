"""Writing a split as chunks come in: every file only grows, so memory does not."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType

from nmt.data.arrays import KINDS, SIDES, IntArray, dtype_of, file_name, offsets_of
from nmt.data.binarise import Chunk
from nmt.data.manifest import Sides, SplitEntry, StoredFile
from nmt.files import naming
from nmt.text.vocabulary import UNK, VocabularyPair


class _Growing:
    """A file that is appended to, and what is in it so far."""

    def __init__(self, path: Path, stack: ExitStack) -> None:
        self._path = path
        self._stream = stack.enter_context(path.open("wb"))
        self._digest = hashlib.sha256()
        self._bytes = 0

    def append(self, content: bytes | memoryview) -> None:
        with naming(self._path):
            self._stream.write(content)
            self._stream.flush()
        self._digest.update(content)
        self._bytes += len(content)

    @property
    def stored(self) -> StoredFile:
        return StoredFile(self._bytes, self._digest.hexdigest())


class SplitWriter:
    """Writes the files of one split and counts; a context manager, which closes them."""

    def __init__(self, folder: Path, vocabularies: VocabularyPair, sides: Sequence[str] = SIDES) -> None:
        """Create the folder of the split.

        Args:
            folder: to create.
            vocabularies: of both sides.
            sides: that have text.
        """
        folder.mkdir()
        self.sides = sides
        self.entry = SplitEntry()
        self._types = {
            (side, kind): dtype_of(kind, len(getattr(vocabularies, side))) for side in sides for kind in KINDS
        }
        self._stack = ExitStack()
        self._files = {
            (side, kind): _Growing(folder / file_name(side, kind), self._stack) for side in sides for kind in KINDS
        }
        self._ends = {(side, kind): 0 for side in sides for kind in ("ids", "text")}
        for side, kind in self._ends:
            self._append(side, f"{kind}_offsets", offsets_of([]))

    def __enter__(self) -> SplitWriter:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stack.close()

    def _append(self, side: str, kind: str, array: IntArray) -> None:
        self._files[side, kind].append(array.astype(self._types[side, kind], copy=False).tobytes())

    def _append_offsets(self, side: str, kind: str, lengths: IntArray) -> None:
        offsets = offsets_of(lengths, self._ends[side, kind])
        self._append(side, f"{kind}_offsets", offsets[1:])
        self._ends[side, kind] = int(offsets[-1])

    def add(self, chunk: Chunk) -> None:
        """Append the next chunk."""
        entry = self.entry
        entry.read += chunk.read
        entry.lines += len(chunk.lengths["target"])
        for reason, count in chunk.dropped.items():
            entry.dropped[reason] = entry.dropped.get(reason, 0) + count
        for side in self.sides:
            _increase(entry.tokens, side, len(chunk.ids[side]))
            _increase(entry.unknown, side, int((chunk.ids[side] == UNK).sum()))
            self._append(side, "ids", chunk.ids[side])
            self._append_offsets(side, "ids", chunk.lengths[side])
            self._files[side, "text"].append(chunk.text[side])
            self._append_offsets(side, "text", chunk.text_lengths[side])

    def finish(self) -> SplitEntry:
        """The split's entry, when all chunks are in."""
        entry = self.entry
        for side in self.sides:
            tokens = getattr(entry.tokens, side)
            setattr(entry.unknown_rate, side, getattr(entry.unknown, side) / tokens if tokens else 0.0)
        entry.dropped = dict(sorted(entry.dropped.items()))
        entry.files = {file_name(*key): file.stored for key, file in self._files.items()}
        return entry


def _increase(counts: Sides, side: str, amount: int) -> None:
    setattr(counts, side, getattr(counts, side) + amount)
