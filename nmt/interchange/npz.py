"""Archives of ``np.savez`` with numbers alone: no array is an object, nothing is compressed, nothing is unpickled.

Headers are matched by a pattern: numpy evaluates them as a Python literal, and lets through whatever a hostile one
raises.
"""

from __future__ import annotations

import math
import re
from pathlib import Path
from typing import IO

import torch
from torch import Tensor

from nmt.config import DataError
from nmt.interchange.archive import Member, check_member, read_directory
from nmt.untrusted import file_size, shorten

MAX_HEADER = 4096
MAX_DIMS = 4
_HEADER = re.compile(
    rb"\x93NUMPY\x01\x00(?P<length>..)"
    rb"\{'descr': '(?P<dtype>[<|]\w{1,8})', 'fortran_order': False, 'shape': \((?P<shape>[\d, ]*)\),? ?\} *\n",
    re.DOTALL,
)
_DTYPES = {
    **{b"<f4": torch.float32, b"<f2": torch.float16, b"<f8": torch.float64},
    **{b"|i1": torch.int8, b"<i1": torch.int8, b"|u1": torch.uint8, b"|S1": torch.uint8},
}
"""Numbers of weights and of text."""


def read_npz(path: Path, maker: str) -> dict[str, Tensor]:
    """All arrays of an archive, by name, as they are.

    Args:
        path: the file.
        maker: what writes such files, for messages.

    Raises:
        DataError: missing, truncated, damaged, compressed, or an array is of a kind that is no weight's.
    """
    try:
        file_size(path)  # a pipe could be read without end
        with open(path, "rb") as file:
            members = read_directory(file, path, maker)
            return {name.removesuffix(".npy"): _read(file, path, name, member) for name, member in members.items()}
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror or error})") from error


def _read(file: IO[bytes], path: Path, name: str, member: Member) -> Tensor:
    check_member(file, path, name, member)
    file.seek(member.first)
    header = _HEADER.match(file.read(min(MAX_HEADER, member.size)))
    dtype = _DTYPES.get(header["dtype"]) if header else None
    if header is None or dtype is None or int.from_bytes(header["length"], "little") != header.end() - 10:
        raise DataError(f"{path}: {shorten(name)} is not an array of numbers in the order of C")
    shape = [int(size) for size in re.findall(rb"\d{1,12}", header["shape"])]
    count = math.prod(shape)
    if len(shape) > MAX_DIMS or count * dtype.itemsize != member.size - header.end():
        raise DataError(f"{path}: {shorten(name)} has another size than its shape says")
    if not count:
        return torch.empty(shape, dtype=dtype)
    file.seek(member.first + header.end())
    return torch.frombuffer(bytearray(file.read(count * dtype.itemsize)), dtype=dtype).view(shape)
