"""The parts of a layer under the names that Marian gives them."""

from __future__ import annotations

from collections.abc import MutableMapping

import torch
from torch import Tensor

from nmt.config import DataError
from nmt.interchange.layers import take
from nmt.interchange.standard import StackShape


def take_layer(
    tensors: MutableMapping[str, Tensor],
    side: str,
    ours: str,
    theirs: str,
    shape: StackShape,
    recurrent: bool,
    file: str,
) -> dict[str, Tensor]:
    """A layer under our names, taken out of ``tensors``.

    Args:
        tensors: holds Marian's names.
        side: ``encoder`` or ``decoder``.
        ours: what our names start with.
        theirs: what Marian's start with.
        shape: of the side.
        recurrent: the decoder has an SSRU for self-attention.
        file: for messages.

    Raises:
        DataError: a tensor is missing, or shapes do not fit each other.
    """
    suffix = "_pre" if shape.pre_norm else ""
    linear = {"feed_forward.inner": (f"{theirs}_ffn", "1"), "feed_forward.outer": (f"{theirs}_ffn", "2")}
    norms = {"around_feed_forward.norm": f"{theirs}_ffn_ffn"}
    found: dict[str, Tensor] = {}
    if side == "decoder" and recurrent:
        parts = [take(tensors, f"{theirs}_rnn_{name}", file) for name in ("Wf", "W")]
        found[f"{ours}.self_attention.project.weight"] = _stacked(parts, f"{theirs}_rnn_W", file).t()
        found[f"{ours}.self_attention.gate_bias"] = take(tensors, f"{theirs}_rnn_bf", file)
        norms["around_self.norm"] = f"{theirs}_rnn" if shape.pre_norm else f"{theirs}_rnn_ffn"
    else:
        linear |= {"self_attention.qkv": (f"{theirs}_self", "qkv"), "self_attention.out": (f"{theirs}_self", "o")}
        norms["around_self.norm"] = f"{theirs}_self_Wo"
    if side == "decoder":
        linear |= {
            "cross_attention.q": (f"{theirs}_context", "q"),
            "cross_attention.kv": (f"{theirs}_context", "kv"),
            "cross_attention.out": (f"{theirs}_context", "o"),
        }
        norms["around_cross.norm"] = f"{theirs}_context_Wo"
    for part, (prefix, letters) in linear.items():
        weights = [take(tensors, f"{prefix}_W{letter}", file) for letter in letters]
        found[f"{ours}.{part}.weight"] = _stacked(weights, f"{prefix}_W{letters}", file).t()
        biases = [take(tensors, f"{prefix}_b{letter}", file) for letter in letters]
        if any(bias.dim() != 1 for bias in biases):
            raise DataError(f"{file}: {prefix}_b{letters} are not biases of one row")
        found[f"{ours}.{part}.bias"] = torch.cat(biases)
    for part, prefix in norms.items():
        found |= take_norm(tensors, f"{ours}.{part}", prefix, suffix, file)
    return found


def _stacked(weights: list[Tensor], name: str, file: str) -> Tensor:
    """Matrices side by side."""
    if any(weight.dim() != 2 or len(weight) != len(weights[0]) for weight in weights):
        raise DataError(f"{file}: {name} are not matrices of as many rows")
    return torch.cat(weights, dim=1)


def take_norm(
    tensors: MutableMapping[str, Tensor], ours: str, theirs: str, suffix: str, file: str
) -> dict[str, Tensor]:
    """A norm under our names, taken out of ``tensors``; ``suffix`` is ``_pre`` where it stands before a sub-layer.

    Raises:
        DataError: it is missing.
    """
    names = {"weight": "scale", "bias": "bias"}
    return {f"{ours}.{kind}": take(tensors, f"{theirs}_ln_{name}{suffix}", file) for kind, name in names.items()}
