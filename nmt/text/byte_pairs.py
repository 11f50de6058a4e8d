"""Byte-pair encoding as subword-nmt applies it (Sennrich et al. 2016, arXiv:1508.07909).

Codes are merges, in the order in which they are made; words between spaces are cut into what the merges leave, and
every piece but a word's last ends with ``@@``. Text goes in and comes out as it is between tokeniser and model: it is
neither tokenised nor detokenised here.

Of the package of that name this needs one function of thirty lines, which ends the process at a malformed code and
keeps every word that it has ever seen; so the function stands here. A test holds the two equal on real text.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from functools import lru_cache
from itertools import pairwise

from nmt.config import DataError
from nmt.text.segmentation import BOS, EOS, PAD, UNK, Draw, Segmentation
from nmt.untrusted import parse_json, shorten, typed

SEPARATOR = "@@"
SPECIAL_WORDS = ("<pad>", "<s>", "</s>", "<unk>")
FORMAT, VERSION = "subword-nmt", 1
END = "</w>"
"""The end of a word in the codes."""

MAX_WORD = 4096
"""Characters that are cut as one word: the time grows with their square."""

CACHED_WORDS = 1 << 16


class Codes:
    """The merges of a file.

    Args:
        lines: of the file: ``#version: 0.2``, then a pair a line. Without that first line it is version 0.1, where the
            end of a word is a symbol of its own; three columns are those of fastBPE, which counts in the third, and
            otherwise as version 0.2.
        name: where they come from, for messages.

    Raises:
        DataError: a line is no pair, or it is another version.
    """

    def __init__(self, lines: Sequence[str], name: str) -> None:
        head = lines[0].split() if lines and lines[0].startswith("#version:") else []
        if head and head[-1] not in ("0.1", "0.2"):
            raise DataError(f"{name}:1: {shorten(lines[0])}; versions 0.1 and 0.2 of codes can be read")
        self._ranks: dict[tuple[str, ...], int] = {}
        columns = set()
        for number, line in enumerate(lines, start=1):
            if number == 1 and head:
                continue
            parts = line.strip("\r\n ").split(" ")
            columns.add(len(parts))
            if len(parts) not in (2, 3) or not all(parts) or len(columns) > 1:
                raise DataError(f"{name}:{number}: expected a pair of sub-words and not {shorten(repr(line))}")
            self._ranks.setdefault(tuple(parts[:2]), number)
        self._end_is_own = columns != {3} and head[-1:] != ["0.2"]
        self._cut = lru_cache(CACHED_WORDS)(self._merge)

    def apply(self, line: str) -> list[str]:
        """The pieces of a line. A word of more than ``MAX_WORD`` characters is cut there before."""
        pieces = []
        for word in line.strip("\r\n ").split(" "):
            parts = [part for start in range(0, len(word), MAX_WORD) for part in self._cut(word[start:][:MAX_WORD])]
            pieces += [f"{part}{SEPARATOR}" for part in parts[:-1]] + parts[-1:]
        return " ".join(pieces).split()  # other white space separates, too, once the merges are made

    def products(self) -> Iterator[str]:
        """What merges make, as pieces."""
        for pair in self._ranks:
            whole = "".join(pair)
            yield whole[: -len(END)] if whole.endswith(END) else f"{whole}{SEPARATOR}"

    def _merge(self, word: str) -> list[str]:
        if len(word) == 1:
            return [word]
        parts = [*word, END] if self._end_is_own else [*word[:-1], word[-1] + END]
        while len(parts) > 1:
            ranked = [(rank, pair) for pair in pairwise(parts) if (rank := self._ranks.get(pair)) is not None]
            if not ranked:
                break
            parts = _joined(parts, min(ranked)[1])
        last = parts[-1].removesuffix(END)
        return [*parts[:-1], last] if last else parts[:-1]


def _joined(parts: Sequence[str], pair: tuple[str, str]) -> list[str]:
    """Merge every occurrence of a pair, from the left."""
    result: list[str] = []
    place = 0
    while place < len(parts):
        found = tuple(parts[place : place + 2]) == pair
        result.append("".join(pair) if found else parts[place])
        place += 1 + found
    return result


@dataclass(frozen=True)
class _File:
    """What the file of a vocabulary holds: lines of the codes, words after the special ones, and of these the silent
    ones, which no text gives and which decode to nothing.
    """

    format: str
    version: int
    codes: list[str]
    words: list[str]
    silent: list[str]


def byte_pair_file(codes: list[str], words: list[str], silent: list[str]) -> bytes:
    """The file of a vocabulary.

    Args:
        codes: lines of the codes.
        words: in the order of their ids, after the special ones.
        silent: those of them that no text gives and that decode to nothing.
    """
    content = asdict(_File(FORMAT, VERSION, codes, words, silent))
    return (json.dumps(content, ensure_ascii=False, indent=0) + "\n").encode()


class BytePairs(Segmentation):
    """Codes and words.

    Args:
        model: from `byte_pair_file`.
        name: where it comes from, for messages.

    Raises:
        DataError: another kind of file, or malformed codes or words.
    """

    kind = FORMAT
    files = ("bpe.json", "bpe.source.json", "bpe.target.json")

    def __init__(self, model: bytes, name: str) -> None:
        try:
            file: _File = typed(_File, parse_json(model, name))
        except TypeError as error:
            raise DataError(f"{name}: not a vocabulary of byte pairs ({shorten(error)})") from error
        if (file.format, file.version) != (FORMAT, VERSION):
            raise DataError(f"{name}: not a vocabulary of byte pairs, or of another version than {VERSION}")
        self._words = [*SPECIAL_WORDS, *file.words]
        self._ids = {word: index for index, word in enumerate(self._words)}
        if len(self._ids) < len(self._words) or "" in self._ids or not self._ids.keys() >= set(file.silent):
            raise DataError(f"{name}: a word is empty, stands twice, or is silent without being there")
        self._codes = Codes(file.codes, name)
        self._silent = {PAD, BOS, EOS, *(self._ids[word] for word in file.silent)}
        for index in self._silent:
            del self._ids[self._words[index]]

    def __len__(self) -> int:
        return len(self._words)

    def encode_batch(self, lines: Sequence[str]) -> list[list[int]]:
        return [[self._ids.get(piece, UNK) for piece in self._codes.apply(line)] for line in lines]

    def sample(self, line: str, *, alpha: float, nbest: int, draw: Draw) -> list[int]:
        raise DataError("a vocabulary of byte pairs (subword-nmt) cannot segment at random")

    def decode(self, ids: Sequence[int]) -> str:
        """Text of some ids; unk shows as ``<unk>``."""
        return self.join(self._words[i] for i in ids if i not in self._silent)

    def pieces(self, line: str) -> list[str]:
        return self._codes.apply(line)

    def join(self, pieces: Iterable[str]) -> str:
        return f"{' '.join(pieces)} ".replace(f"{SEPARATOR} ", "").rstrip()

    def piece(self, index: int) -> str:
        return self._words[index]
