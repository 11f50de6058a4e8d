"""Models of other toolkits as checkpoints."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from nmt.config import ConfigError, suggest
from nmt.interchange.beside import Given, given_files
from nmt.interchange.fairseq import read_fairseq
from nmt.interchange.imported import Imported, write_imported
from nmt.interchange.marian import read_huggingface
from nmt.interchange.marian_npz import read_marian

READERS: dict[str, Callable[[Path, Given], Imported]] = {
    "fairseq": read_fairseq,
    "hf": read_huggingface,
    "marian": read_marian,
}


def import_checkpoint(
    format: str, path: str | Path, out: Path, *, vocabulary: object = None, subwords: object = None
) -> None:
    """Write a model of another toolkit as a checkpoint. No file of it is unpickled.

    Args:
        format: ``fairseq`` (a Transformer with its dictionaries and sub-words), ``hf`` (a Marian folder of Hugging Face
            transformers, such as OPUS-MT's) or ``marian`` (Marian's own ``.npz`` with its vocabularies).
        path: what to read.
        out: folder to write; must not exist. It appears whole or not at all.
        vocabulary: file of the words, or a list of two, source and target; None: found beside the model.
        subwords: file that cuts text into these words, or a list of two; None: found beside the model.

    Raises:
        ConfigError: no such format or file, or ``out`` exists.
        DataError: a file is missing, malformed or hostile, or the model holds what we do not have.
    """
    if format not in READERS:
        raise ConfigError(
            f"format={format}: no such format; valid options: {', '.join(READERS)}{suggest(format, READERS)}"
        )
    out = Path(out)
    if out.exists():
        raise ConfigError(f"out={out} exists; choose another folder")
    given = Given(given_files("vocabulary", vocabulary), given_files("subwords", subwords))
    model = READERS[format](Path(path), given)
    try:
        write_imported(model, out.absolute(), format)
    except OSError as error:
        raise ConfigError(f"out={out}: cannot be written ({error.strerror or error})") from error
