"""Translations beside the figures that were computed from them, so that anyone can compute them again."""

from __future__ import annotations

import lzma
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from nmt.files import remove_folder, write_files

HYPOTHESES_FOLDER, SUFFIX = "hypotheses", ".hyp.xz"


def write_hypotheses(
    out: Path,
    rows: Sequence[dict[str, Any]],
    texts: Sequence[list[str] | None],
    name_of: Callable[[Mapping[str, Any]], str],
) -> None:
    """Write the translations of rows into ``out/hypotheses`` and name the file in each row (None where it has none).

    Equal translations of systems of one name share a file: those of other batch sizes usually do.

    Args:
        out: folder of the results; what its ``hypotheses`` held before is removed.
        rows: of a benchmark; each gets a key ``hypotheses``.
        texts: translations of each row.
        name_of: of a row's system; beam and batch size are added where its translations differ.

    Raises:
        OSError: they cannot be written.
    """
    named: dict[str, list[str]] = {}
    for row, lines in zip(rows, texts, strict=True):
        row["hypotheses"] = None
        if lines is None:
            continue
        base = re.sub(r"[^\w.-]+", "_", name_of(row))
        own = [base, f"{base}-beam{row['beam']}", f"{base}-beam{row['beam']}-batch{row['batch']}"]
        own += [f"{own[-1]}-{number}" for number in range(2, 2 + len(rows))]
        name = next(n for n in own if named.setdefault(n, lines) == lines)
        row["hypotheses"] = f"{HYPOTHESES_FOLDER}/{name}{SUFFIX}"
    folder = out / HYPOTHESES_FOLDER
    files = {f"{name}{SUFFIX}": _writer(lines) for name, lines in named.items()}
    if files:
        write_files(folder, files, [path.name for path in folder.glob(f"*{SUFFIX}")])
    elif folder.is_dir():
        remove_folder(folder)


def _writer(lines: Sequence[str]) -> Callable[[Path], Any]:
    content = lzma.compress("".join(f"{line}\n" for line in lines).encode())
    return lambda path: path.write_bytes(content)
