"""Weights laid out once for the matrix products of decoding on a CPU.

A decoding step multiplies a few rows by every matrix of the model. Plain products lay the weight out anew each time,
which costs more than the product itself; oneDNN takes a weight in its own blocked layout, made once. At 4 rows that is
two to four times faster, and in bfloat16, which halves the bytes read, twice that again (docs/performance.md).
"""

from __future__ import annotations

from typing import Any, TypeGuard
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn

from nmt.models.linear import LinearMap

_FASTEST_ROWS = 4
"""oneDNN's products with one to three rows take longer than with four: fewer are repeated."""


class PackedLinear(nn.Module):
    """A linear map for inference on a CPU: y = x W^T + b.

    Args:
        linear: what it replaces; float32 or bfloat16 on a CPU.
    """

    def __init__(self, linear: nn.Linear | LinearMap) -> None:
        super().__init__()
        self.in_features, self.out_features = linear.in_features, linear.out_features
        # Neither parameters nor buffers: the blocked layout can be neither saved, moved nor cast.
        self._bias = None if linear.bias is None else linear.bias.detach()
        weight = linear.matrix() if isinstance(linear, LinearMap) else linear.weight
        self._weight: Any = torch.ops.mkldnn._reorder_linear_weight(weight.detach().contiguous())

    def forward(self, x: Tensor) -> Tensor:
        """(..., in_features) to (..., out_features)."""
        num_rows = x.numel() // self.in_features
        if num_rows >= _FASTEST_ROWS:
            return torch.ops.mkldnn._linear_pointwise.default(x, self._weight, self._bias, "none", [], "")
        if num_rows == 0:
            return x.new_empty((*x.shape[:-1], self.out_features))
        rows = torch.cat([x.reshape(num_rows, self.in_features)] * -(-_FASTEST_ROWS // num_rows))
        y = torch.ops.mkldnn._linear_pointwise.default(rows, self._weight, self._bias, "none", [], "")
        return y[:num_rows].view(*x.shape[:-1], self.out_features)

    def extra_repr(self) -> str:
        return f"in_features={self.in_features}, out_features={self.out_features}"


def can_pack(dtype: torch.dtype) -> bool:
    """Whether this build of PyTorch and this processor have packed products in a number format."""
    available: bool = torch.backends.mkldnn.is_available()  # type: ignore[no-untyped-call]
    if not (available and hasattr(torch.ops.mkldnn, "_reorder_linear_weight")):
        return False
    if dtype is torch.bfloat16:
        return bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())
    return dtype is torch.float32


def prepare_inference(model: nn.Module, device: torch.device, dtype: torch.dtype) -> nn.Module:
    """Make a model ready to translate, and nothing else: it cannot be trained or saved afterwards.

    On a CPU every ``nn.Linear`` and every ``LinearMap`` that allows it is packed, where this build of PyTorch and the
    processor can.

    Args:
        model: changed in place; in evaluation mode.
        device: where it runs.
        dtype: number format of weights and activations.

    Returns:
        The same model.
    """
    model = model.eval().to(device, dtype)
    if device.type != "cpu" or not can_pack(dtype):
        return model
    packed: WeakKeyDictionary[nn.Module, PackedLinear] = WeakKeyDictionary()  # what modules share stays shared
    # No list of all modules here: it would keep the plain weights in memory until the last one is packed.
    for module in [m for m in model.modules() if not _can_be_packed(m)]:
        for name, child in module.named_children():
            if _can_be_packed(child):
                if child not in packed:
                    packed[child] = PackedLinear(child)
                setattr(module, name, packed[child])
    return model


def _can_be_packed(module: nn.Module) -> TypeGuard[nn.Linear | LinearMap]:
    return module.packs if isinstance(module, LinearMap) else type(module) is nn.Linear
