"""A module that is used and never learned."""

from __future__ import annotations

from typing import Any, Generic, TypeVar

import torch
from torch import Tensor, nn

M = TypeVar("M", bound=nn.Module)


class Frozen(Generic[M]):
    """A module in evaluation mode, without gradients, whatever happens to the module that holds it.

    It is no ``nn.Module``: who holds it has neither its parameters nor its buffers, and does not set its mode. It moves
    by itself to the device of the tensors that it is given.

    Args:
        module: what is used; its parameters stop asking for gradients.

    Attributes:
        module: to read its parts.
    """

    def __init__(self, module: M) -> None:
        self.module = module.eval().requires_grad_(False)
        self._device: torch.device | None = None

    @torch.no_grad()
    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """The module's own result, without a graph."""
        device = next((value.device for value in (*args, *kwargs.values()) if isinstance(value, Tensor)), None)
        if device is not None and device != self._device:
            self.module.to(device)
            self._device = device
        return self.module(*args, **kwargs)
