"""What a run tells: ``metrics.jsonl``, tensorboard, and a progress bar or plain lines."""

from __future__ import annotations

import contextlib
import json
import logging
import math
import os
import sys
import time
from pathlib import Path
from typing import Any

from tqdm import tqdm

from nmt.files import write_bytes

logger = logging.getLogger(__name__)

LINE_SECONDS = 30.0
"""Without a terminal: seconds between lines of progress."""


class RunLogger:
    """Writes the same numbers to ``metrics.jsonl`` and tensorboard, and shows progress.

    Args:
        folder: the run.
        update: updates done before.
        lines: lines of ``metrics.jsonl`` to keep: what an interrupted run wrote later will be written again.

    Attributes:
        lines: lines of ``metrics.jsonl``.
    """

    def __init__(self, folder: Path, update: int, lines: int) -> None:
        from torch.utils.tensorboard import SummaryWriter

        self.path = folder / "metrics.jsonl"
        self.lines = _truncate(self.path, lines)
        self._file = open(self.path, "a", encoding="utf-8")  # noqa: SIM115 (open as long as the run)
        self._board = SummaryWriter(str(folder / "tensorboard"), purge_step=update + 1)
        self._bar: tqdm[Any] | None = None
        self._shown = time.monotonic()

    def start_epoch(self, epoch: int, done: int, total: int) -> None:
        """Begin to show an epoch of ``total`` updates, of which ``done`` are over."""
        if sys.stderr.isatty():
            self._bar = tqdm(total=total, initial=done, desc=f"epoch {epoch}", unit="upd", dynamic_ncols=True)

    def advance(self) -> None:
        """One more update."""
        if self._bar is not None:
            self._bar.update()

    def end_epoch(self) -> None:
        """Take the bar away."""
        if self._bar is not None:
            self._bar.close()
            self._bar = None

    def write(self, event: str, update: int, values: dict[str, Any]) -> None:
        """A line of ``metrics.jsonl`` and its scalars on the board; what is not finite is null, as JSON wants it.

        Raises:
            OSError: the disk is full.
        """
        finite = {k: None if isinstance(v, float) and not math.isfinite(v) else v for k, v in values.items()}
        try:
            self._file.write(json.dumps({"event": event, "update": update, **finite}) + "\n")
            self._file.flush()
        except OSError as error:
            raise OSError(
                error.errno,
                f"cannot be written ({error.strerror}); the same command goes on from the last checkpoint",
                str(self.path),
            ) from error
        self.lines += 1
        for name, value in values.items():
            if isinstance(value, int | float):
                self._board.add_scalar(f"{event}/{name}", value, update)

    def progress(self, epoch: int, update: int, of_epoch: int, done: int, values: dict[str, float]) -> None:
        """Show the newest figures: on the bar, or as a line every ``LINE_SECONDS``."""
        figures = {
            "loss": f"{values['loss']:.3f}",
            "ppl": f"{values['ppl']:.2f}",
            "lr": f"{values['lr']:.2e}",
            "tok/s": f"{values['tokens_per_second']:.0f}",
        }
        if self._bar is not None:
            self._bar.set_postfix(figures, refresh=False)
        elif time.monotonic() - self._shown >= LINE_SECONDS:
            self._shown = time.monotonic()
            left = (of_epoch - done) / max(1e-9, values["updates_per_second"])
            text = " | ".join(f"{name} {value}" for name, value in figures.items())
            logger.info("epoch %d | update %d | %d of %d | %s | ETA %.0f s", epoch, update, done, of_epoch, text, left)

    def sync(self) -> None:
        """Bring the lines to disk, so that they are there when a checkpoint says so."""
        os.fsync(self._file.fileno())

    def close(self) -> None:
        """Close everything; every line was flushed when it was written."""
        self.end_epoch()
        with contextlib.suppress(OSError):  # a full disk was reported, and what it did not take comes again
            self._file.close()
        with contextlib.suppress(OSError):
            self._board.close()


class SilentLogger(RunLogger):
    """Writes and shows nothing: that of every process but the first."""

    def __init__(self) -> None:
        self.lines = 0

    def start_epoch(self, epoch: int, done: int, total: int) -> None:
        pass

    def advance(self) -> None:
        pass

    def end_epoch(self) -> None:
        pass

    def write(self, event: str, update: int, values: dict[str, Any]) -> None:
        pass

    def progress(self, epoch: int, update: int, of_epoch: int, done: int, values: dict[str, float]) -> None:
        pass

    def sync(self) -> None:
        pass

    def close(self) -> None:
        pass


def _truncate(path: Path, lines: int) -> int:
    """Keep the first lines of a file; how many there are then (fewer where somebody took some away).

    A link is replaced by a file, so that nothing is written where it leads.
    """
    kept = []
    if path.is_file():
        with path.open("rb") as file:
            kept = [line for _, line in zip(range(lines), file) if line.endswith(b"\n")]  # half a line is dropped
    write_bytes(path, b"".join(kept))
    return len(kept)
