"""``manifest.json`` of a run: an entry a start, and what the run was begun with, by content and not by path."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from nmt.config import ConfigError, DataError
from nmt.files import write_text
from nmt.provenance import provenance
from nmt.untrusted import read_json, shorten, typed

logger = logging.getLogger(__name__)

MANIFEST = "manifest.json"


@dataclass(frozen=True)
class Origin:
    """What a run reads: where it lies, and the sha256 (hex) that says what it is."""

    path: str
    digest: str

    def __str__(self) -> str:
        return f"{shorten(self.path, 200)} (digest {shorten(self.digest, 12)})"


@dataclass(frozen=True)
class Start:
    """What one start of a run has read: its corpora in order, and the weights that the run was begun with."""

    corpora: list[Origin]
    init_from: Origin | None


def read_entries(folder: Path) -> list[dict[str, Any]]:
    """One entry a start of the run, the first one first; none where it was never started.

    Raises:
        DataError: this is no manifest.
    """
    path = folder / MANIFEST
    if not path.exists():
        return []
    try:
        return typed(list[dict[str, Any]], read_json(path))
    except TypeError as error:
        raise _foreign(path, error) from error


def append_entry(folder: Path, start: Start, **facts: Any) -> None:
    """Add an entry: when, where, with what versions and on what this run was started or continued.

    Args:
        folder: the run.
        start: what it reads.
        facts: whatever else describes the start; ``update``, the updates done before, among it.

    Raises:
        DataError: the manifest cannot be read.
    """
    entry = {**provenance(), **asdict(start), **facts}
    write_text(folder / MANIFEST, json.dumps([*read_entries(folder), entry], indent=1))


class Continued:
    """A run that has checkpoints, and what its manifest says that it was begun with.

    Args:
        folder: of the run.

    Raises:
        DataError: the manifest is missing or cannot be read.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        path, entries = folder / MANIFEST, read_entries(folder)
        if not entries:
            raise DataError(f"{path}: missing or empty, and nothing else says what the run was begun with")
        try:
            begun = [entry for entry in entries if typed(int, entry["update"], "update") == 0]
            self.first, self.last = (_start(entry) for entry in (begun[-1], entries[-1]))
        except (LookupError, TypeError) as error:
            raise _foreign(path, error) from error

    def check(self, start: Start) -> None:
        """Refuse other corpora, or other first weights, than those that the run was begun with.

        Raises:
            ConfigError: the content of one differs, or the number or order of the corpora.
        """
        before, now = [c.digest for c in self.first.corpora], [c.digest for c in start.corpora]
        if before != now:
            what = "the corpus has another content than when the run was begun"
            if len(before) != len(now):
                what = f"{len(now)} corpora, but the run was begun with {len(before)}"
            elif sorted(before) == sorted(now):
                what = "the corpora stand in another order than when the run was begun"
            pairs = zip(self.first.corpora, start.corpora)
            listed = [f": {old} then, {new} now" for old, new in pairs if old.digest != new.digest][:1]
            raise ConfigError(f"run={self.folder}: {what}{''.join(listed)}; choose another run=")
        old, new = self.first.init_from, start.init_from
        if old is not None and new is not None and old.digest != new.digest:
            raise ConfigError(
                f"run={self.folder}: init_from has other weights than when the run was begun: {old} then, {new} now; "
                "choose another run="
            )

    def first_weights(self, path: str | None, digest: Callable[[str], str]) -> Origin | None:
        """The weights that the run was begun with, where they are looked for now; a path that stays is not read again.

        Args:
            path: ``init_from`` as it is now.
            digest: of the weights at a path.
        """
        if path is None or self.first.init_from is None or self.last.init_from is None:
            return None
        if Path(path) != Path(self.last.init_from.path):
            try:
                return Origin(path, digest(path))
            except (ConfigError, DataError):
                pass  # not there, which harms nothing: the run has its own weights
        return Origin(path, self.first.init_from.digest)

    def say_moved(self, start: Start) -> None:
        """Tell the user what lies elsewhere than at the last start."""
        for old, new in zip(self.last.corpora, start.corpora):
            self._say_moved("corpus", old, new, "its content is the same")
        if self.last.init_from is not None and start.init_from is not None:
            self._say_moved("init_from", self.last.init_from, start.init_from, "it is not read again")

    def _say_moved(self, key: str, old: Origin, new: Origin, note: str) -> None:
        if Path(old.path) != Path(new.path):
            logger.info("run=%s: %s=%s now, %s before; %s", self.folder, key, new.path, old.path, note)


def _start(entry: dict[str, Any]) -> Start:
    return typed(Start, {key: entry[key] for key in ("corpora", "init_from")})


def _foreign(path: Path, error: Exception) -> DataError:
    return DataError(f"{path}: not the manifest of a run ({shorten(error)})")
