"""The parts of a layer under the names that fairseq gave them and Hugging Face took over."""

from __future__ import annotations

from collections.abc import Mapping, MutableMapping

import torch
from torch import Tensor

from nmt.config import DataError

MAX_LAYERS = 1000
"""Of one side: as deep as any was trained (Wang et al. 2022, arXiv:2203.00555). The objects that a layer is built of
take more memory than the names of its tensors."""

_SELF = {
    "self_attention.qkv": ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"),
    "self_attention.out": ("self_attn.out_proj",),
    "around_self.norm": ("self_attn_layer_norm",),
}
_CROSS = {
    "cross_attention.q": ("encoder_attn.q_proj",),
    "cross_attention.kv": ("encoder_attn.k_proj", "encoder_attn.v_proj"),
    "cross_attention.out": ("encoder_attn.out_proj",),
    "around_cross.norm": ("encoder_attn_layer_norm",),
}
_FEED_FORWARD = {
    "feed_forward.inner": ("fc1",),
    "feed_forward.outer": ("fc2",),
    "around_feed_forward.norm": ("final_layer_norm",),
}
PARTS = {"encoder": {**_SELF, **_FEED_FORWARD}, "decoder": {**_SELF, **_CROSS, **_FEED_FORWARD}}
"""By side: our part, and theirs; where they have several, ours holds their rows one after the other."""


def to_theirs(tensors: Mapping[str, Tensor], side: str, ours: str, theirs: str) -> dict[str, Tensor]:
    """A layer of ours under their names; where ours has no bias, zeros stand for it.

    Args:
        tensors: holds our names.
        side: ``encoder`` or ``decoder``.
        ours: what our names start with.
        theirs: what theirs start with.
    """
    result = {}
    for part, names in PARTS[side].items():
        weight = tensors[f"{ours}.{part}.weight"]
        bias = tensors.get(f"{ours}.{part}.bias", weight.new_zeros(len(weight)))
        for name, w, b in zip(names, weight.chunk(len(names)), bias.chunk(len(names))):
            result[f"{theirs}.{name}.weight"], result[f"{theirs}.{name}.bias"] = w, b
    return result


def to_ours(tensors: MutableMapping[str, Tensor], side: str, theirs: str, ours: str, file: str) -> dict[str, Tensor]:
    """A layer of theirs under our names, taken out of ``tensors``.

    Args:
        tensors: holds their names.
        side: ``encoder`` or ``decoder``.
        theirs: what their names start with.
        ours: what ours start with.
        file: for messages.

    Raises:
        DataError: a tensor is missing, or shapes do not fit.
    """
    result = {}
    for part, names in PARTS[side].items():
        for kind in ("weight", "bias"):
            pieces = [take(tensors, f"{theirs}.{name}.{kind}", file) for name in names]
            if len({piece.shape for piece in pieces}) > 1:
                raise DataError(f"{file}: {theirs}.{names[0]}.{kind} and {names[-1]} have different shapes")
            result[f"{ours}.{part}.{kind}"] = torch.cat(pieces)
    return result


def take(tensors: MutableMapping[str, Tensor], name: str, file: str) -> Tensor:
    """Remove and return a tensor.

    Raises:
        DataError: it is missing.
    """
    if name not in tensors:
        raise DataError(f"{file}: {name} is missing")
    return tensors.pop(name)


def count_layers(tensors: Mapping[str, Tensor], prefix: str, file: str) -> int:
    """How many of ``PREFIX.layers.0``, ``PREFIX.layers.1``, ... there are.

    Raises:
        DataError: more than ``MAX_LAYERS``.
    """
    start = f"{prefix}.layers."
    count = len({name[len(start) :].split(".")[0] for name in tensors if name.startswith(start)})
    if count > MAX_LAYERS:
        raise DataError(f"{file}: {count} layers in the {prefix}; {MAX_LAYERS} are the most that are read")
    return count
