"""``corpus.json``: what a corpus holds, written by ``nmt-preprocess`` and distrusted when read."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from nmt.config import ConfigError, DataError
from nmt.data.arrays import KINDS, SIDES, dtype_of, file_name
from nmt.files import write_text
from nmt.text.vocabulary import VocabularyPair
from nmt.untrusted import MAX_JSON_BYTES, check_inside, parse_json, read_bytes, shorten, typed

FORMAT = "nmt-corpus"
VERSION = 2
MANIFEST = "corpus.json"
SPLIT_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]*")


@dataclass
class Sides:
    """A count on each side."""

    source: int = 0
    target: int = 0


@dataclass
class Rates:
    """A share on each side."""

    source: float = 0.0
    target: float = 0.0


@dataclass
class StoredFile:
    """Size and sha256 (hex) of one file."""

    bytes: int
    sha256: str


@dataclass
class TextInput:
    """A text file that was read: its name, lines and the sha256 of its decompressed bytes."""

    name: str
    lines: int
    sha256: str


@dataclass
class SplitEntry:
    """One split: counts, inputs and files.

    Attributes:
        lines: kept pairs.
        tokens: without eos.
        unknown: tokens that are unknown.
        unknown_rate: unknown tokens over tokens.
        read: pairs before cleaning.
        dropped: pairs that cleaning dropped, by reason.
        inputs: the text files of both sides.
        files: of both sides, by name.
    """

    lines: int = 0
    tokens: Sides = field(default_factory=Sides)
    unknown: Sides = field(default_factory=Sides)
    unknown_rate: Rates = field(default_factory=Rates)
    read: int = 0
    dropped: dict[str, int] = field(default_factory=dict)
    inputs: dict[str, list[TextInput]] = field(default_factory=dict)
    files: dict[str, StoredFile] = field(default_factory=dict)


@dataclass
class VocabularyEntry:
    """The vocabularies: pieces a side, digest of the pair, and the digest of every model file."""

    joint: bool
    sizes: Sides
    digest: str
    files: dict[str, str]


@dataclass
class Manifest:
    """The content of ``corpus.json``; a corpus of one language has no source."""

    format: str
    version: int
    source_language: str | None
    target_language: str
    vocabulary: VocabularyEntry
    settings: dict[str, Any] = field(default_factory=dict)
    splits: dict[str, SplitEntry] = field(default_factory=dict)

    @property
    def sides(self) -> tuple[str, ...]:
        """The sides that have text."""
        return SIDES if self.source_language is not None else ("target",)

    @property
    def digest(self) -> str:
        """Sha256 (hex) that two corpora share exactly if they hold the same: languages, vocabulary, settings, splits.

        Neither where a corpus lies nor what the files were called that it was made from plays a part.
        """
        content = {
            "version": self.version,
            "languages": [self.source_language, self.target_language],
            "vocabulary": dataclasses.asdict(self.vocabulary),
            "settings": self.settings,
            "splits": {
                split: {name: file.sha256 for name, file in entry.files.items()} for split, entry in self.splits.items()
            },
        }
        return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()

    def write(self, folder: Path) -> None:
        """Write ``corpus.json`` into a folder."""
        text = json.dumps(dataclasses.asdict(self), ensure_ascii=False, indent=1)
        write_text(folder / MANIFEST, text + "\n")

    def check_vocabularies(self, folder: Path, vocabularies: VocabularyPair) -> None:
        """Refuse models that are not the ones that the ids were made with.

        Raises:
            DataError: a digest or a size differs.
        """
        if vocabularies.joint != self.vocabulary.joint:
            raise DataError(f"{folder / MANIFEST}: says joint={self.vocabulary.joint}, but the model files differ")
        for name, vocabulary in vocabularies.files.items():
            if vocabulary.digest != self.vocabulary.files.get(name):
                raise DataError(f"{folder / name}: not the vocabulary that this corpus was prepared with")
        for side in SIDES:
            said, held = getattr(self.vocabulary.sizes, side), len(getattr(vocabularies, side))
            if said != held:
                raise DataError(f"{folder / MANIFEST}: says {said} pieces of the {side}, but the model has {held}")


def vocabulary_entry(vocabularies: VocabularyPair) -> VocabularyEntry:
    """How a manifest describes a pair of vocabularies."""
    return VocabularyEntry(
        joint=vocabularies.joint,
        sizes=Sides(len(vocabularies.source), len(vocabularies.target)),
        digest=vocabularies.digest,
        files={name: vocabulary.digest for name, vocabulary in vocabularies.files.items()},
    )


def read_manifest(folder: Path) -> Manifest:
    """Read ``corpus.json`` and check it.

    Raises:
        ConfigError: there is none.
        DataError: it is not of this format or version, or it or a file that it names would lie outside of the folder.
    """
    path = folder / MANIFEST
    if not path.is_file():
        raise ConfigError(f"{folder} is not a corpus (no {MANIFEST} in it); nmt-preprocess writes one")
    check_inside(folder, path)
    content = parse_json(read_bytes(path, MAX_JSON_BYTES), str(path))
    if not isinstance(content, dict) or content.get("format") != FORMAT:
        raise DataError(f"{path}: not a corpus of this toolkit (format is not {FORMAT!r})")
    if content.get("version") != VERSION:
        found = shorten(content.get("version"))
        raise DataError(
            f"{path}: format version {found}, but this release reads {VERSION}; prepare it anew (nmt-preprocess)"
        )
    try:
        manifest: Manifest = typed(Manifest, content, least=0)
    except TypeError as error:
        raise DataError(f"{path}: {shorten(error, 400)}") from error
    if manifest.source_language is None and not manifest.vocabulary.joint:
        raise DataError(f"{path}: a corpus of one language has one vocabulary, but it says joint=false")
    for name, split in manifest.splits.items():
        if not SPLIT_NAME.fullmatch(name):
            raise DataError(f"{path}: {shorten(repr(name))} is not a valid name of a split")
        _check_files(path, manifest, name, split)
    return manifest


def _check_files(path: Path, manifest: Manifest, name: str, split: SplitEntry) -> None:
    """Refuse names that could lead out of the corpus, and counts that do not add up."""
    expected = {file_name(side, kind) for side in manifest.sides for kind in KINDS}
    wrong = sorted(set(split.files) ^ expected)
    if wrong:
        raise DataError(f"{path}: split {name!r}: unexpected or missing file {shorten(repr(wrong[0]))}")
    for side in manifest.sides:
        tokens = getattr(split.tokens, side)
        items = {"ids": tokens, "ids_offsets": split.lines + 1, "text_offsets": split.lines + 1}
        for kind, count in items.items():
            file = split.files[file_name(side, kind)]
            needed = count * dtype_of(kind, getattr(manifest.vocabulary.sizes, side)).itemsize
            if file.bytes != needed:
                raise DataError(
                    f"{path}: split {name!r} says {split.lines} lines and {tokens} tokens of the {side}, but "
                    f"{file.bytes} bytes of {file_name(side, kind)}, which would be {needed}"
                )
