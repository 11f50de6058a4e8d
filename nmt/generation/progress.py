"""A progress bar for people: only where standard error is a terminal."""

from __future__ import annotations

import sys
from collections.abc import Iterable
from pathlib import Path
from types import TracebackType
from typing import Any

from nmt.generation.options import GenerateOptions
from nmt.text.reader import TextFile


class Progress:
    """Sentences done, their rate and the time left; a context manager."""

    def __init__(self, options: GenerateOptions, lines: Iterable[str], *, visible: bool) -> None:
        self._bar: Any = None
        if visible and sys.stderr.isatty() and options.buffer > 1:
            from tqdm import tqdm

            self._bar = tqdm(total=_count(lines), unit=" sentences", file=sys.stderr, dynamic_ncols=True)

    def __enter__(self) -> Progress:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._bar is not None:
            self._bar.close()

    def advance(self, sentences: int) -> None:
        """So many more are done."""
        if self._bar is not None:
            self._bar.update(sentences)


def _count(lines: Iterable[str]) -> int | None:
    """How many lines there will be, where that is cheap to know: lists and plain files."""
    if isinstance(lines, list):
        return len(lines)
    path = lines.path if isinstance(lines, TextFile) else Path()
    if not path.is_file() or path.suffix in (".gz", ".xz"):
        return None
    with path.open("rb") as raw:
        return sum(chunk.count(b"\n") for chunk in iter(lambda: raw.read(1 << 20), b""))
