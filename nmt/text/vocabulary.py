"""Sub-word vocabularies: sentencepiece models kept as bytes, so that a checkpoint or a corpus can carry them along."""

from __future__ import annotations

import contextlib
import hashlib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import sentencepiece

from nmt.config import DataError
from nmt.files import write_bytes
from nmt.untrusted import read_bytes

PAD, BOS, EOS, UNK = 0, 1, 2, 3
"""Special ids, the same in every vocabulary."""

SPECIAL_IDS = {"pad": PAD, "bos": BOS, "eos": EOS, "unk": UNK}
MAX_MODEL_BYTES = 1 << 23
"""Of a model file; 256,000 pieces take 4 MiB. Two bytes can claim a piece, which takes 80 in memory."""

JOINT_FILE = "sentencepiece.model"
SOURCE_FILE = "sentencepiece.source.model"
TARGET_FILE = "sentencepiece.target.model"
MODEL_FILES = (JOINT_FILE, SOURCE_FILE, TARGET_FILE)


class Vocabulary:
    """One sentencepiece model (Kudo and Richardson 2018, arXiv:1808.06226).

    Args:
        model: the serialised model.
        name: where it comes from, for messages.

    Raises:
        DataError: not a sentencepiece model, or its special ids are not pad=0, bos=1, eos=2, unk=3.
    """

    def __init__(self, model: bytes, name: str = "sentencepiece model") -> None:
        self.model = model
        self.digest = hashlib.sha256(model).hexdigest()
        self._processor = sentencepiece.SentencePieceProcessor()
        try:
            if not model:
                raise RuntimeError("empty")
            self._processor.LoadFromSerializedProto(model)
        except RuntimeError as error:
            raise DataError(f"{name}: not a sentencepiece model (truncated, or another kind of file)") from error
        found = {key: int(getattr(self._processor, f"{key}_id")()) for key in SPECIAL_IDS}
        if found != SPECIAL_IDS:
            raise DataError(f"{name}: its special ids are {found}, but {SPECIAL_IDS} are needed; train it here")

    @classmethod
    def load(cls, path: str | Path) -> Vocabulary:
        """Read a model file.

        Raises:
            DataError: the file is missing, truncated or of another kind.
        """
        return cls(read_bytes(Path(path), MAX_MODEL_BYTES), str(path))

    def save(self, path: str | Path) -> None:
        """Write the model file, byte for byte as it was read."""
        write_bytes(Path(path), self.model)

    def __reduce__(self) -> tuple[type[Vocabulary], tuple[bytes]]:
        return type(self), (self.model,)

    def __len__(self) -> int:
        return int(self._processor.get_piece_size())

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Vocabulary) and self.digest == other.digest

    def __hash__(self) -> int:
        return hash(self.digest)

    @cached_property
    def of_words(self) -> bool:
        """Whether it holds whole words: every piece starts where a word does (of sub-words, characters do not)."""
        return all(self.piece(index).startswith("▁") for index in range(len(SPECIAL_IDS), len(self)))

    def encode(self, line: str) -> list[int]:
        """Ids of a line, without bos and eos; no text gives them, nor pad.

        Raises:
            DataError: the line holds half of a surrogate pair.
        """
        with _characters(line):
            ids = list(self._processor.encode(line))
        return self._each_unknown(line, ids)

    def _each_unknown(self, line: str, ids: list[int]) -> list[int]:
        """The same ids with one unk for every unknown word: the library makes one of all that stand side by side."""
        if UNK not in ids or not self.of_words:
            return ids
        counts = (max(1, piece.count("▁")) for piece in self.pieces(line))
        return [i for index, count in zip(ids, counts) for i in [index] * (count if index == UNK else 1)]

    def encode_batch(self, lines: Sequence[str]) -> list[list[int]]:
        """``encode`` of several lines, in order."""
        with _characters(*lines):
            rows = self._processor.encode(list(lines), num_threads=1) if lines else []
        return [self._each_unknown(line, list(ids)) for line, ids in zip(lines, rows)]

    def sample(self, line: str, *, alpha: float, nbest: int) -> list[int]:
        """One random segmentation; `nmt.text.subword.SubwordSampler` makes it reproducible.

        Raises:
            DataError: the model is neither unigram nor BPE, or the line holds half of a surrogate pair.
        """
        try:
            with _characters(line):
                return list(self._processor.encode(line, enable_sampling=True, alpha=alpha, nbest_size=nbest))
        except RuntimeError as error:
            raise DataError("a sentencepiece model that is neither unigram nor bpe cannot segment at random") from error

    def decode(self, ids: Iterable[int]) -> str:
        """Text of some ids: pad, bos and eos leave no trace wherever they stand, unk shows as ``⁇``.

        Raises:
            ValueError: an id is not in the vocabulary.
            DataError: the model makes text that is not UTF-8.
        """
        kept = [int(i) for i in ids]
        wrong = next((i for i in kept if not 0 <= i < len(self)), None)
        if wrong is not None:
            raise ValueError(f"id {wrong} is not in the vocabulary of {len(self)} pieces")
        with _utf8():
            return str(self._processor.decode([i for i in kept if i not in (PAD, BOS, EOS)])) if kept else ""

    def decode_batch(self, batch: Iterable[Iterable[int]]) -> list[str]:
        """``decode`` of several rows of ids, in order."""
        return [self.decode(ids) for ids in batch]

    def pieces(self, line: str) -> list[str]:
        """Pieces of a line as sentencepiece writes them (``▁`` for a space)."""
        with _utf8(), _characters(line):
            return list(self._processor.encode(line, out_type=str))

    def join(self, pieces: Iterable[str]) -> str:
        """Text of some pieces."""
        with _utf8():
            return str(self._processor.decode(list(pieces)))

    def piece(self, index: int) -> str:
        """The piece of one id."""
        with _utf8():
            return str(self._processor.id_to_piece(int(index)))


@contextlib.contextmanager
def _characters(*lines: str) -> Iterator[None]:
    """The library cannot take a string that is no text: Python's strings can hold halves of surrogate pairs."""
    try:
        yield
    except (RuntimeError, TypeError) as error:
        try:
            "".join(lines).encode("utf-8")
        except UnicodeEncodeError as half:
            found = ord(half.object[half.start])
            raise DataError(f"U+{found:04X} cannot be encoded: half of a surrogate pair is no character") from error
        raise


@contextlib.contextmanager
def _utf8() -> Iterator[None]:
    """The library makes text by rules and pieces of the file; damaged ones can break characters apart."""
    try:
        yield
    except UnicodeDecodeError as error:
        raise DataError("the sentencepiece model is damaged: it makes text that is not UTF-8") from error


@dataclass(frozen=True)
class VocabularyPair:
    """The vocabularies of both sides; one model for both when ``joint``."""

    source: Vocabulary
    target: Vocabulary
    joint: bool

    @classmethod
    def shared(cls, vocabulary: Vocabulary) -> VocabularyPair:
        """One vocabulary for both sides."""
        return cls(vocabulary, vocabulary, joint=True)

    @classmethod
    def load(cls, folder: str | Path) -> VocabularyPair:
        """Read the vocabularies of a corpus or of a checkpoint.

        Raises:
            DataError: there are none, or a file is not a sentencepiece model.
        """
        folder = Path(folder)
        if (folder / JOINT_FILE).is_file():
            return cls.shared(Vocabulary.load(folder / JOINT_FILE))
        if (folder / SOURCE_FILE).is_file() and (folder / TARGET_FILE).is_file():
            return cls(Vocabulary.load(folder / SOURCE_FILE), Vocabulary.load(folder / TARGET_FILE), joint=False)
        raise DataError(f"{folder}: no vocabulary here: neither {JOINT_FILE} nor {SOURCE_FILE} with {TARGET_FILE}")

    @property
    def files(self) -> dict[str, Vocabulary]:
        """File name of each model."""
        return {JOINT_FILE: self.source} if self.joint else {SOURCE_FILE: self.source, TARGET_FILE: self.target}

    def save(self, folder: str | Path) -> None:
        """Write the model files into an existing folder."""
        for name, vocabulary in self.files.items():
            vocabulary.save(Path(folder) / name)

    @property
    def digest(self) -> str:
        """Sha256 (hex) that two pairs share exactly if their models are the same."""
        text = " ".join(vocabulary.digest for vocabulary in self.files.values())
        return hashlib.sha256(text.encode("ascii")).hexdigest()
