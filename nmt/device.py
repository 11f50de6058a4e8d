"""Where computation runs."""

from __future__ import annotations

import os
import resource
import sys
from enum import Enum
from typing import TYPE_CHECKING

from nmt.config import ConfigError

if TYPE_CHECKING:
    import torch


ONEDNN_PRIMITIVES = "64"
"""On the CPU, bf16 products go through oneDNN, which keeps 1024 kernels by default, one a shape: as batches have ever
other shapes, that grows to gigabytes. So few lose no speed."""


class Device(Enum):
    """What ``device=`` takes."""

    auto = "auto"
    cpu = "cpu"
    cuda = "cuda"


def peak_memory_mib(device: torch.device) -> float:
    """Most memory used so far, in MiB: allocated on a CUDA device, resident in this process otherwise."""
    import torch

    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 2**20
    kilobytes = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return kilobytes / (2**20 if sys.platform == "darwin" else 2**10)  # macOS counts bytes


def torch_device(choice: Device) -> torch.device:
    """The device to use.

    Raises:
        ConfigError: ``cuda`` was asked for, but there is none.
    """
    import torch

    available = torch.cuda.is_available()
    if choice is Device.cuda and not available:
        raise ConfigError("device=cuda: no CUDA device is available; valid options here: auto, cpu")
    os.environ.setdefault("ONEDNN_PRIMITIVE_CACHE_CAPACITY", ONEDNN_PRIMITIVES)  # read at oneDNN's first product
    return torch.device("cuda" if available and choice is not Device.cpu else "cpu")
