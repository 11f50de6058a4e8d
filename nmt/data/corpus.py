"""A prepared corpus on disk: opened, checked and read line by line without loading it."""

from __future__ import annotations

import hashlib
from bisect import bisect_right
from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np

from nmt.config import ConfigError, DataError, suggest
from nmt.data.manifest import MANIFEST, Manifest, read_manifest
from nmt.data.shards import SIDES, IntArray, Shard
from nmt.files import file_digest
from nmt.text.vocabulary import VocabularyPair
from nmt.untrusted import check_inside


class ParallelSplit:
    """Sentence pairs of one split, in the order of the text; can be sent to other processes.

    In a corpus of one language every source is empty.

    Attributes:
        name: of the split.
        source_lengths: tokens of each source line without eos (lines,) int32.
        target_lengths: tokens of each target line without eos (lines,) int32.
    """

    def __init__(self, name: str, shards: list[Shard]) -> None:
        self.name = name
        self._shards = shards
        self._starts = [0]
        for shard in shards:
            self._starts.append(self._starts[-1] + shard.lines)
        self.source_lengths = self._lengths("source")
        self.target_lengths = self._lengths("target")

    def _lengths(self, side: str) -> IntArray:
        return np.concatenate([np.zeros(0, np.int32), *(shard.lengths(side) for shard in self._shards)])

    def __len__(self) -> int:
        return self._starts[-1]

    def _locate(self, line: int) -> tuple[Shard, int]:
        if not 0 <= line < len(self):
            raise IndexError(f"line {line} of split {self.name!r}, which has {len(self)}")
        shard = bisect_right(self._starts, line) - 1
        return self._shards[shard], line - self._starts[shard]

    def ids(self, side: str, line: int) -> IntArray:
        """Ids of one line of ``source`` or ``target``, without bos and eos."""
        shard, row = self._locate(line)
        return shard.ids(side, row)

    def gather(self, side: str, lines: IntArray) -> tuple[IntArray, IntArray]:
        """Ids of some lines of ``source`` or ``target``.

        Fastest where the lines are sorted, since each shard is then visited once.

        Args:
            side: ``source`` or ``target``.
            lines: line numbers (n,) int64.

        Returns:
            The ids of all lines, one after the other, and the length of each line (n,) int64.
        """
        if len(lines) and (lines.min() < 0 or lines.max() >= len(self)):
            raise IndexError(f"lines {lines.min()} to {lines.max()} of split {self.name!r}, which has {len(self)}")
        which = np.searchsorted(self._starts, lines, side="right") - 1
        runs = np.split(np.arange(len(lines)), np.flatnonzero(np.diff(which)) + 1)
        parts = []
        for run in runs:
            if len(run):
                shard = which[run[0]]
                parts.append(self._shards[shard].gather(side, lines[run] - self._starts[shard]))
        if len(parts) == 1:
            return parts[0]
        flats, lengths = zip(*parts) if parts else ([np.zeros(0, np.int64)], [np.zeros(0, np.int64)])
        return np.concatenate(flats), np.concatenate(lengths)

    def counts(self, side: str) -> IntArray:
        """How often every id of ``source`` or ``target`` occurs, each line's eos counted (vocab_size,) int64."""
        return np.stack([shard.counts(side) for shard in self._shards]).sum(axis=0)

    def text(self, side: str, line: int) -> str:
        """Raw text of one line of ``source`` or ``target``."""
        shard, row = self._locate(line)
        return shard.text(side, row)

    def texts(self, side: str, lines: Iterable[int] | None = None) -> list[str]:
        """Raw text of some lines (all by default) of ``source`` or ``target``."""
        return [self.text(side, int(i)) for i in (range(len(self)) if lines is None else lines)]

    def source_ids(self, line: int) -> IntArray:
        """Ids of a source line, without bos and eos."""
        return self.ids("source", line)

    def target_ids(self, line: int) -> IntArray:
        """Ids of a target line, without bos and eos."""
        return self.ids("target", line)

    def source_text(self, line: int) -> str:
        """A source line as it was read."""
        return self.text("source", line)

    def target_text(self, line: int) -> str:
        """A target line as it was read."""
        return self.text("target", line)

    def source_texts(self) -> list[str]:
        """All source lines."""
        return self.texts("source")

    def target_texts(self) -> list[str]:
        """All target lines."""
        return self.texts("target")


def _shards(folder: Path, split: str, manifest: Manifest, vocabularies: VocabularyPair) -> Iterator[Shard]:
    check_inside(folder, folder / split)
    sizes = {side: len(getattr(vocabularies, side)) for side in SIDES}
    for index, shard in enumerate(manifest.splits[split].shards):
        files = {name: file.bytes for name, file in shard.files.items()}
        yield Shard(folder / split, index, shard.lines, files, sizes)


class Corpus:
    """A folder written by ``nmt-preprocess``.

    Attributes:
        folder: where it lies.
        manifest: what ``corpus.json`` says.
        vocabularies: sub-word models of both sides.
        digest: sha256 (hex) of ``corpus.json``, which holds the hashes of all other files.
    """

    def __init__(self, folder: Path, manifest: Manifest, vocabularies: VocabularyPair, digest: str) -> None:
        self.folder = folder
        self.manifest = manifest
        self.vocabularies = vocabularies
        self.digest = digest
        self._shards = {name: list(_shards(folder, name, manifest, vocabularies)) for name in manifest.splits}
        self._splits: dict[str, ParallelSplit] = {}

    @classmethod
    def open(cls, folder: str | Path) -> Corpus:
        """Open a corpus and check all its files' sizes and headers.

        Raises:
            ConfigError: there is no corpus in this folder.
            DataError: a file is missing, truncated or foreign.
        """
        folder = Path(folder)
        text, manifest = read_manifest(folder)
        vocabularies = VocabularyPair.load(folder)
        manifest.check_vocabularies(folder, vocabularies)
        corpus = cls(folder, manifest, vocabularies, hashlib.sha256(text).hexdigest())
        for shards in corpus._shards.values():
            for shard in shards:
                shard.open()
        return corpus

    def verify(self) -> None:
        """Compare every file with its hash (`open` looks at sizes and headers only).

        Raises:
            DataError: a file is not what was written.
        """
        for name, entry in self.manifest.splits.items():
            for shard in entry.shards:
                for file, stored in shard.files.items():
                    path = self.folder / name / file
                    if file_digest(path) != stored.sha256:
                        raise DataError(f"{path}: damaged (its content is not what {MANIFEST} says)")

    @property
    def parallel(self) -> bool:
        """Whether it holds sentence pairs; else lines of one language: the target side, beside empty sources."""
        return self.source_language is not None

    @property
    def source_language(self) -> str | None:
        """Name of the source language, as in the file names; None where there is one language only."""
        return self.manifest.source_language

    @property
    def target_language(self) -> str:
        """Name of the target language, as in the file names."""
        return self.manifest.target_language

    @property
    def splits(self) -> list[str]:
        """Names of the splits: train, valid, test sets."""
        return list(self.manifest.splits)

    def split(self, name: str) -> ParallelSplit:
        """One split.

        Raises:
            ConfigError: there is no such split; lists the names.
            DataError: its offsets are damaged.
        """
        if name not in self.splits:
            raise ConfigError(
                f"split={name}: {self.folder} has no such split; valid options: "
                f"{', '.join(self.splits)}{suggest(name, self.splits)}"
            )
        if name not in self._splits:
            self._splits[name] = ParallelSplit(name, self._shards[name])
        return self._splits[name]
