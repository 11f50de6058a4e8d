"""Where a figure comes from: when, by which command, on what, with which versions."""

from __future__ import annotations

import os
import platform
import subprocess
import sys
import time
from collections.abc import Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

PACKAGES = ("nmt", "torch", "numpy", "sentencepiece", "sacrebleu", "hydra-core", "safetensors")


def provenance(*packages: str) -> dict[str, Any]:
    """The facts as plain values.

    Args:
        packages: whose versions matter beside ``PACKAGES``; None where one is not installed.
    """
    return {
        "time": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
        "command": typed_command(sys.orig_argv),  # sys.argv holds what Hydra is given
        "python": platform.python_version(),
        "platform": platform.platform(),
        "processor": _processor(),
        "versions": {name: _version(name) for name in (*PACKAGES, *packages)},
        "git": _git_revision(),
    }


def typed_command(words: Sequence[str]) -> list[str]:
    """A command as a person types it: the program without its folder, and without the interpreter that runs it.

    Args:
        words: of the process, its interpreter among them.
    """
    for number, word in enumerate(words):
        if Path(word).name.startswith("nmt-"):
            return [Path(word).name, *words[number + 1 :]]
        if word.startswith("nmt.commands."):
            return [f"nmt-{word.removeprefix('nmt.commands.').rstrip('_')}", *words[number + 1 :]]
        if word.endswith(".py"):
            return ["python", *words[number:]]
    return [Path(word).name if number == 0 else word for number, word in enumerate(words)]


def num_cores() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _processor() -> str:
    """Name of the processor and the number of cores that may be used."""
    name = platform.processor() or platform.machine()
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
        name = next(line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        pass  # not Linux, or a processor without a name
    return f"{name}, {num_cores()} cores"


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def _git_revision() -> str | None:
    """Revision of the source that runs, with ``-dirty`` where it was changed; None outside a repository."""
    command = ["git", "-C", str(Path(__file__).parent), "describe", "--always", "--dirty", "--abbrev=12"]
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True, timeout=10).stdout.strip()
    except (OSError, subprocess.SubprocessError):
        return None
