"""Reading parallel text as a stream: plain, gzip or xz, strict UTF-8, lines split on line feeds only."""

from __future__ import annotations

import gzip
import hashlib
import io
import lzma
import zlib
from collections.abc import Iterator
from itertools import chain, zip_longest
from pathlib import Path
from types import TracebackType

from nmt.config import ConfigError, DataError

SUFFIXES = ("", ".gz", ".xz")
MAX_LINE_BYTES = 1 << 24
"""Of one line: memory must not grow with a file that never ends its line, such as 16 GiB of zeros in 16 MiB of xz."""

READ_BYTES = 1 << 20
"""Read at once, at most; of a pipe what is there."""

BYTE_ORDER_MARK = b"\xef\xbb\xbf"


def find_text(prefix: str | Path, language: str) -> Path:
    """``PREFIX.LANG``, or the same compressed; the first that exists of plain, ``.gz``, ``.xz``.

    Raises:
        ConfigError: none exists.
    """
    for suffix in SUFFIXES:
        path = Path(f"{prefix}.{language}{suffix}")
        if path.is_file():
            return path
    raise ConfigError(f"no such file: {prefix}.{language} (nor the same with .gz or .xz)")


def _decompressed(suffix: str, raw: io.BufferedReader) -> io.BufferedIOBase:
    if suffix == ".gz":
        return gzip.GzipFile(fileobj=raw)
    if suffix == ".xz":
        return lzma.LZMAFile(raw)
    return raw


class TextFile:
    r"""Lines of a text file, read once; a context manager.

    Only ``\n`` ends a line (a ``\r`` before it is dropped): other separators of Unicode, which ``str.splitlines``
    cuts at, are text. A byte-order mark at the start is dropped.

    Attributes:
        lines: how many lines were read so far.
        digest: running sha256 of the decompressed bytes.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.size = path.stat().st_size
        self.lines = 0
        self.digest = hashlib.sha256()
        self._raw = path.open("rb")
        self._stream = _decompressed(path.suffix, self._raw)

    def __enter__(self) -> TextFile:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stream.close()
        self._raw.close()

    @property
    def position(self) -> int:
        """Bytes of the file (compressed, if it is) read so far."""
        return self._raw.tell()

    def __iter__(self) -> Iterator[str]:
        """Lines without their ends.

        Raises:
            DataError: a line is not UTF-8 or too long, or the compressed data is damaged.
        """
        try:
            for content in self._contents():
                yield from self._split(content)
        except (EOFError, OSError, MemoryError, lzma.LZMAError, zlib.error) as error:
            raise DataError(f"{self.path}: damaged or truncated after line {self.lines} ({error})") from error

    def _contents(self) -> Iterator[bytes]:
        """Whole lines as they come in, many at a time, without the byte-order mark at the start."""
        mark = BYTE_ORDER_MARK
        rest = bytearray()  # of a line that has not ended
        while block := self._stream.read1(READ_BYTES):
            self.digest.update(block)
            end = block.rfind(b"\n") + 1
            if len(rest) + (block.find(b"\n") + 1 or len(block)) > MAX_LINE_BYTES:
                raise DataError(f"{self.path}:{self.lines + 1}: longer than {MAX_LINE_BYTES >> 20} MiB; is it text?")
            if end:
                yield (bytes(rest) + block[:end]).removeprefix(mark)
                mark = b""
                rest.clear()
            rest += block[end:]
        if rest:
            yield bytes(rest).removeprefix(mark)

    def _split(self, content: bytes) -> Iterator[str]:
        """Whole lines, one by one."""
        try:
            lines = content.decode("utf-8").split("\n")
        except UnicodeDecodeError as error:
            start = content.rfind(b"\n", 0, error.start) + 1
            if start:
                yield from self._split(content[:start])
            byte, column = content[error.start], error.start - start + 1
            raise DataError(f"{self.path}:{self.lines + 1}: not UTF-8 (byte {byte:#04x} at column {column})") from error
        if content.endswith(b"\n"):
            lines.pop()
        for line in lines:
            self.lines += 1
            yield line.removesuffix("\r")


class MonolingualText:
    """Lines of one file as pairs whose source is empty; a context manager."""

    def __init__(self, target: Path) -> None:
        self.target = TextFile(target)

    def __enter__(self) -> MonolingualText:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.target.__exit__(kind, error, trace)

    @property
    def size(self) -> int:
        """Bytes of the file on disk."""
        return self.target.size

    @property
    def position(self) -> int:
        """Bytes of the file read so far."""
        return self.target.position

    def __iter__(self) -> Iterator[tuple[str, str]]:
        """The empty string and a line.

        Raises:
            DataError: the file cannot be read.
        """
        return (("", line) for line in self.target)


class ParallelText:
    """Line pairs of two files, read once and in step; a context manager."""

    def __init__(self, source: Path, target: Path) -> None:
        self.source = TextFile(source)
        self.target = TextFile(target)

    def __enter__(self) -> ParallelText:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.source.__exit__(kind, error, trace)
        self.target.__exit__(kind, error, trace)

    @property
    def size(self) -> int:
        """Bytes of both files on disk."""
        return self.source.size + self.target.size

    @property
    def position(self) -> int:
        """Bytes of both files read so far."""
        return self.source.position + self.target.position

    def __iter__(self) -> Iterator[tuple[str, str]]:
        """Pairs of lines.

        Raises:
            DataError: the files have different numbers of lines (both are given), or one cannot be read.
        """
        source, target = iter(self.source), iter(self.target)
        for left, right in zip_longest(source, target):
            if left is None or right is None:
                break
            yield left, right
        else:
            return
        for _ in chain(source, target):
            pass
        raise DataError(
            f"{self.source.path} has {self.source.lines} lines but {self.target.path} has {self.target.lines}: "
            "line n of one must translate line n of the other"
        )
