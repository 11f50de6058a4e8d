"""A module that is used and never learned."""

from __future__ import annotations

from typing import Any, Generic, TypeVar

import torch
from torch import nn

M = TypeVar("M", bound=nn.Module)


class Frozen(Generic[M]):
    """A module in evaluation mode, without gradients, whatever happens to the module that holds it.

    It is no ``nn.Module``: who holds it has neither its parameters nor its buffers, does not move it, and does not set
    its mode.

    Args:
        module: what is used; its parameters stop asking for gradients.
        device: where it goes.

    Attributes:
        module: to read its parts.
    """

    def __init__(self, module: M, device: torch.device) -> None:
        self.module = module.to(device).eval().requires_grad_(False)

    @torch.no_grad()
    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """The module's own result, without a graph."""
        return self.module(*args, **kwargs)
