"""The files that lie beside a foreign model: named by the user, or found by their names."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from nmt.config import ConfigError, DataError


@dataclass(frozen=True)
class Given:
    """Files that the user named: one for both sides, or the source's and the target's.

    Attributes:
        vocabulary: words and their rows.
        subwords: what cuts text into these words.
    """

    vocabulary: tuple[Path, ...] = ()
    subwords: tuple[Path, ...] = ()

    def refuse(self, key: str, format: str) -> None:
        """Refuse a key that a format has no use for.

        Raises:
            ConfigError: it was given.
        """
        if getattr(self, key):
            raise ConfigError(f"{key}: leave it out with format={format}, whose folder has a file of a fixed name")


def given_files(key: str, value: object) -> tuple[Path, ...]:
    """The files of a key.

    Args:
        key: ``vocabulary`` or ``subwords``.
        value: None, a file, or a list of two.

    Raises:
        ConfigError: it is none of these, or a file does not exist.
    """
    if value is None:
        return ()
    several = isinstance(value, Sequence) and not isinstance(value, str)
    paths = tuple(Path(str(path)) for path in value) if several else (Path(str(value)),)  # type: ignore[attr-defined]
    if not 1 <= len(paths) <= 2:
        raise ConfigError(f"{key}=[{','.join(map(str, paths))}]: give FILE, or [SOURCE,TARGET]")
    for path in paths:
        if not path.is_file():
            raise ConfigError(f"{key}={path}: no such file")
    return paths


def find_pair(
    folder: Path, patterns: Sequence[str], tags: tuple[str, str], key: str, given: tuple[Path, ...]
) -> tuple[Path, Path]:
    """The files of the source and of the target, which may be one.

    Args:
        folder: where they are looked for.
        patterns: what their names look like.
        tags: part of the name, between points, that tells the source's from the target's: languages.
        key: under which the user can name them.
        given: what the user named; nothing is looked for then.

    Raises:
        DataError: there are none, or several whose names do not tell which is which.
    """
    if given:
        return given[0], given[-1]
    found = sorted({path for pattern in patterns for path in folder.glob(pattern) if path.is_file()})
    if not found:
        raise DataError(f"{folder}: no {key} here ({', '.join(patterns)}); give {key}=FILE or {key}=[SOURCE,TARGET]")
    if len(found) == 1:
        return found[0], found[0]
    source, target = ([path for path in found if tag in path.name.split(".")] for tag in tags)
    if len(source) != 1 or len(target) != 1:
        names = ", ".join(path.name for path in found)
        raise DataError(f"{folder}: which of {names}? Give {key}=FILE or {key}=[SOURCE,TARGET]")
    return source[0], target[0]
