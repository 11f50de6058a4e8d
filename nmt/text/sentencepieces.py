"""Sentencepiece models (Kudo and Richardson 2018, arXiv:1808.06226)."""

from __future__ import annotations

import contextlib
import math
from bisect import bisect
from collections.abc import Iterable, Iterator, Sequence
from functools import cached_property
from itertools import accumulate
from typing import Any

import sentencepiece

from nmt.config import DataError
from nmt.text.model_proto import parse_model
from nmt.text.random_segmentation import MergeDropout, Pieces, RandomSegmenter, UnigramLattice
from nmt.text.segmentation import BOS, EOS, PAD, SPECIAL_IDS, UNK, Draw, Segmentation

UNIGRAM, BPE = 1, 2
"""Kinds of models (``TrainerSpec.ModelType``)."""


class SentencePieces(Segmentation):
    """One sentencepiece model.

    Args:
        model: the serialised model.
        name: where it comes from, for messages.

    Raises:
        DataError: not a sentencepiece model, or its special ids are not pad=0, bos=1, eos=2, unk=3.
    """

    kind = "sentencepiece"
    files = ("sentencepiece.model", "sentencepiece.source.model", "sentencepiece.target.model")

    def __init__(self, model: bytes, name: str) -> None:
        self._model, self._name = model, name
        self._segmenters: dict[float, RandomSegmenter] = {}
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

    def __len__(self) -> int:
        return int(self._processor.get_piece_size())

    @cached_property
    def _proto(self) -> Any:
        return parse_model(self._model, self._name)

    @property
    def _kind(self) -> int:
        return int(self._proto.trainer_spec.model_type)

    @cached_property
    def _pieces(self) -> Pieces:
        return Pieces(self._proto)

    @cached_property
    def of_words(self) -> bool:
        """Whether it holds whole words: every piece starts where a word does (of sub-words, characters do not)."""
        return all(self.piece(index).startswith("▁") for index in range(len(SPECIAL_IDS), len(self)))

    def encode_batch(self, lines: Sequence[str]) -> list[list[int]]:
        with _characters(*lines):
            rows: list[list[int]] = self._processor.encode(list(lines), num_threads=1) if lines else []
        return [self._each_unknown(line, ids) for line, ids in zip(lines, rows)] if self.of_words else rows

    def _each_unknown(self, line: str, ids: list[int]) -> list[int]:
        """The same ids with one unk for every unknown word: the library makes one of all that stand side by side."""
        if UNK not in ids:
            return ids
        counts = (max(1, piece.count("▁")) for piece in self.pieces(line))
        return [i for index, count in zip(ids, counts) for i in [index] * (count if index == UNK else 1)]

    def sample(self, line: str, *, alpha: float, nbest: int, draw: Draw) -> list[int]:
        if self._kind not in (UNIGRAM, BPE):
            raise DataError("a sentencepiece model that is neither unigram nor bpe cannot segment at random")
        if nbest > 1 and self._kind == UNIGRAM:
            return self._one_of_best(line, alpha, nbest, draw)
        segmenter = self._segmenters.get(alpha)
        if segmenter is None:
            build = UnigramLattice if self._kind == UNIGRAM else MergeDropout
            segmenter = self._segmenters[alpha] = build(self._pieces, alpha)
        with _utf8(), _characters(line):
            text = str(self._processor.normalize(line))
        return segmenter.segment(text, draw)

    def _one_of_best(self, line: str, alpha: float, nbest: int, draw: Draw) -> list[int]:
        """One of the best segmentations, with probabilities to the power of alpha."""
        with _characters(line):
            rows: list[list[int]] = self._processor.nbest_encode(line, nbest_size=nbest)
        logs = [alpha * sum(self._pieces.scores[i] for i in row) for row in rows]
        largest = max(logs, default=0.0)
        sums = list(accumulate(math.exp(log - largest) for log in logs))
        return rows[min(bisect(sums, draw() * sums[-1]), len(rows) - 1)] if rows else []

    def decode(self, ids: Sequence[int]) -> str:
        """Text of some ids; unk shows as ``⁇``.

        Raises:
            DataError: the model makes text that is not UTF-8.
        """
        with _utf8():
            return str(self._processor.decode([i for i in ids if i not in (PAD, BOS, EOS)])) if ids else ""

    def pieces(self, line: str) -> list[str]:
        """Pieces of a line as sentencepiece writes them (``▁`` for a space)."""
        with _utf8(), _characters(line):
            return list(self._processor.encode(line, out_type=str))

    def join(self, pieces: Iterable[str]) -> str:
        with _utf8():
            return str(self._processor.decode(list(pieces)))

    def piece(self, index: int) -> str:
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
