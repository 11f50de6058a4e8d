"""The standard Transformer as plain data: what other toolkits can hold of a checkpoint.

Other toolkits have one fixed architecture with switches. A checkpoint is read as that architecture or refused; whatever
it holds beyond it is named in the message. The names of the tensors are those of our own checkpoints.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import MISSING, dataclass, fields
from enum import Enum
from pathlib import Path
from typing import Any

from torch import Tensor

from nmt.checkpoints.checkpoint import load_model
from nmt.config import ConfigError, DataError, parse_options
from nmt.generation.defaults import read_defaults, resolve_search
from nmt.generation.options import SearchOptions
from nmt.models.language_model import LanguageModel
from nmt.registry import find
from nmt.text.vocabulary import VocabularyPair

_STACK = {
    "self_attention": ("multihead",),
    "feed_forward": ("dense",),
    "layer": ("transformer",),
    "stack": ("sequential",),
}
_SHARED = {
    "embedding": ("learned",),
    "norm": ("layer_norm", "rms_norm"),
    "linear": ("dense",),
    "output": ("linear",),
}

_CARRIED: dict[str, set[str]] = {
    "self_attention": {"num_heads", "bias"},
    "cross_attention": {"num_heads", "bias"},
    "feed_forward": {"ffn_dim", "activation", "bias"},
    "layer": {"norm_position"},
    "stack": {"layer_drop"},  # acts in training only
    "embedding": {"share", "positions", "max_positions", "scale"},
    "norm": {"eps"},
    "linear": set(),
    "output": {"bias"},
}
"""Options that an export carries over; any other must have its default, which is the standard Transformer's way."""


@dataclass(frozen=True)
class StackShape:
    """One side of a model.

    Attributes:
        key: its node in the configuration, for messages.
        prefix: what the names of its tensors start with.
        layers: their number.
        embed_dim: width of the residual stream.
        num_heads: of self- and cross-attention.
        ffn_dim: inner width of the feed-forward sub-layer; twice as many rows in the matrix where gated.
        activation: as in ``feed_forward.activation``.
        pre_norm: norms stand before the sub-layers and one at the end; else after each.
    """

    key: str
    prefix: str
    layers: int
    embed_dim: int
    num_heads: int
    ffn_dim: int
    activation: str
    pre_norm: bool


@dataclass(frozen=True)
class StandardTransformer:
    """A checkpoint that is the standard Transformer.

    Attributes:
        encoder: the source side.
        decoder: the target side.
        norm: ``layer_norm`` or ``rms_norm``.
        eps: of the norms.
        share: which matrices are one: ``all``, ``decoder`` or ``none``.
        positions: ``sinusoidal``, ``learned`` or ``none``.
        max_positions: rows of a table of positions.
        scale: word vectors are multiplied by sqrt(embed_dim).
        tensors: float32, under the names of our checkpoints; shared ones under every name.
        vocabularies: of both sides.
        source_language: its code.
        target_language: its code.
        search: how it is searched by default.
    """

    encoder: StackShape
    decoder: StackShape
    norm: str
    eps: float
    share: str
    positions: str
    max_positions: int
    scale: bool
    tensors: Mapping[str, Tensor]
    vocabularies: VocabularyPair
    source_language: str
    target_language: str
    search: SearchOptions

    def position_table(self, side: str) -> Tensor:
        """What is added to the word vectors of ``encoder`` or ``decoder``: float32 (max_positions, embed_dim)."""
        part = "embedding.source" if side == "encoder" else "embedding.target"
        if self.positions == "none":
            words = self.tensors[f"{part}.words.weight"]
            return words.new_zeros(self.max_positions, words.size(1))
        return self.tensors[f"{part}.positions" if self.positions == "learned" else f"{part}.table"]


def read_standard(checkpoint: str | Path, to: str) -> StandardTransformer:
    """Read a checkpoint as the standard Transformer.

    Args:
        checkpoint: a run or a checkpoint folder.
        to: the format that is wanted, for messages.

    Raises:
        ConfigError: no checkpoint there, or a component or an option that the standard Transformer does not have.
        DataError: a file is missing, truncated or foreign.
    """
    loaded = load_model(checkpoint)
    if isinstance(loaded.model, LanguageModel):
        raise _refused("task.name", loaded.config.task.name, ("translation",), to)
    node = loaded.config.model
    stacks = {}
    for side, prefix in (("encoder", "encoder"), ("decoder", "decoder.stack")):
        key, shape = f"model.{side}", node[side]
        slots = _STACK if side == "encoder" else {**_STACK, "cross_attention": ("multihead",)}
        if side == "decoder" and shape.name != "autoregressive":
            raise _refused(f"{key}.name", shape.name, ("autoregressive",), to)
        if shape.layers < 1:
            raise ConfigError(f"{key}.layers={shape.layers} cannot be exported to {to}: at least 1 is needed")
        parts = {slot: _component(slot, shape[slot], f"{key}.{slot}", names, to)[1] for slot, names in slots.items()}
        heads = {slot: parts[slot].num_heads or shape.num_heads for slot in parts if slot.endswith("attention")}
        if len(set(heads.values())) > 1:
            raise ConfigError(
                f"{key}.cross_attention.num_heads={heads['cross_attention']} cannot be exported to {to}: "
                f"it must be that of self_attention, {heads['self_attention']}"
            )
        stacks[side] = StackShape(
            key=key,
            prefix=prefix,
            layers=shape.layers,
            embed_dim=shape.embed_dim,
            num_heads=heads["self_attention"],
            ffn_dim=parts["feed_forward"].ffn_dim or shape.ffn_dim,
            activation=parts["feed_forward"].activation.value,
            pre_norm=parts["layer"].norm_position.value == "pre",
        )
    norm, norm_options = _component("norm", node.norm, "model.norm", _SHARED["norm"], to)
    _, embedding = _component("embedding", node.embedding, "model.embedding", _SHARED["embedding"], to)
    _component("output", node.output, "model.output", _SHARED["output"], to)
    linear = dict(node.get("linear") or {"name": "dense"})
    for role, other in (linear.pop("by_role", None) or {}).items():
        _component("linear", other, f"model.linear.by_role.{role}", _SHARED["linear"], to)
    _component("linear", linear, "model.linear", _SHARED["linear"], to)
    tensors: dict[str, Tensor] = {n: p.data for n, p in loaded.model.named_parameters(remove_duplicate=False)}
    tensors.update(loaded.model.named_buffers(remove_duplicate=False))
    strange = sorted(name for name, t in tensors.items() if not t.is_floating_point())
    if strange:
        raise DataError(f"{loaded.path}: {strange[0]} holds no floating-point numbers; export the unquantised model")
    return StandardTransformer(
        encoder=stacks["encoder"],
        decoder=stacks["decoder"],
        norm=norm,
        eps=norm_options.eps,
        share=embedding.share.value,
        positions=embedding.positions.value,
        max_positions=embedding.max_positions,
        scale=embedding.scale,
        tensors={name: t.float() for name, t in tensors.items()},
        vocabularies=loaded.vocabularies,
        source_language=str(loaded.config.checkpoint.source_language),
        target_language=str(loaded.config.checkpoint.target_language),
        search=resolve_search({}, {str(checkpoint): read_defaults(loaded.config, loaded.path)}),
    )


def _component(slot: str, node: Any, key: str, names: tuple[str, ...], to: str) -> tuple[str, Any]:
    """Name and parsed options of a component that must be one of ``names``."""
    if node["name"] not in names:
        raise _refused(f"{key}.name", node["name"], names, to)
    schema = find(slot, node["name"], key).options
    options: Any = parse_options(schema, {k: v for k, v in node.items() if k != "name"}, key=key)
    for item in fields(schema):
        default = item.default if item.default_factory is MISSING else item.default_factory()
        value = getattr(options, item.name)
        if item.name not in _CARRIED[slot] and value != default:
            shown, wanted = (v.value if isinstance(v, Enum) else v for v in (value, default))
            raise _refused(f"{key}.{item.name}", shown, (wanted,), to)
    return str(node["name"]), options


def _refused(key: str, value: object, valid: tuple[object, ...], to: str) -> ConfigError:
    return ConfigError(f"{key}={value} cannot be exported to {to}; valid options: {', '.join(map(str, valid))}")


def require_equal(model: StandardTransformer, to: str, **names: str) -> None:
    """Refuse a model whose two sides differ where a format has one switch for both.

    Args:
        model: to be exported.
        to: the format, for messages.
        **names: field of ``StackShape`` to its key below ``model.encoder``.

    Raises:
        ConfigError: they differ.
    """
    for name, key in names.items():
        left, right = getattr(model.encoder, name), getattr(model.decoder, name)
        if left != right:
            if name == "pre_norm":
                left, right = ("pre" if value else "post" for value in (left, right))
            raise ConfigError(
                f"model.decoder.{key}={right} cannot be exported to {to}: it must be that of the encoder, {left}"
            )


def model_node(
    encoder: StackShape,
    decoder: StackShape,
    *,
    share: str,
    positions: str,
    max_positions: int,
    scale: bool,
    output_bias: bool,
    decoder_self_attention: str = "multihead",
    eps: float = 1e-5,
) -> dict[str, Any]:
    """The node ``model`` of a standard Transformer with layer norms; arguments as in `StandardTransformer`.

    Its decoder may have another component in the place of self-attention.
    """
    stacks: dict[str, Any] = {}
    for side, shape in (("encoder", encoder), ("decoder", decoder)):
        stacks[side] = {
            "layers": shape.layers,
            "embed_dim": shape.embed_dim,
            "ffn_dim": shape.ffn_dim,
            "num_heads": shape.num_heads,
            "self_attention": {"name": "multihead"},
            "feed_forward": {"name": "dense", "activation": shape.activation},
            "layer": {"name": "transformer", "norm_position": "pre" if shape.pre_norm else "post"},
            "stack": {"name": "sequential", "layer_drop": 0.0},
        }
    stacks["decoder"] |= {"name": "autoregressive", "cross_attention": {"name": "multihead"}}
    stacks["decoder"]["self_attention"] = {"name": decoder_self_attention}
    embedding = {"share": share, "positions": positions, "max_positions": max_positions, "scale": scale}
    return {
        **stacks,
        "embedding": {"name": "learned", **embedding},
        "norm": {"name": "layer_norm", "eps": eps},
        "output": {"name": "linear", "bias": output_bias},
        "dropout": 0.1,
        "attention_dropout": 0.0,
        "activation_dropout": 0.0,
    }
