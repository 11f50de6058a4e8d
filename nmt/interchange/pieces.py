"""A sentencepiece model in the order of our vocabularies, and where the rows of another model's matrices go.

Elsewhere a list of words beside the sentencepiece model gives the rows of the matrices: another order, other special
words, pieces that are no words, words that are no pieces. Here the pieces are the words. So the sentencepiece model is
rewritten: pad, bos, eos and unk, then its pieces with their scores (hence the same segmentation), then the words that
are no pieces. These can be generated, as they can elsewhere, but no text is segmented into them.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from nmt.config import DataError
from nmt.text.model_proto import CONTROL, UNKNOWN, UNUSED, parse_model
from nmt.text.vocabulary import BOS, EOS, PAD, UNK, Vocabulary

FOREIGN_SHARE = 0.05
"""Words that are no pieces: with more than this, the two files do not belong together."""


@dataclass(frozen=True)
class Words:
    """The words of a foreign model.

    Attributes:
        rows: row of each word in the matrices.
        size: rows of the matrices.
        pad: row of padding.
        start: row that the decoder starts with.
        eos: row of the end of sentence.
        unk: row of unknown words.
        name: where they come from, for messages.
        silent: words that decode to nothing.
        absent: rows of padding and start that the foreign model does not have: they cannot be produced.
    """

    rows: Mapping[str, int]
    size: int
    pad: int
    start: int
    eos: int
    unk: int
    name: str
    silent: frozenset[str] = frozenset()
    absent: frozenset[int] = frozenset()

    def special(self) -> tuple[list[int], list[bool]]:
        """Rows of pad, bos, eos and unk, and which of them cannot be produced."""
        rows = [self.pad, self.start, self.eos, self.unk]
        never = [row in self.absent for row in rows]
        never[1] |= self.start in (self.pad, self.eos)
        return rows, never


@dataclass(frozen=True)
class Aligned:
    """A vocabulary of ours and what it takes over.

    Attributes:
        vocabulary: with pad, bos, eos, unk first.
        rows: for each of its ids the row of the foreign matrices, int64 (size,).
        never: ids that the foreign model cannot produce, bool (size,): pieces that are no words of it (they are read
            as unknown), and a start that is another word at the same time.
    """

    vocabulary: Vocabulary
    rows: Tensor
    never: Tensor


def align(model: bytes, name: str, words: Words, *, produced: bool) -> Aligned:
    """Rewrite a sentencepiece model to fit the rows of a foreign model.

    Args:
        model: the serialised sentencepiece model.
        name: where it comes from, for messages.
        words: of the foreign model.
        produced: the vocabulary is a target's (every row is kept), else only read from (rows of pieces).

    Raises:
        DataError: not a sentencepiece model, or one that does not belong to these words.
    """
    proto = parse_model(model, name)
    before = [(piece.piece, piece.type) for piece in proto.pieces]
    specials = _specials(proto)
    reserved = {piece for piece, _ in specials}
    kept = [piece for piece in proto.pieces if piece.piece not in reserved and piece.type != UNKNOWN]
    kept = [piece for piece in kept if piece.type != CONTROL or piece.piece in words.rows]
    rows, never = words.special()
    rows += [words.rows.get(piece.piece, words.unk) for piece in kept]
    never += [piece.piece not in words.rows for piece in kept]
    entries = [(piece, kind, 0.0) for piece, kind in specials]
    entries += [(piece.piece, piece.type, piece.score) for piece in kept]
    if produced:
        covered = words.absent | {row for row, absent in zip(rows, never) if not absent}
        extra = extra_words(words, covered, {piece for piece, *_ in entries})
        lowest = min((piece.score for piece in kept), default=0.0) - 1
        # "Unused" pieces are kept out of the segmentation, and are text when they are generated.
        entries += [(piece, CONTROL if silent else UNUSED, lowest) for piece, silent, _ in extra]
        rows += [row for _, _, row in extra]
        never += [False] * len(extra)
    if before != [(piece, kind) for piece, kind, _ in entries]:
        model = _rewritten(proto, entries)
    return Aligned(Vocabulary(model, name), torch.tensor(rows), torch.tensor(never))


def check_words(words: Words, models: Mapping[str, bytes]) -> None:
    """Refuse words that were made by other sentencepiece models.

    Args:
        words: of the foreign model.
        models: name and content of every sentencepiece model that is said to have made them.

    Raises:
        DataError: not sentencepiece models, or too many words are no pieces of any.
    """
    known = {piece.piece for name, model in models.items() for piece in parse_model(model, name).pieces}
    check_share(words, known, models)


def check_share(words: Words, known: Collection[str], models: Iterable[str]) -> None:
    """Refuse words of which too many are no sub-words of the models that are said to have made them.

    Args:
        words: of the foreign model.
        known: all sub-words of the models.
        models: their names, for messages.

    Raises:
        DataError: they do not belong together.
    """
    special = {words.pad, words.start, words.eos, words.unk}
    expected = {word for word, row in words.rows.items() if row not in special} - words.silent
    foreign = [word for word in words.rows if word in expected and word not in known]
    if len(foreign) > FOREIGN_SHARE * words.size:
        raise DataError(
            f"{words.name}: does not belong to {' and '.join(models)}: {len(foreign)} of its {words.size} words are "
            f"no pieces, such as {foreign[0]!r}"
        )


def _specials(proto: Any) -> list[tuple[str, int]]:
    """Names and types of pad, bos, eos, unk; the model's own name for unknown is kept."""
    unknown = next((piece.piece for piece in proto.pieces if piece.type == UNKNOWN), "<unk>")
    return [("<pad>", CONTROL), ("<s>", CONTROL), ("</s>", CONTROL), (unknown, UNKNOWN)]


def extra_words(words: Words, covered: Collection[int], taken: set[str]) -> list[tuple[str, bool, int]]:
    """Every row that has no sub-word yet: (name, whether it is silent, row), in the order of the rows.

    Args:
        words: of the foreign model.
        covered: rows that have one.
        taken: names that are in use.
    """
    names = {row: word for word, row in words.rows.items()}
    found = []
    for row in range(words.size):
        if row in covered:
            continue
        word = names.get(row, f"<row {row}>")
        silent = row not in names or word in words.silent
        while word in taken:
            word += "'"
        taken.add(word)
        found.append((word, silent, row))
    return found


def _rewritten(proto: Any, entries: list[tuple[str, int, float]]) -> bytes:
    del proto.pieces[:]
    for piece, kind, score in entries:
        proto.pieces.add(piece=piece, type=kind, score=score)
    spec = proto.trainer_spec
    spec.vocab_size = len(entries)
    spec.pad_id, spec.bos_id, spec.eos_id, spec.unk_id = PAD, BOS, EOS, UNK
    spec.pad_piece, spec.bos_piece, spec.eos_piece, spec.unk_piece = (piece for piece, _, _ in entries[: UNK + 1])
    return bytes(proto.SerializeToString())
