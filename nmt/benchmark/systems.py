"""The choice between the systems that can be measured."""

from __future__ import annotations

from collections.abc import Sequence

from nmt.benchmark.options import OWN, SystemSpec
from nmt.benchmark.own import OwnSystem
from nmt.benchmark.system import System
from nmt.device import Device


def load_system(spec: SystemSpec, device: Device, threads: int, plugins: Sequence[str]) -> System:
    """Open a system.

    Args:
        spec: which.
        device: where it runs.
        threads: CPU threads that it may use.
        plugins: modules with components that our models need.

    Raises:
        ConfigError: a package is missing, or the device or the format is not there.
        DataError: a file is missing, truncated or foreign.
    """
    import torch

    torch.set_num_threads(threads)
    if spec.system == OWN:
        return OwnSystem(spec, device, plugins)
    from nmt.benchmark.peers import CTranslate2System, HuggingFaceSystem

    if spec.system == "hf":
        return HuggingFaceSystem(spec, device)
    return CTranslate2System(spec, device, threads)
