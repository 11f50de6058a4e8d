"""Sub-words of a foreign model as vocabularies: sentencepiece models, or the codes of subword-nmt."""

from __future__ import annotations

from pathlib import Path

import torch

from nmt.config import DataError
from nmt.interchange.pieces import Aligned, Words, align, check_share, check_words, extra_words
from nmt.text.byte_pairs import SEPARATOR, SPECIAL_WORDS, Codes, byte_pair_file
from nmt.text.model_proto import MAX_PIECES
from nmt.text.vocabulary import MAX_MODEL_BYTES, Vocabulary
from nmt.untrusted import read_bytes

SENTENCEPIECE_START = b"\n"
"""First byte of a sentencepiece model: the tag of its pieces. Codes begin with a line."""


def align_pair(words: tuple[Words, Words], files: tuple[Path, Path]) -> tuple[Aligned, Aligned]:
    """The vocabularies of both sides; the same object where words and sub-words are the same.

    Args:
        words: of source and target.
        files: what cuts text into them.

    Raises:
        DataError: a file is malformed, of another kind than the other, or does not belong to the words.
    """
    content = [read_bytes(file, MAX_MODEL_BYTES) for file in files]
    pieces = [model.startswith(SENTENCEPIECE_START) for model in content]
    if pieces[0] != pieces[1]:
        raise DataError(f"{files[pieces[0]]}: not a sentencepiece model, but {files[pieces[1]]} is one")
    same_words = words[0].rows == words[1].rows
    if pieces[0]:  # one list of words has the pieces of both models
        models = [{str(file): model} for file, model in zip(files, content)]
        for one, own in zip(words, models):
            check_words(one, {**models[0], **models[1]} if same_words else own)
    joint = same_words and content[0] == content[1]
    target = _align(content[1], files[1], words[1], produced=True)
    return target if joint else _align(content[0], files[0], words[0], produced=False), target


def _align(content: bytes, file: Path, words: Words, *, produced: bool) -> Aligned:
    if content.startswith(SENTENCEPIECE_START):
        return align(content, str(file), words, produced=produced)
    return align_codes(content, str(file), words)


def align_codes(content: bytes, name: str, words: Words) -> Aligned:
    """Codes and words as one vocabulary: the special words, then all others in the order of their rows.

    Args:
        content: of the file of codes.
        name: of that file, for messages.
        words: of the foreign model.

    Raises:
        DataError: no codes, or those of other words.
    """
    try:
        lines = content.decode("utf-8").rstrip("\n").split("\n")
    except UnicodeDecodeError as error:
        raise DataError(f"{name}: neither a sentencepiece model nor codes of subword-nmt (not UTF-8)") from error
    if len(lines) > MAX_PIECES:
        raise DataError(f"{name}: {len(lines)} codes, but {MAX_PIECES} are the most that are read")
    codes = Codes(lines, name)
    check_share(words, set(codes.products()) | _characters(words), [name])
    rows, never = words.special()
    extra = extra_words(words, set(rows), set(SPECIAL_WORDS))
    silent = [word for word, is_silent, _ in extra if is_silent]
    model = byte_pair_file(lines, [word for word, *_ in extra], silent)
    rows += [row for *_, row in extra]
    never += [False] * len(extra)
    return Aligned(Vocabulary(model, name), torch.tensor(rows), torch.tensor(never))


def _characters(words: Words) -> set[str]:
    """Words of one character, in the middle of a word or at its end: what no merge makes."""
    return {word for word in words.rows if len(word.removesuffix(SEPARATOR)) == 1}
