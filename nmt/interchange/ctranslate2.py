"""Models for CTranslate2 (OpenNMT/CTranslate2; Klein et al. 2020, WNGT efficiency task).

CTranslate2 works on pieces: the caller encodes with the sentencepiece model, which is copied beside. The source ends
with EOS and the target starts with BOS there as here; the configuration says so, callers add neither.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from torch import Tensor

from nmt.config import ConfigError
from nmt.files import staged_folder
from nmt.interchange.standard import StackShape, StandardTransformer
from nmt.text.vocabulary import BOS, EOS, UNK, Vocabulary

ACTIVATIONS = {
    "relu": "RELU",
    "gelu": "GELU",
    "silu": "SWISH",
    "glu": "Sigmoid",
    "reglu": "RELU",
    "geglu": "GELU",
    "swiglu": "SWISH",
}
GATED = ("glu", "reglu", "geglu", "swiglu")


def write_ctranslate2(model: StandardTransformer, out: Path) -> None:
    """Write a folder that ``ctranslate2.Translator`` opens, with the sentencepiece model(s) beside.

    Weights stay in float32; ``compute_type`` chooses another format when the folder is opened.

    Args:
        model: what to write.
        out: absolute path of the folder.

    Raises:
        ConfigError: ctranslate2 is not installed.
    """
    try:
        from ctranslate2.specs import TransformerSpec
    except ImportError as error:
        raise ConfigError("to=ctranslate2 needs the package ctranslate2: pip install 'nmt[peers]'") from error
    spec = TransformerSpec(_stack(model, model.encoder, "encoder"), _stack(model, model.decoder, "decoder"))
    _linear(spec.decoder.projection, model.tensors, "output.projection")
    spec.register_source_vocabulary(_pieces(model.vocabularies.source))
    spec.register_target_vocabulary(_pieces(model.vocabularies.target))
    target = model.vocabularies.target
    spec.config.unk_token, spec.config.bos_token = target.piece(UNK), target.piece(BOS)
    spec.config.eos_token = target.piece(EOS)
    spec.config.decoder_start_token = target.piece(BOS)
    spec.config.add_source_eos = True
    spec.config.layer_norm_epsilon = model.eps
    spec.validate()
    spec.optimize()  # shared matrices once
    with staged_folder(out) as folder:
        spec.save(str(folder))
        model.vocabularies.save(folder)


def _pieces(vocabulary: Vocabulary) -> list[str]:
    return [vocabulary.piece(i) for i in range(len(vocabulary))]


def _stack(model: StandardTransformer, shape: StackShape, side: str) -> Any:
    """The specification of one side, filled."""
    from ctranslate2.specs import transformer_spec
    from ctranslate2.specs.common_spec import Activation

    encoder = side == "encoder"
    kind = transformer_spec.TransformerEncoderSpec if encoder else transformer_spec.TransformerDecoderSpec
    gated = shape.activation in GATED
    spec = kind(
        shape.layers,
        shape.num_heads,
        pre_norm=shape.pre_norm,
        activation=Activation[ACTIVATIONS[shape.activation]],
        ffn_glu=gated,
        rms_norm=model.norm == "rms_norm",
    )
    tensors = model.tensors
    words = spec.embeddings[0] if encoder else spec.embeddings
    words.weight = tensors[f"embedding.{'source' if encoder else 'target'}.words.weight"]
    spec.scale_embeddings = model.scale
    spec.position_encodings.encodings = model.position_table(side)
    if shape.pre_norm:
        _norm(spec.layer_norm, tensors, f"{shape.prefix}.norm")
    for index, layer in enumerate(spec.layer):
        name = f"{shape.prefix}.layers.{index}"
        _linear(layer.self_attention.linear[0], tensors, f"{name}.self_attention.qkv")
        _linear(layer.self_attention.linear[1], tensors, f"{name}.self_attention.out")
        _norm(layer.self_attention.layer_norm, tensors, f"{name}.around_self.norm")
        if not encoder:
            for number, part in enumerate(("q", "kv", "out")):
                _linear(layer.attention.linear[number], tensors, f"{name}.cross_attention.{part}")
            _norm(layer.attention.layer_norm, tensors, f"{name}.around_cross.norm")
        if gated:
            _linear(layer.ffn.linear_0, tensors, f"{name}.feed_forward.inner", half=0)
            _linear(layer.ffn.linear_0_noact, tensors, f"{name}.feed_forward.inner", half=1)
        else:
            _linear(layer.ffn.linear_0, tensors, f"{name}.feed_forward.inner")
        _linear(layer.ffn.linear_1, tensors, f"{name}.feed_forward.outer")
        _norm(layer.ffn.layer_norm, tensors, f"{name}.around_feed_forward.norm")
    return spec


def _linear(spec: Any, tensors: Any, name: str, half: int | None = None) -> None:
    def part(tensor: Tensor) -> Tensor:
        return tensor if half is None else tensor.chunk(2, dim=0)[half].contiguous()

    spec.weight = part(tensors[f"{name}.weight"])
    if f"{name}.bias" in tensors:
        spec.bias = part(tensors[f"{name}.bias"])


def _norm(spec: Any, tensors: Any, name: str) -> None:
    spec.gamma = tensors[f"{name}.weight"]
    if f"{name}.bias" in tensors:
        spec.beta = tensors[f"{name}.bias"]
