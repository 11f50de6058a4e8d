"""What sentencepiece's trainer keeps for itself, so that any text can be given to it.

While it trains, it marks unknown characters with U+2585 and boundaries with U+001F. It leaves out lines that hold the
first, never makes a piece of the second, and puts a boundary in place of every name of a special piece that the
(normalised) text spells: the characters of a literal ``<s>`` are not even counted. A trained model has no such limits.
So training text has private characters in place of the two marks, special pieces have names that no text spells, and
the model gets the real ones afterwards.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import sentencepiece

from nmt.text.model_proto import parse_model

UNKNOWN_MARK, BOUNDARY_MARK = "\u2585", "\u001f"

PRIVATE = range(0x10FFFD, 0xFFFFF, -1)
"""Private use area of plane 16: normalisation leaves its characters alone."""

SPECIAL_NAMES = {"pad": "<pad>", "bos": "<s>", "eos": "</s>", "unk": "<unk>"}

TRAINING_NAMES: dict[str, Any] = {f"{key}_piece": UNKNOWN_MARK + key for key in SPECIAL_NAMES}
"""Options of the trainer: names that no text spells, for none holds the mark."""


def exchange_marks(lines: list[str], normalisation: str) -> tuple[list[str], dict[str, str]]:
    """Training text without the marks.

    Args:
        lines: the text.
        normalisation: name of the rules that are applied to it.

    Returns:
        The lines with private characters in place of the marks, and the mark that each private character stands for.
    """
    found = [mark for mark in (UNKNOWN_MARK, BOUNDARY_MARK) if any(mark in line for line in lines)]
    normalise = sentencepiece.SentencePieceNormalizer(
        rule_name=normalisation, add_dummy_prefix=False, remove_extra_whitespaces=False
    ).normalize
    kept = [mark for mark in found if normalise(mark) == mark]
    if not kept:
        return lines, {}
    used: set[str] = set().union(*lines)
    free = (chr(code) for code in PRIVATE if chr(code) not in used)
    stands_for = {next(free): mark for mark in kept}
    table = str.maketrans({mark: private for private, mark in stands_for.items()})
    return [line.translate(table) for line in lines], stands_for


def cut_long(lines: Iterable[str], most_bytes: int) -> Iterator[str]:
    """The same text in lines that the trainer takes: it leaves longer ones out.

    Args:
        lines: the text.
        most_bytes: largest length of a line in UTF-8; longer ones are cut, at spaces where there are any.
    """
    most = most_bytes // 4  # characters, of at most four bytes
    for line in lines:
        if len(line) <= most or len(line.encode("utf-8")) <= most_bytes:
            yield line
            continue
        start = 0
        while start < len(line):
            end = start + most
            if end < len(line):
                end = line.rfind(" ", start, end) + 1 or end
            yield line[start:end]
            start = end


def restore_marks(model: bytes, stands_for: Mapping[str, str]) -> bytes:
    """A model that was trained on such text, with the usual names of special pieces and with the real marks.

    Args:
        model: the serialised model, trained under `TRAINING_NAMES`.
        stands_for: of `exchange_marks`.
    """
    proto = parse_model(model, "the trained model")
    table = str.maketrans(dict(stands_for))
    names = {TRAINING_NAMES[f"{key}_piece"]: name for key, name in SPECIAL_NAMES.items()}
    for piece in proto.pieces:
        piece.piece = names.get(piece.piece) or piece.piece.translate(table)
    assert len({piece.piece for piece in proto.pieces}) == len(proto.pieces), "no piece joins letters and brackets"
    for field in ("hard_vocab_limit", *TRAINING_NAMES):
        proto.trainer_spec.ClearField(field)
    return bytes(proto.SerializeToString())
