"""Measurements that outlive a stop: of the same files and with the same settings nothing is measured twice."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from nmt.files import write_text
from nmt.untrusted import read_json


class Kept:
    """A folder of measurements, each in a file that is named by all it depends on.

    Args:
        folder: where they lie; None keeps nothing.
        facts: what all of them depend on, as plain values.
    """

    def __init__(self, folder: Path | None = None, facts: Mapping[str, Any] | None = None) -> None:
        self.folder, self.facts = folder, dict(facts or {})

    def get(self, **what: Any) -> Any:
        """An earlier measurement as plain values; None where there is none.

        Raises:
            DataError: its file is damaged.
        """
        path = self._path(what)
        return read_json(path)["value"] if path is not None and path.is_file() else None

    def put(self, value: Any, **what: Any) -> None:
        """Keep a measurement.

        Raises:
            OSError: it cannot be written.
        """
        path = self._path(what)
        if path is not None:
            path.parent.mkdir(parents=True, exist_ok=True)
            write_text(path, json.dumps({"what": {**self.facts, **what}, "value": value}, ensure_ascii=False))

    def _path(self, what: Mapping[str, Any]) -> Path | None:
        if self.folder is None:
            return None
        text = json.dumps({**self.facts, **what}, sort_keys=True)
        return self.folder / f"{hashlib.sha256(text.encode()).hexdigest()[:32]}.json"


def text_digest(lines: list[str]) -> str:
    """The sha256 (hex) of lines of text."""
    return hashlib.sha256("".join(f"{line}\n" for line in lines).encode()).hexdigest()
