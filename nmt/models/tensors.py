"""The tensors of a model by name, and what fits into it."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from torch import Tensor, nn

from nmt.config import DataError
from nmt.untrusted import shorten


def model_tensors(model: nn.Module) -> dict[str, Tensor]:
    """Parameters and persistent buffers by name; a tied parameter stands under its first name only."""
    persistent = model.state_dict().keys()
    tensors: dict[str, Tensor] = {name: p.data for name, p in model.named_parameters()}
    tensors.update({name: b for name, b in model.named_buffers() if name in persistent})
    return tensors


def trained_parameters(module: nn.Module) -> list[nn.Parameter]:
    """The parameters of a module that ask for gradients."""
    return [parameter for parameter in module.parameters() if parameter.requires_grad]


def check_tensors(own: Mapping[str, Tensor], tensors: Mapping[str, Tensor], path: Path) -> None:
    """Compare tensors with those of a model: names, shapes, and whether they hold floating-point numbers.

    Args:
        own: see ``model_tensors``.
        tensors: what is to be loaded.
        path: where they lie, for messages.

    Raises:
        DataError: a tensor is missing, unknown, of another shape or of another kind of numbers.
    """
    check_shapes(own, {name: tuple(tensor.shape) for name, tensor in tensors.items()}, path)
    for name, tensor in own.items():
        if tensor.is_floating_point() != tensors[name].is_floating_point():
            raise DataError(f"{path}: {name} holds {tensors[name].dtype}, the model needs {tensor.dtype}")


def load_tensors(model: nn.Module, tensors: Mapping[str, Tensor], path: Path) -> None:
    """Copy tensors into a model if `check_tensors` finds nothing.

    Raises:
        DataError: it does; the model is as it was.
    """
    own = model_tensors(model)
    check_tensors(own, tensors, path)
    for name, tensor in own.items():
        tensor.copy_(tensors[name])


def check_shapes(own: Mapping[str, Tensor], shapes: Mapping[str, tuple[int, ...]], path: Path) -> None:
    """Compare a model's tensors with names and shapes of a file.

    Raises:
        DataError: a tensor is missing, unknown or of another shape.
    """
    missing, unknown = sorted(own.keys() - shapes.keys()), sorted(shapes.keys() - own.keys())
    if missing or unknown:
        raise DataError(
            f"{path}: does not fit the model of its configuration: {len(missing)} tensors missing "
            f"{shorten(missing[:2], 200)}, {len(unknown)} unknown {shorten(unknown[:2], 200)}"
        )
    for name, tensor in own.items():
        if tuple(tensor.shape) != shapes[name]:
            raise DataError(f"{path}: {name} has shape {shapes[name]}, the model needs {tuple(tensor.shape)}")
