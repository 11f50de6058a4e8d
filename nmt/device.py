"""Where computation runs."""

from __future__ import annotations

import contextlib
import ctypes
import os
import resource
import sys
from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING

from nmt.config import ConfigError

if TYPE_CHECKING:
    import torch


ONEDNN_PRIMITIVES = "64"
"""On the CPU, bf16 products go through oneDNN, which keeps 1024 kernels by default, one a shape: as batches have ever
other shapes, that grows to gigabytes. So few lose no speed."""

SPIN_COUNT = "1000"
"""How often a waiting thread of libgomp, PyTorch's OpenMP on Linux, looks for work before it sleeps. By default that is
300,000 times, a few milliseconds, in which it holds a core that a neighbour, or the thread it waits for, could use."""

_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3  # of malloc.h
_KEPT_BYTES = 1 << 30


class Device(Enum):
    """What ``device=`` takes."""

    auto = "auto"
    cpu = "cpu"
    cuda = "cuda"


def share_cores() -> None:
    """Let waiting threads give up their core soon; what the user set in the environment stays.

    libgomp reads the environment when it is loaded, so this comes before the first import of torch.
    """
    if not os.environ.keys() & {"GOMP_SPINCOUNT", "OMP_WAIT_POLICY"}:
        os.environ["GOMP_SPINCOUNT"] = SPIN_COUNT


def peak_memory_mib(device: torch.device) -> float:
    """Most memory used so far, in MiB: allocated on a CUDA device, resident in this process otherwise."""
    import torch

    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 2**20
    with contextlib.suppress(OSError, IndexError):  # where there is /proc: ru_maxrss starts with the parent's memory
        return int(Path("/proc/self/status").read_text().split("VmHWM:")[1].split()[0]) / 2**10
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
    _set_up_process()
    return torch.device("cuda" if available and choice is not Device.cpu else "cpu")


def _set_up_process() -> None:
    """Settings that must stand before the first product; what the user set in the environment stays.

    glibc hands large blocks back to the system as soon as they are freed and gets them anew, page by page, at the
    next step: a tenth of the time of decoding a batch. Here they are kept for reuse.
    """
    os.environ.setdefault("ONEDNN_PRIMITIVE_CACHE_CAPACITY", ONEDNN_PRIMITIVES)  # read at oneDNN's first product
    if sys.platform == "linux" and not any(name.startswith("MALLOC_") for name in os.environ):
        mallopt = getattr(ctypes.CDLL(None), "mallopt", None)  # other C libraries have none
        if mallopt is not None:
            mallopt(_M_MMAP_THRESHOLD, _KEPT_BYTES)
            mallopt(_M_TRIM_THRESHOLD, _KEPT_BYTES)
