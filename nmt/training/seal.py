"""``training.json``: facts of a training with the digests of all files of its checkpoint, which show any damage."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

from nmt.config import DataError
from nmt.files import file_digest
from nmt.training.checkpoint import CONFIG_FILE
from nmt.untrusted import file_size, is_plain_name, read_json, shorten, typed

FACTS_FILE = "training.json"


def seal(facts: dict[str, Any], path: Path) -> None:
    """Write facts with the digests of all other files of the checkpoint, and one of their own.

    ``config.yaml`` has none: only its keys that say when to stop can differ when the same moment is saved again.
    """
    files = {p.name: file_digest(p) for p in sorted(path.parent.iterdir()) if p.name not in (CONFIG_FILE, FACTS_FILE)}
    facts = {**facts, "files": files}
    path.write_text(json.dumps({**facts, "sha256": _digest(facts)}), encoding="utf-8")


def unseal(folder: Path) -> dict[str, Any]:
    """The facts of a checkpoint, none of whose files has changed.

    Raises:
        DataError: a file is missing, or not what was written.
    """
    path = folder / FACTS_FILE
    value = read_json(path, finite=False)
    try:
        facts: dict[str, Any] = typed(dict[str, Any], value, "the top")
        claimed = typed(str, facts.pop("sha256"), "sha256")
        files = typed(dict[str, str], facts["files"], "files")
        if not all(map(is_plain_name, files)):
            raise ValueError("files names something outside of the checkpoint")
    except (KeyError, TypeError, ValueError) as error:
        why = f"{type(error).__name__}: {shorten(error)}"
        raise DataError(f"{path}: not the state of a training run ({why})") from error
    if claimed != _digest(facts):
        raise DataError(f"{path}: damaged (its content is not what was written)")
    for name, digest in files.items():
        file_size(folder / name)
        try:
            found = file_digest(folder / name)
        except OSError as error:
            raise DataError(f"{folder / name}: cannot be read ({error.strerror})") from error
        if found != digest:
            raise DataError(f"{folder / name}: damaged (its content is not what {FACTS_FILE} says)")
    return facts


def _digest(facts: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(facts).encode()).hexdigest()
