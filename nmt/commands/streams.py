"""The standard streams of a command: messages cannot steer a terminal, and a closed stream is one line.

Messages quote what lies in files that may come from anyone: a terminal that takes such a name for commands clears the
screen, renames its window or shows text backwards. So whatever is printed goes through one filter, reports of errors,
logs and progress bars alike. The output that a command is asked for (`nmt.text.writer.open_output`) does not.
"""

from __future__ import annotations

import errno
import logging
import os
import re
import sys
from collections.abc import Iterable
from typing import Any, NoReturn, TextIO, cast

_UNSAFE = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f"  # controls, those of eight bits too; not tab and line feed
    "\xad\u061c\u180e\u200b\u200e\u200f\u2028-\u202e\u2060-\u206f\ufeff\ufff9-\ufffb"  # direction, breaks, invisible
    "\ud800-\udfff\U000e0000-\U000e007f]"  # halves of characters, invisible tags
)


def visible(text: str) -> str:
    r"""Text with escapes (``\x1b``, ``\u202e``) for characters that steer a terminal or hide what is written."""
    return _UNSAFE.sub(lambda found: found[0].encode("unicode_escape").decode(), text)


class Messages:
    """A text stream for people, in front of another one; a carriage return may only begin what is written."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def write(self, text: str) -> int:
        """Write what is visible of a text."""
        rest = text.removeprefix("\r")  # a progress bar goes back to the start of its line
        return self._stream.write(text[: len(text) - len(rest)] + visible(rest))

    def writelines(self, lines: Iterable[str]) -> None:
        """Write texts one after the other."""
        for line in lines:
            self.write(line)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


class ClosedOutput:
    """Stands where standard output was closed: that shows when there is something to write, and not before."""

    encoding = "utf-8"

    def write(self, text: str) -> NoReturn:
        """Fail."""
        raise OSError(errno.EBADF, "closed, but there is something to write", "standard output")

    @property
    def buffer(self) -> NoReturn:
        """Fail: whoever asks for it is about to write."""
        self.write("")

    def flush(self) -> None:
        """Nothing was written."""

    def isatty(self) -> bool:
        """It shows nothing to anyone."""
        return False


class OneLine(logging.Formatter):
    """A message is one line, whatever is in the names that it quotes."""

    def format(self, record: logging.LogRecord) -> str:
        """The message."""
        return super().format(record).replace("\n", "\\n")


def guard_streams() -> None:
    """Put the filter before both outputs, for the rest of the process, and stand-ins where a stream is closed.

    The numbers of closed streams are taken: else the next file that is opened gets one, and what is written to the
    stream (by this process or one that it starts) ends up in it.
    """
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)
    if sys.stderr is None:
        sys.stderr = open(os.devnull, "w", encoding="utf-8")  # noqa: SIM115 (for the rest of the process)
    if sys.stdout is None:
        sys.stdout = cast(TextIO, ClosedOutput())
    for name in ("stdout", "stderr"):
        stream = getattr(sys, name)
        if not isinstance(stream, Messages | ClosedOutput):
            setattr(sys, name, Messages(stream))


def log_messages(level: int) -> None:
    """Log to standard error, a line a message."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(OneLine("%(message)s"))
    logging.basicConfig(level=level, handlers=[handler])
