"""Zip archives whose members lie in them as they are, which is what ``torch.save`` and ``np.savez`` write.

Members are read from the file by their places. Nothing is decompressed, so nothing is larger than the file.
"""

from __future__ import annotations

import io
import struct
import zipfile
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from nmt.config import DataError
from nmt.untrusted import shorten

MAX_DIRECTORY_BYTES = 1 << 24
"""Of the list of members: some 150,000 of them; each becomes an object of 1 KB."""

CHUNK = 1 << 20
_MALFORMED = (
    *(zipfile.BadZipFile, EOFError, struct.error, NotImplementedError, RuntimeError),
    *(ValueError, OverflowError),  # names that are no text, and offsets beyond any file
)


@dataclass(frozen=True)
class Member:
    """Where something lies in a file.

    Attributes:
        first: its first byte.
        size: in bytes.
        checksum: CRC-32 of its content; None where the file has none.
    """

    first: int
    size: int
    checksum: int | None = None


def read_directory(file: IO[bytes], path: Path, maker: str) -> dict[str, Member]:
    """The members of an archive by name.

    Args:
        file: the archive.
        path: its name, for messages.
        maker: what writes such archives, for messages.

    Raises:
        DataError: truncated, malformed, or a member is compressed, stands twice, or lies where another one does.
    """
    members: dict[str, Member] = {}
    size = file.seek(0, io.SEEK_END)
    try:
        for info in zipfile.ZipFile(_Cautious(file)).infolist():
            name = shorten(info.filename)
            if info.compress_type != zipfile.ZIP_STORED or info.file_size != info.compress_size:
                raise DataError(f"{path}: {name} is compressed; {maker} does not compress")
            if info.filename in members:
                raise DataError(f"{path}: {name} stands in it twice")
            file.seek(info.header_offset + 26)
            lengths = struct.unpack("<HH", file.read(4))  # of the name and of what follows it, before the content
            members[info.filename] = Member(info.header_offset + 30 + sum(lengths), info.file_size, info.CRC)
    except DataError:
        raise
    except _MALFORMED as error:
        raise DataError(f"{path}: truncated or not a file of {maker} ({shorten(error)})") from error
    if sum(member.size for member in members.values()) > size:
        raise DataError(f"{path}: its members claim more than the file holds")
    return members


def check_member(file: IO[bytes], path: Path, name: str, member: Member) -> None:
    """Compare a member with its checksum.

    Raises:
        DataError: it is truncated or damaged.
    """
    file.seek(member.first)
    left, checksum = member.size, 0
    while left:
        content = file.read(min(left, CHUNK))
        if not content:
            raise DataError(f"{path}: truncated")
        left, checksum = left - len(content), zlib.crc32(content, checksum)
    if member.checksum not in (None, checksum):
        raise DataError(f"{path}: {shorten(name)} is damaged (its checksum is another)")


def read_member(file: IO[bytes], path: Path, name: str, member: Member, most: int) -> bytes:
    """The content of a member.

    Args:
        file: the archive.
        path: its name, for messages.
        name: of the member.
        member: where it lies.
        most: bytes that it may have.

    Raises:
        DataError: it is longer, truncated or damaged.
    """
    if member.size > most:
        raise DataError(f"{path}: {shorten(name)} has {member.size} bytes, but {most} are the most that are read")
    check_member(file, path, name, member)
    file.seek(member.first)
    return file.read(member.size)


class _Cautious:
    """A file of which no more than ``MAX_DIRECTORY_BYTES`` can be asked at once, whatever length an archive claims."""

    def __init__(self, file: IO[bytes]) -> None:
        self.file = file
        self.seek, self.tell = file.seek, file.tell

    def read(self, count: int = -1) -> bytes:
        if count < 0:
            place = self.file.tell()
            count = self.file.seek(0, io.SEEK_END) - place
            self.file.seek(place)
        if count > MAX_DIRECTORY_BYTES:
            raise ValueError(f"a list of members of {count} bytes")
        return self.file.read(count)
