"""Sub-word vocabularies: models kept as bytes, so that a checkpoint or a corpus can carry them along."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from nmt.config import DataError
from nmt.files import write_bytes
from nmt.text.byte_pairs import BytePairs
from nmt.text.segmentation import BOS, EOS, PAD, SPECIAL_IDS, UNK, Draw, Segmentation
from nmt.text.sentencepieces import SentencePieces
from nmt.untrusted import read_bytes

__all__ = ["BOS", "EOS", "MAX_MODEL_BYTES", "PAD", "SPECIAL_IDS", "UNK", "Vocabulary", "VocabularyPair"]

MAX_MODEL_BYTES = 1 << 23
"""Of a model file; 256,000 pieces take 4 MiB. Two bytes can claim a piece, which takes 80 in memory."""

KINDS: tuple[type[Segmentation], ...] = (SentencePieces, BytePairs)
MODEL_FILES = tuple(name for kind in KINDS for name in kind.files)
"""Names of the models that a folder may hold, of any kind."""


class Vocabulary:
    """One sub-word model with its file.

    Args:
        model: content of the file: a sentencepiece model, or JSON that `byte_pair_file` made.
        name: where it comes from, for messages.

    Raises:
        DataError: it is neither, or its special ids are not pad=0, bos=1, eos=2, unk=3.
    """

    def __init__(self, model: bytes, name: str = "sub-word model") -> None:
        self.model = model
        self.digest = hashlib.sha256(model).hexdigest()
        json = model.startswith(b"{")  # no sentencepiece model does
        self._segmentation: Segmentation = BytePairs(model, name) if json else SentencePieces(model, name)

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
        return len(self._segmentation)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Vocabulary) and self.digest == other.digest

    def __hash__(self) -> int:
        return hash(self.digest)

    @property
    def kind(self) -> str:
        """Name of the kind of model."""
        return self._segmentation.kind

    @property
    def files(self) -> tuple[str, str, str]:
        """Names that its file has: as a joint vocabulary, as the source's and as the target's."""
        return self._segmentation.files

    def encode(self, line: str) -> list[int]:
        """``encode_batch`` of one line."""
        return self._segmentation.encode_batch([line])[0]

    def encode_batch(self, lines: Sequence[str]) -> list[list[int]]:
        """Ids of several lines, in order, without bos and eos; no text gives them, nor pad.

        Raises:
            DataError: a line holds half of a surrogate pair, which a sentencepiece model cannot encode.
        """
        return self._segmentation.encode_batch(lines)

    def sample(self, line: str, *, alpha: float, nbest: int, draw: Draw) -> list[int]:
        """One random segmentation, a function of the numbers that are drawn.

        Raises:
            DataError: the model has none (it is neither unigram nor BPE of sentencepiece), or cannot encode the line.
        """
        return self._segmentation.sample(line, alpha=alpha, nbest=nbest, draw=draw)

    def decode(self, ids: Iterable[int]) -> str:
        """Text of some ids: pad, bos and eos leave no trace wherever they stand.

        Unknown words show as ``⁇`` with a sentencepiece model and as ``<unk>`` with one of subword-nmt.

        Raises:
            ValueError: an id is not in the vocabulary.
            DataError: the model makes text that is not UTF-8.
        """
        kept = [int(i) for i in ids]
        wrong = next((i for i in kept if not 0 <= i < len(self)), None)
        if wrong is not None:
            raise ValueError(f"id {wrong} is not in the vocabulary of {len(self)} pieces")
        return self._segmentation.decode(kept)

    def decode_batch(self, batch: Iterable[Iterable[int]]) -> list[str]:
        """``decode`` of several rows of ids, in order."""
        return [self.decode(ids) for ids in batch]

    def pieces(self, line: str) -> list[str]:
        """Pieces of a line as the model writes them: ``▁`` begins a word, or ``@@`` ends what is no end of one."""
        return self._segmentation.pieces(line)

    def join(self, pieces: Iterable[str]) -> str:
        """Text of some pieces."""
        return self._segmentation.join(pieces)

    def find(self, piece: str) -> int | None:
        """The id of a piece; None where there is no such piece."""
        return next((index for index in range(len(self)) if self.piece(index) == piece), None)

    def piece(self, index: int) -> str:
        """The piece of one id."""
        return self._segmentation.piece(int(index))


@dataclass(frozen=True)
class VocabularyPair:
    """The vocabularies of both sides, of one kind; one model for both when ``joint``."""

    source: Vocabulary
    target: Vocabulary
    joint: bool

    def __post_init__(self) -> None:
        assert self.source.kind == self.target.kind

    @classmethod
    def shared(cls, vocabulary: Vocabulary) -> VocabularyPair:
        """One vocabulary for both sides."""
        return cls(vocabulary, vocabulary, joint=True)

    @classmethod
    def load(cls, folder: str | Path) -> VocabularyPair:
        """Read the vocabularies of a corpus or of a checkpoint.

        Raises:
            DataError: there are none, or a file is not what its name says.
        """
        folder = Path(folder)
        for kind in KINDS:
            joint, source, target = (folder / name for name in kind.files)
            if joint.is_file():
                return cls.shared(_load(joint, kind))
            if source.is_file() and target.is_file():
                return cls(_load(source, kind), _load(target, kind), joint=False)
        names = " nor ".join("{} nor {} with {}".format(*kind.files) for kind in KINDS)
        raise DataError(f"{folder}: no vocabulary here: neither {names}")

    @property
    def files(self) -> dict[str, Vocabulary]:
        """File name of each model."""
        joint, source, target = self.source.files
        return {joint: self.source} if self.joint else {source: self.source, target: self.target}

    def save(self, folder: str | Path) -> None:
        """Write the model files into an existing folder."""
        for name, vocabulary in self.files.items():
            vocabulary.save(Path(folder) / name)

    @property
    def digest(self) -> str:
        """Sha256 (hex) that two pairs share exactly if their models are the same."""
        text = " ".join(vocabulary.digest for vocabulary in self.files.values())
        return hashlib.sha256(text.encode("ascii")).hexdigest()


def _load(path: Path, kind: type[Segmentation]) -> Vocabulary:
    vocabulary = Vocabulary.load(path)
    if vocabulary.kind != kind.kind:
        raise DataError(f"{path}: not a {kind.kind} model")
    return vocabulary
