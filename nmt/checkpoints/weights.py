"""Weights straight from a file into a model: no second copy of them in memory."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import IO

import torch
from torch import Tensor

from nmt.config import DataError
from nmt.untrusted import parse_json

DTYPES = {
    "F64": torch.float64,
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "I64": torch.int64,
    "I32": torch.int32,
    "I16": torch.int16,
    "I8": torch.int8,
    "U8": torch.uint8,
    "BOOL": torch.bool,
    "C64": torch.complex64,
}
"""Number formats as safetensors names them."""


def read_into(path: Path, tensors: Mapping[str, Tensor]) -> None:
    """Fill tensors from a safetensors file.

    ``load_file`` maps the whole file, whose pages then count beside the model until the last tensor is gone.

    Args:
        path: a file whose header was checked, and that holds each tensor under its name and with its shape.
        tensors: on the CPU; cast where the file has another number format.

    Raises:
        DataError: a number format is unknown or of another kind than the tensor's, or the file ends too early.
    """
    with open(path, "rb", buffering=0) as file:
        length = int.from_bytes(file.read(8), "little")
        header = parse_json(file.read(length), str(path))
        for name in sorted(tensors, key=lambda name: header[name]["data_offsets"][0]):
            entry, tensor = header[name], tensors[name]
            dtype = DTYPES.get(entry["dtype"])
            if dtype is None or dtype.is_floating_point != tensor.is_floating_point():
                raise DataError(f"{path}: {name} holds {dtype or entry['dtype']}, the model needs {tensor.dtype}")
            direct = dtype is tensor.dtype and tensor.is_contiguous()
            target = tensor if direct else torch.empty(tensor.shape, dtype=dtype)
            file.seek(8 + length + entry["data_offsets"][0])
            _fill(file, target, path)
            if not direct:
                tensor.copy_(target)


def _fill(file: IO[bytes], target: Tensor, path: Path) -> None:
    """Read as many bytes as a contiguous tensor has; a single read may bring fewer."""
    room = target.detach().reshape(-1).view(torch.uint8).numpy().data
    done = 0
    while done < len(room):
        count = file.readinto(room[done:])  # type: ignore[attr-defined]
        if not count:
            raise DataError(f"{path}: truncated")
        done += count
