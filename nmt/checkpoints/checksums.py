"""``SHA256SUMS``: a digest of every file of a checkpoint, in the format of sha256sum, so that damage is found.

Whoever writes a checkpoint writes it (``checkpoint.CheckpointFiles``), whoever reads one compares (``Checkpoint``).
"""

from __future__ import annotations

import re
from pathlib import Path

from nmt.config import DataError
from nmt.files import file_digest
from nmt.untrusted import file_size, is_plain_name, read_bytes, shorten

SUMS_FILE = "SHA256SUMS"
MAX_BYTES = 1 << 16
"""A checkpoint has a handful of files."""

REMEDY = f"sha256sum *.* > {SUMS_FILE}"
"""What makes the file anew, typed in the folder."""


class DamagedError(DataError):
    """A file of a checkpoint is not what was written."""


def write_sums(path: Path) -> None:
    """Write the digests of all other files of a folder.

    Args:
        path: of the file to write.
    """
    files = sorted(p for p in path.parent.iterdir() if p.name != path.name)
    path.write_text("".join(f"{file_digest(p)}  {p.name}\n" for p in files), encoding="utf-8")


def read_sums(folder: Path) -> dict[str, str]:
    """The digest (hex) of each file of a checkpoint.

    Raises:
        DataError: there are none; says what makes them.
        DamagedError: the file is no list of digests.
    """
    path = folder / SUMS_FILE
    if not path.exists():
        raise DataError(
            f"{folder}: no {SUMS_FILE} in it, so nothing shows whether its files are whole; where you trust them, "
            f"`{REMEDY}` in that folder makes it"
        )
    sums: dict[str, str] = {}
    for number, line in enumerate(read_bytes(path, MAX_BYTES).decode(errors="replace").splitlines(), start=1):
        found = re.fullmatch(r"([0-9a-f]{64}) [ *](.+)", line)
        if found is None or not is_plain_name(found[2]):
            raise DamagedError(f"{path}, line {number}: not a digest and a file name, but {shorten(line)!r}")
        sums[found[2]] = found[1]
    return sums


def check_file(folder: Path, name: str, sums: dict[str, str]) -> str:
    """Compare a file with its digest, which is given back.

    Raises:
        DamagedError: it is missing, not listed, or not what was written.
    """
    path = folder / name
    try:
        file_size(path)
        found = file_digest(path)
    except OSError as error:
        raise DamagedError(f"{path}: cannot be read ({error.strerror})") from error
    except DataError as error:
        raise DamagedError(str(error)) from error
    if name not in sums:
        raise DamagedError(f"{path}: {SUMS_FILE} beside it has no digest of it")
    if found != sums[name]:
        raise DamagedError(f"{path}: damaged (its content is not what {SUMS_FILE} says)")
    return found
