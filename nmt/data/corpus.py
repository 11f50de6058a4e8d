"""A prepared corpus on disk: opened, checked and read line by line without loading it."""

from __future__ import annotations

import logging
from collections.abc import Iterable
from functools import cached_property
from pathlib import Path

from tqdm import tqdm

from nmt.config import ConfigError, DataError, suggest
from nmt.data.arrays import KINDS, IntArray, Side, file_name
from nmt.data.manifest import MANIFEST, Manifest, read_manifest
from nmt.files import file_digest
from nmt.text.vocabulary import MODEL_FILES, VocabularyPair
from nmt.untrusted import check_inside

logger = logging.getLogger(__name__)

SAID_FROM_BYTES, SHOWN_AFTER_SECONDS = 1 << 30, 2.0
"""Of a split that is verified: from when on a line says so, and a terminal shows how far it is."""


class ParallelSplit:
    """Sentence pairs of one split, in the order of the text; can be sent to other processes.

    In a corpus of one language every source is empty.

    Attributes:
        name: of the split.
        source_lengths: tokens of each source line without eos (lines,) int32.
        target_lengths: tokens of each target line without eos (lines,) int32.
    """

    def __init__(self, name: str, source: Side, target: Side) -> None:
        self.name = name
        self._sides = {"source": source, "target": target}

    def __reduce__(self) -> tuple[type[ParallelSplit], tuple[str, Side, Side]]:
        return type(self), (self.name, self._sides["source"], self._sides["target"])

    @cached_property
    def source_lengths(self) -> IntArray:
        return self.lengths("source")

    @cached_property
    def target_lengths(self) -> IntArray:
        return self.lengths("target")

    def lengths(self, side: str, start: int = 0, stop: int | None = None) -> IntArray:
        """Tokens of the lines from ``start`` to ``stop`` (all by default) of ``source`` or ``target`` (n,) int32.

        Raises:
            DataError: the offsets are damaged.
        """
        return self._sides[side].lengths(start, stop)

    def __len__(self) -> int:
        return self._sides["target"].lines

    def _check(self, first: int, last: int) -> None:
        if first < 0 or last >= len(self):
            which = f"line {first}" if first == last else f"lines {first} to {last}"
            raise IndexError(f"{which} of split {self.name!r}, which has {len(self)}")

    def ids(self, side: str, line: int) -> IntArray:
        """Ids of one line of ``source`` or ``target``, without bos and eos."""
        self._check(line, line)
        return self._sides[side].ids(line)

    def gather(self, side: str, lines: IntArray) -> tuple[IntArray, IntArray]:
        """Ids of some lines of ``source`` or ``target``.

        Fastest where the lines are sorted, since the file is then read from front to back.

        Args:
            side: ``source`` or ``target``.
            lines: line numbers (n,) int64.

        Returns:
            The ids of all lines, one after the other, and the length of each line (n,) int64.
        """
        if len(lines):
            self._check(int(lines.min()), int(lines.max()))
        return self._sides[side].gather(lines)

    def counts(self, side: str) -> IntArray:
        """How often every id of ``source`` or ``target`` occurs, each line's eos counted (vocab_size,) int64."""
        return self._sides[side].counts()

    def text(self, side: str, line: int) -> str:
        """Raw text of one line of ``source`` or ``target``."""
        self._check(line, line)
        return self._sides[side].text(line)

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


class Corpus:
    """A folder written by ``nmt-preprocess``.

    Attributes:
        folder: where it lies.
        manifest: what ``corpus.json`` says.
        vocabularies: sub-word models of both sides.
        digest: sha256 (hex) of what it holds; see `Manifest.digest`.
    """

    def __init__(self, folder: Path, manifest: Manifest, vocabularies: VocabularyPair, *, verify: bool) -> None:
        self.folder = folder
        self.manifest = manifest
        self.vocabularies = vocabularies
        self.digest = manifest.digest
        self._verify = verify
        self._splits: dict[str, ParallelSplit] = {}

    @classmethod
    def open(cls, folder: str | Path, *, verify: bool = True) -> Corpus:
        """Open a corpus: its description and its vocabularies. Of the splits only those are opened that are asked for.

        Args:
            folder: written by ``nmt-preprocess``.
            verify: compare the files of a split with their hashes when it is first asked for: about a second a GiB.

        Raises:
            ConfigError: there is no corpus in this folder.
            DataError: the description or a vocabulary is damaged or foreign.
        """
        folder = Path(folder)
        manifest = read_manifest(folder)
        for name in MODEL_FILES:
            check_inside(folder, folder / name)
        vocabularies = VocabularyPair.load(folder)
        manifest.check_vocabularies(folder, vocabularies)
        return cls(folder, manifest, vocabularies, verify=verify)

    def _compare(self, split: str) -> None:
        """Compare all files of a split with their hashes; shows progress where that takes more than a moment.

        Raises:
            DataError: a file is not what was written.
        """
        files = self.manifest.splits[split].files
        total = sum(file.bytes for file in files.values())
        if total >= SAID_FROM_BYTES:
            logger.info("%s: comparing %.1f GiB with their hashes", self.folder / split, total / 2**30)
        with tqdm(
            total=total, desc=f"verifying {split}", unit="B", unit_scale=True, delay=SHOWN_AFTER_SECONDS, disable=None
        ) as bar:
            for name, file in files.items():
                path = self.folder / split / name
                if file_digest(path, bar.update) != file.sha256:
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
            DataError: a file is missing, foreign, or not what was written.
        """
        if name not in self.splits:
            raise ConfigError(
                f"split={name}: {self.folder} has no such split; valid options: "
                f"{', '.join(self.splits)}{suggest(name, self.splits)}"
            )
        if name not in self._splits:
            opened = ParallelSplit(name, self._side(name, "source"), self._side(name, "target"))
            if self._verify:
                self._compare(name)
            self._splits[name] = opened
        return self._splits[name]

    def _side(self, split: str, side: str) -> Side:
        folder, entry = self.folder / split, self.manifest.splits[split]
        check_inside(self.folder, folder)
        names = (file_name(side, kind) for kind in KINDS)
        files = {name: entry.files[name].bytes for name in names if name in entry.files}
        opened = Side(folder, side, entry.lines, files, len(getattr(self.vocabularies, side)))
        opened.open()
        return opened
