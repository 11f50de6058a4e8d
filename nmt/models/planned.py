"""Models without values: what sizes a configuration asks for, and models whose weights come from a file."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules import module as hooks
from torch.overrides import TorchFunctionMode

from nmt.config import DataError

RANDOM = (
    Tensor.normal_,
    Tensor.uniform_,
    nn.init.normal_,
    nn.init.uniform_,
    nn.init.xavier_uniform_,
    nn.init.xavier_normal_,
    nn.init.kaiming_uniform_,
    nn.init.kaiming_normal_,
    nn.init.trunc_normal_,
)
"""What fills a tensor with random numbers."""


class Unfilled(TorchFunctionMode):
    """Leaves out random values; parameters made inside hold what was in memory, until they are loaded.

    Drawing the values of a model takes longer than reading them from a file. On the meta device there are none, and
    torch loads a compiler to say so (1 s).
    """

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        if func in RANDOM:
            return args[0] if args else kwargs["tensor"]
        return func(*args, **kwargs)


@contextlib.contextmanager
def sizes_only(tensors: int) -> Iterator[None]:
    """Modules that are built inside have shapes and no values.

    Args:
        tensors: how many the model should have; building many more parts than such a model needs is stopped.

    Raises:
        DataError: it was stopped.
    """
    most = 64 + 16 * tensors
    count = 0

    def seen(*_: object) -> None:
        nonlocal count
        count += 1
        if count > most:
            raise DataError(f"its configuration describes a model with more than the {tensors} tensors of its file")

    handles = [
        hooks.register_module_module_registration_hook(seen),
        hooks.register_module_parameter_registration_hook(seen),
    ]
    try:
        with torch.device("meta"), Unfilled():
            yield
    finally:
        for handle in handles:
            handle.remove()
