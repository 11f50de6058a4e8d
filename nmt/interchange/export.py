"""Checkpoints in the formats of other toolkits."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from nmt.config import ConfigError, suggest
from nmt.interchange.ctranslate2 import write_ctranslate2
from nmt.interchange.huggingface import write_huggingface
from nmt.interchange.standard import StandardTransformer, read_standard

WRITERS: dict[str, Callable[[StandardTransformer, Path], None]] = {
    "ctranslate2": write_ctranslate2,
    "hf": write_huggingface,
}


def export_checkpoint(checkpoint: str | Path, to: str, out: Path) -> None:
    """Write a checkpoint as a folder of another toolkit.

    Args:
        checkpoint: a run (its best checkpoint) or a checkpoint folder.
        to: ``ctranslate2`` (a folder for ``ctranslate2.Translator``) or ``hf`` (one for ``transformers``).
        out: folder to write; must not exist. It appears whole or not at all.

    Raises:
        ConfigError: no such format, no checkpoint, ``out`` exists, or the model holds what the format cannot express.
        DataError: a file of the checkpoint is missing, truncated or foreign.
    """
    if to not in WRITERS:
        raise ConfigError(f"to={to}: no such format; valid options: {', '.join(WRITERS)}{suggest(to, WRITERS)}")
    out = Path(out)
    if out.exists():
        raise ConfigError(f"out={out} exists; choose another folder")
    model = read_standard(checkpoint, to)
    try:
        WRITERS[to](model, out.absolute())
    except OSError as error:
        raise ConfigError(f"out={out}: cannot be written ({error.strerror or error})") from error
