"""Models for Hugging Face transformers, without code of their own (Wolf et al. 2020, arXiv:1910.03771).

Post-norm models become Marian's architecture, pre-norm ones Blenderbot's: of those in the library these are ours up to
the order of a table's features. The folder is written by hand: transformers need not be installed.
"""

from __future__ import annotations

import json
import logging
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from nmt.checkpoints.checkpoint import save_tensors
from nmt.config import ConfigError
from nmt.files import write_folder
from nmt.generation.defaults import describe_search, uncommon
from nmt.interchange.layers import to_theirs
from nmt.interchange.standard import StackShape, StandardTransformer, require_equal
from nmt.interchange.stream import halves_from_turns, reorder_stream
from nmt.text.sentencepieces import SentencePieces
from nmt.text.vocabulary import BOS, EOS, PAD, UNK, Vocabulary

ACTIVATIONS = ("relu", "gelu", "silu")
EPS = 1e-5
"""Of the norms of both architectures; they have no key for it."""

NEVER = -1e9
"""Added to the logits of rows that fill up the smaller of two vocabularies: their probability is zero."""

log = logging.getLogger(__name__)


def write_huggingface(model: StandardTransformer, out: Path) -> None:
    """Write a folder for ``AutoModelForSeq2SeqLM.from_pretrained`` and ``AutoTokenizer.from_pretrained``.

    Args:
        model: what to write.
        out: absolute path of the folder.

    Raises:
        ConfigError: the model holds what neither architecture can express.
    """
    _check(model)
    pre_norm = model.decoder.pre_norm
    # Marian computes a sinusoidal table when none is stored, and drops the stored one on saving: use its own order.
    if not pre_norm and model.positions == "sinusoidal":
        model = replace(model, tensors=reorder_stream(model.tensors, halves_from_turns(model.encoder.embed_dim)))
    tensors = {**_stack(model, model.encoder, "encoder"), **_stack(model, model.decoder, "decoder")}
    words = _blenderbot_words(model) if pre_norm else _marian_words(model)
    tensors.update(words)
    stored = {name: tensor.clone().contiguous() for name, tensor in tensors.items()}
    files: dict[str, Any] = {
        "model.safetensors": lambda path: save_tensors(stored, path),
        "config.json": _json(_config(model)),
        "generation_config.json": _json(_generation(model)),
        "tokenizer_config.json": _json(_tokenizer(model)),
        "source.spm": model.vocabularies.source.save,
        "target.spm": model.vocabularies.target.save,
        "vocab.json": _json(_pieces(model.vocabularies.source)),
    }
    if not model.vocabularies.joint:
        files["target_vocab.json"] = _json(_pieces(model.vocabularies.target))
    write_folder(out, files)


def _check(model: StandardTransformer) -> None:
    """Refuse what neither architecture has."""
    to = "hf"
    if model.vocabularies.source.kind != SentencePieces.kind:
        raise ConfigError(
            f"a vocabulary of {model.vocabularies.source.kind} cannot be exported to hf: its tokenisers need a "
            f"{SentencePieces.kind} model"
        )
    if model.norm != "layer_norm":
        raise ConfigError(f"model.norm.name={model.norm} cannot be exported to hf; valid options: layer_norm")
    if model.eps != EPS:
        raise ConfigError(f"model.norm.eps={model.eps} cannot be exported to hf; valid options: {EPS}")
    require_equal(
        model,
        to,
        embed_dim="embed_dim",
        activation="feed_forward.activation",
        pre_norm="layer.norm_position",
    )
    if model.encoder.activation not in ACTIVATIONS:
        raise ConfigError(
            f"model.encoder.feed_forward.activation={model.encoder.activation} cannot be exported to hf; "
            f"valid options: {', '.join(ACTIVATIONS)}"
        )


def _json(value: Any) -> Any:
    text = json.dumps(value, indent=2, ensure_ascii=False) + "\n"
    return lambda path: path.write_text(text, encoding="utf-8")


def _pieces(vocabulary: Vocabulary) -> dict[str, int]:
    return {vocabulary.piece(i): i for i in range(len(vocabulary))}


def _config(model: StandardTransformer) -> dict[str, Any]:
    pre_norm, share = model.decoder.pre_norm, model.share
    source_size, target_size = len(model.vocabularies.source), len(model.vocabularies.target)
    config: dict[str, Any] = {
        "architectures": ["BlenderbotForConditionalGeneration" if pre_norm else "MarianMTModel"],
        "model_type": "blenderbot" if pre_norm else "marian",
        "activation_function": model.encoder.activation,
        "d_model": model.encoder.embed_dim,
        "max_position_embeddings": model.max_positions,
        "scale_embedding": model.scale,
        "is_encoder_decoder": True,
        "torch_dtype": "float32",
        "pad_token_id": PAD,
        "bos_token_id": BOS,
        "eos_token_id": EOS,
        "decoder_start_token_id": BOS,
        "forced_eos_token_id": None,
        "dropout": 0.0,
        "attention_dropout": 0.0,
        "activation_dropout": 0.0,
    }
    for side, shape in (("encoder", model.encoder), ("decoder", model.decoder)):
        config[f"{side}_layers"] = shape.layers
        config[f"{side}_attention_heads"] = shape.num_heads
        config[f"{side}_ffn_dim"] = shape.ffn_dim
    if pre_norm:
        config["vocab_size"] = max(source_size, target_size)
        config["tie_word_embeddings"] = share == "all"
        config["encoder_no_repeat_ngram_size"] = 0
    else:
        config["vocab_size"], config["decoder_vocab_size"] = source_size, target_size
        config["share_encoder_decoder_embeddings"] = share == "all"
        config["tie_word_embeddings"] = share != "none"
    return config


def _generation(model: StandardTransformer) -> dict[str, Any]:
    """The defaults of nmt-generate for this checkpoint, under which both find the same translations."""
    search = model.search
    if extra := uncommon(search):
        log.warning("generation_config.json cannot hold %s, a default of the checkpoint", describe_search(extra))
    return {
        "num_beams": search.beam,
        "length_penalty": search.length_penalty,
        "early_stopping": search.beam > 1,
        "min_new_tokens": search.min_length,
        "no_repeat_ngram_size": search.no_repeat_ngram,
        "decoder_start_token_id": BOS,
        "bos_token_id": BOS,
        "eos_token_id": EOS,
        "pad_token_id": PAD,
        "suppress_tokens": [PAD, BOS],  # never generated here either
        "max_length": model.max_positions,
    }


def _tokenizer(model: StandardTransformer) -> dict[str, Any]:
    target = model.vocabularies.target
    return {
        "tokenizer_class": "MarianTokenizer",
        "source_lang": model.source_language,
        "target_lang": model.target_language,
        "separate_vocabs": not model.vocabularies.joint,
        "model_max_length": model.max_positions,
        "unk_token": target.piece(UNK),
        "eos_token": target.piece(EOS),
        "pad_token": target.piece(PAD),
    }


def _marian_words(model: StandardTransformer) -> dict[str, Tensor]:
    """Word matrices: what is shared stands once."""
    tensors = model.tensors
    if model.share == "all":
        words = {"model.shared.weight": tensors["embedding.source.words.weight"]}
    else:
        words = {
            "model.encoder.embed_tokens.weight": tensors["embedding.source.words.weight"],
            "model.decoder.embed_tokens.weight": tensors["embedding.target.words.weight"],
        }
    if model.share == "none":
        words["lm_head.weight"] = tensors["output.projection.weight"]
    words["final_logits_bias"] = _output_bias(model)
    return words


def _blenderbot_words(model: StandardTransformer) -> dict[str, Tensor]:
    """Word matrices of an architecture with one vocabulary size and nothing between one matrix and three."""
    tensors = model.tensors
    bias = _output_bias(model)
    if model.share == "all":
        return {"model.shared.weight": tensors["embedding.source.words.weight"], "final_logits_bias": bias}
    size = max(len(model.vocabularies.source), len(model.vocabularies.target))

    def filled(name: str) -> Tensor:
        tensor = tensors[name]
        return torch.cat([tensor, tensor.new_zeros(size - len(tensor), tensor.size(1))])

    source = filled("embedding.source.words.weight")
    return {
        "model.shared.weight": source,  # unused, but read by transformers
        "model.encoder.embed_tokens.weight": source,
        "model.decoder.embed_tokens.weight": filled("embedding.target.words.weight"),
        "lm_head.weight": filled("output.projection.weight"),
        "final_logits_bias": torch.cat([bias, bias.new_full((1, size - bias.size(1)), NEVER)], dim=1),
    }


def _output_bias(model: StandardTransformer) -> Tensor:
    """(1, target vocabulary)"""
    weight = model.tensors["output.projection.weight"]
    return model.tensors.get("output.projection.bias", weight.new_zeros(len(weight)))[None]


def _stack(model: StandardTransformer, shape: StackShape, side: str) -> dict[str, Tensor]:
    """Positions and layers of one side."""
    prefix, tensors = f"model.{side}", model.tensors
    result = {f"{prefix}.embed_positions.weight": model.position_table(side)}
    if shape.pre_norm:
        result |= {f"{prefix}.layer_norm.{kind}": tensors[f"{shape.prefix}.norm.{kind}"] for kind in ("weight", "bias")}
    for index in range(shape.layers):
        result |= to_theirs(tensors, side, f"{shape.prefix}.layers.{index}", f"{prefix}.layers.{index}")
    return result
