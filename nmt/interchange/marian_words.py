"""Vocabularies of Marian (Junczys-Dowmunt et al. 2018, arXiv:1804.00344): ``.spm``, and words with their rows in YAML.

Marian has no padding and no begin of sentence: its decoder starts from a vector of zeros. A row of zeros after all
others stands for both.
"""

from __future__ import annotations

import re
from pathlib import Path

from nmt.config import DataError
from nmt.interchange.pieces import Words
from nmt.text.model_proto import UNKNOWN, parse_model
from nmt.text.vocabulary import MAX_MODEL_BYTES
from nmt.untrusted import read_bytes, shorten

EOS, UNK = "</s>", "<unk>"
NEMATUS = {0: ("", "eos"), 1: ("", "UNK")}
"""Names that the rows of end of sentence and of unknown words may have instead."""

MAX_BYTES = 1 << 26
PIECES = (".spm",)

_ENTRY = re.compile(r"""(?P<word>"(?:[^"\\]|\\.)*"|'(?:[^']|'')*'|[^\s"'].*?): +(?P<row>\d{1,9})""")
_LONG_WORD = re.compile(r"""\? +(?P<word>"(?:[^"\\]|\\.)*"|'(?:[^']|'')*'|[^\s"'].*)""")
_LONG_ROW = re.compile(r": +(?P<row>\d{1,9})")
_ESCAPE = re.compile(r"\\(?:x([0-9A-Fa-f]{2})|u([0-9A-Fa-f]{4})|U([0-9A-Fa-f]{8})|(.))", re.DOTALL)
_CONTROL = {"0": "\0", "a": "\a", "b": "\b", "t": "\t", "n": "\n", "v": "\v", "f": "\f", "r": "\r", "e": "\x1b"}
_CONTROL |= {"N": "\x85", "_": "\xa0", "L": "\u2028", "P": "\u2029"}


def read_words(path: Path, size: int) -> Words:
    """The words of one side.

    Args:
        path: a sentencepiece model (``.spm``) or a YAML file.
        size: rows of the matrix, without the one of zeros.

    Raises:
        DataError: missing, malformed, or of another size than the matrix.
    """
    rows = _read_pieces(path, size) if path.suffix in PIECES else _read_yaml(path, size)
    names = {row: word for word, row in rows.items()}
    special = {}
    for row, word in enumerate((EOS, UNK)):
        other = names.get(row, "") in NEMATUS[row] and path.suffix not in PIECES
        found = row if other else rows.get(word)
        if found is None:
            raise DataError(f"{path}: {word} is missing")
        special[word] = found
    rows = {word: row for word, row in rows.items() if row not in special.values()} | special
    silent, absent = frozenset({EOS}), frozenset({size})
    return Words(rows, size + 1, size, size, special[EOS], special[UNK], str(path), silent, absent)


def _read_pieces(path: Path, size: int) -> dict[str, int]:
    pieces = parse_model(read_bytes(path, MAX_MODEL_BYTES), str(path)).pieces
    if len(pieces) > size:
        raise DataError(f"{path}: {len(pieces)} pieces, but the matrix has {size} rows")
    rows = {UNK if piece.type == UNKNOWN else piece.piece: row for row, piece in enumerate(pieces)}
    if len(rows) < len(pieces):
        raise DataError(f"{path}: a piece stands twice")
    return rows


def _read_yaml(path: Path, size: int) -> dict[str, int]:
    """``WORD: ROW`` a line. Words of more than 1,024 bytes stand alone, after a question mark, before their rows.

    It is read line by line: to YAML itself ``null``, ``yes`` and ``1e3`` are no words. Rows that the matrix does not
    have are left out, as Marian leaves them out where ``--dim-vocabs`` is smaller than the file.
    """
    content = read_bytes(path, MAX_BYTES)
    if content.count(b"\n") > 2 * size + 2**20:
        raise DataError(f"{path}: far more lines than the matrix has rows, {size}")
    try:
        lines = content.decode("utf-8").split("\n")
    except UnicodeDecodeError as error:
        raise DataError(f"{path}: not UTF-8") from error
    rows: dict[str, int] = {}
    taken: set[int] = set()
    word: str | None = None
    for number, line in enumerate(lines, start=1):
        line = line.rstrip("\r")
        if not line.strip() or line in ("---", "..."):
            continue
        if word is None and (long := _LONG_WORD.fullmatch(line)):
            word = _unquoted(long["word"])
            continue
        entry = _LONG_ROW.fullmatch(line) if word is not None else _ENTRY.fullmatch(line)
        if entry is None:
            raise DataError(f"{path}:{number}: expected a word and its row and not {shorten(repr(line))}")
        name, row = word if word is not None else _unquoted(entry["word"]), int(entry["row"])
        word = None
        if row >= size:
            continue
        if name in rows or row in taken:
            raise DataError(f"{path}:{number}: {shorten(repr(name))} or its row stands twice")
        rows[name] = row
        taken.add(row)
    return rows


def _unquoted(text: str) -> str:
    """A word as YAML writes it: plain, or in quotes of either kind."""
    if text.startswith("'"):
        return text[1:-1].replace("''", "'")
    if not text.startswith('"'):
        return text
    return _ESCAPE.sub(_character, text[1:-1])


def _character(escape: re.Match[str]) -> str:
    code = next((group for group in escape.groups()[:3] if group), None)
    if code is None:
        return _CONTROL.get(escape[4], escape[4])
    value = int(code, 16)
    return chr(value) if value < 0x110000 and not 0xD800 <= value < 0xE000 else "\ufffd"
