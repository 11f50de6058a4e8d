"""Marian models of Hugging Face transformers, the OPUS-MT ones among them (Tiedemann and Thottingal 2020, EAMT).

A folder with ``config.json``, the weights (``model.safetensors`` or ``pytorch_model.bin``), the sentencepiece models of
both sides and one list of words, ``vocab.json``, whose rows need not be the pieces' numbers. The decoder starts with
the padding symbol.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from nmt.checkpoints.checkpoint import MAX_TABLES, read_tensors
from nmt.config import ConfigError, DataError
from nmt.interchange.beside import Given
from nmt.interchange.imported import Imported, check_tensors, order_words, vocabulary_pair
from nmt.interchange.layers import count_layers, to_ours
from nmt.interchange.pieces import Aligned, Words
from nmt.interchange.standard import StackShape, model_node
from nmt.interchange.stream import halves_from_turns
from nmt.interchange.subwords import align_pair
from nmt.interchange.torch_file import TorchFile
from nmt.untrusted import read_json, shorten

ACTIVATIONS = {"relu": "relu", "gelu": "gelu", "silu": "silu", "swish": "silu"}
POSITION_TOLERANCE = 2e-3
"""Between a stored table and the sinusoids; float16 is exact to 5e-4 at 1."""


def read_huggingface(path: Path, given: Given) -> Imported:
    """Read a Marian folder.

    Args:
        path: the folder.
        given: nothing: its files have fixed names.

    Raises:
        ConfigError: no such folder, or files are given.
        DataError: a file is missing, malformed or hostile, or the model is not of this kind.
    """
    if not path.is_dir():
        raise ConfigError(f"path={path}: no such folder")
    for key in ("vocabulary", "subwords"):
        given.refuse(key, "hf")
    config = _read_json(path / "config.json")
    _check(config, path / "config.json")
    tokenizer = _read_json(path / "tokenizer_config.json") if (path / "tokenizer_config.json").is_file() else {}
    file, tensors = _read_weights(path)
    check_tensors(tensors, str(file))
    matrices = _matrices(tensors, config, str(file))
    source, target = _align(path, config, tokenizer, (len(matrices[0]), len(matrices[1])))
    bias = tensors.pop("final_logits_bias", None)
    words = order_words(source, target, matrices, None if bias is None else bias.flatten(), str(file))
    shapes = {side: _shape(tensors, config, side, matrices[0], path / "config.json") for side in ("encoder", "decoder")}
    positions, ours = _positions(tensors, config, shapes["encoder"].embed_dim, path / "config.json")
    for side, shape in shapes.items():
        for index in range(shape.layers):
            ours |= to_ours(tensors, side, f"model.{side}.layers.{index}", f"{shape.prefix}.layers.{index}", str(file))
    if tensors:
        raise DataError(f"{file}: {shorten(min(tensors))} has no place in a Marian model")
    ours |= words.tensors
    node = model_node(
        shapes["encoder"],
        shapes["decoder"],
        share=words.share,
        positions=positions,
        max_positions=config["max_position_embeddings"],
        scale=config.get("scale_embedding", False),
        output_bias=words.output_bias,
    )
    languages = [str(tokenizer.get(f"{side}_lang") or side) for side in ("source", "target")]
    halves = positions == "sinusoidal"
    search = _search(path, config)
    return Imported(file, node, ours, vocabulary_pair(source, target), languages[0], languages[1], halves, search)


_SEARCH = {
    "num_beams": ("beam", 0),
    "length_penalty": ("length_penalty", 0),
    "no_repeat_ngram_size": ("no_repeat_ngram", 0),
    "min_length": ("min_length", 1),
    "min_new_tokens": ("min_length", 0),
    "max_length": ("max_length_offset", 2),
    "max_new_tokens": ("max_length_offset", 1),
}
"""Their options of a search, ours, and what their lengths count more: the decoder's start, the longest also the end of
sentence. Of two for one of ours the later one counts, as it does there."""


def _search(path: Path, config: dict[str, Any]) -> dict[str, Any]:
    """What ``generation_config.json`` says, or ``config.json``, where it stood before that file was invented."""
    file = path / "generation_config.json"
    values = _read_json(file) if file.is_file() else config
    found: dict[str, Any] = {"min_length": 0}
    for theirs, (ours, more) in _SEARCH.items():
        value = values.get(theirs)
        if value is None:
            continue
        number = float if ours == "length_penalty" else int
        if isinstance(value, bool) or not isinstance(value, int | number) or (number is int and value < 0):
            raise DataError(f"{file}: {theirs}={shorten(repr(value))} must be a number")
        found[ours] = number(value) if number is float else max(0, value - more)
    if "max_length_offset" in found:
        longest = min(found["max_length_offset"], config["max_position_embeddings"] - 2)
        found |= {"max_length_ratio": 0.0, "max_length_offset": max(1, longest)}
    return found


def _read_json(path: Path) -> dict[str, Any]:
    value = read_json(path)
    if not isinstance(value, dict):
        raise DataError(f"{path}: not a JSON object")
    return value


_NUMBERS = (
    *("max_position_embeddings", "encoder_attention_heads", "decoder_attention_heads"),
    *("pad_token_id", "eos_token_id", "decoder_start_token_id"),
)
_SWITCHES = ("scale_embedding", "share_encoder_decoder_embeddings", "tie_word_embeddings")
_FOREIGN = ("normalize_before", "normalize_embedding", "add_final_layer_norm", "add_bias_logits")


def _check(config: dict[str, Any], file: Path) -> None:
    """Refuse what is no Marian model, and values that would be misread."""
    if config.get("model_type") != "marian":
        raise DataError(f"{file}: model_type={shorten(repr(config.get('model_type')))}; only marian can be imported")
    for name in _NUMBERS:
        if type(config.get(name)) is not int or config[name] < 0:
            raise DataError(f"{file}: {name}={shorten(repr(config.get(name)))} must be a whole number")
    for name in _SWITCHES:
        if not isinstance(config.get(name, True), bool):
            raise DataError(f"{file}: {name}={shorten(repr(config[name]))} must be true or false")
    for name in _FOREIGN:
        if config.get(name):
            raise DataError(f"{file}: {name}={shorten(repr(config[name]))} is not supported")
    if not 1 <= config["max_position_embeddings"] <= 1 << 16:
        raise DataError(f"{file}: max_position_embeddings={config['max_position_embeddings']} is out of range")
    activation = config.get("activation_function")
    if not isinstance(activation, str) or activation not in ACTIVATIONS:
        raise DataError(
            f"{file}: activation_function={shorten(repr(activation))}; only {', '.join(ACTIVATIONS)} can be imported"
        )


def _read_weights(path: Path) -> tuple[Path, dict[str, Tensor]]:
    """The file and its tensors in float32."""
    file = path / "model.safetensors"
    if file.is_file():
        tensors = read_tensors(file)
    else:
        file = path / "pytorch_model.bin"
        if not file.is_file():
            raise DataError(f"{path}: no weights here: neither model.safetensors nor pytorch_model.bin")
        stored = TorchFile(file)
        tensors = stored.weights(stored.value, "what it holds")
    return file, {name: t.float() for name, t in tensors.items()}


def _matrices(tensors: dict[str, Tensor], config: dict[str, Any], file: str) -> tuple[Tensor, Tensor, Tensor | None]:
    """Word matrices of source, target and output (None: the target's); taken out of ``tensors``."""
    shared = tensors.pop("model.shared.weight", None)
    tied = config.get("tie_word_embeddings", True)
    both_sides = tied and config.get("share_encoder_decoder_embeddings", True)
    sides = []
    for side in ("encoder", "decoder"):
        own = tensors.pop(f"model.{side}.embed_tokens.weight", None)
        # Untied models store a shared matrix beside those of the sides without using it.
        found = shared if own is None or (both_sides and shared is not None) else own
        if found is None or found.dim() != 2 or found.size(1) < 2:
            raise DataError(f"{file}: model.{side}.embed_tokens.weight is missing")
        sides.append(found)
    source, target = sides
    output = tensors.pop("lm_head.weight", None)
    if not tied and output is None:
        raise DataError(f"{file}: lm_head.weight is missing")
    if source.shape == target.shape and torch.equal(source, target):
        source = target
    return source, target, None if tied else output


def _align(
    path: Path, config: dict[str, Any], tokenizer: dict[str, Any], sizes: tuple[int, int]
) -> tuple[Aligned, Aligned]:
    separate = bool(tokenizer.get("separate_vocabs", False))
    files = (path / "vocab.json", path / ("target_vocab.json" if separate else "vocab.json"))
    unk = str(tokenizer.get("unk_token") or "<unk>")
    source, target = (_words(file, size, config, unk) for file, size in zip(files, sizes))
    return align_pair((source, target), (path / "source.spm", path / "target.spm"))


def _words(file: Path, size: int, config: dict[str, Any], unk: str) -> Words:
    rows = _read_json(file)
    values = list(rows.values())
    if not all(type(row) is int and 0 <= row < size for row in values) or len(set(values)) != len(values):
        raise DataError(f"{file}: its values must be different whole numbers below {size}, the rows of the matrix")
    codes = [word for word in rows if word.startswith(">>") and word.endswith("<<")]
    if codes:
        raise DataError(f"{file}: a model with several target languages ({shorten(codes[0])}) cannot be imported")
    if unk not in rows:
        raise DataError(f"{file}: the word for unknown words, {shorten(repr(unk))}, is missing")
    pad, eos, start = (config[f"{name}_token_id"] for name in ("pad", "eos", "decoder_start"))
    if max(pad, eos, start) >= size:
        raise DataError(f"{file.parent / 'config.json'}: a special word's number is not below {size}")
    names = {row: word for word, row in rows.items()}
    silent = frozenset(names[row] for row in (pad, eos, start) if row in names)
    return Words(rows, size, pad, start, eos, rows[unk], str(file), silent)


def _shape(tensors: dict[str, Tensor], config: dict[str, Any], side: str, words: Tensor, file: Path) -> StackShape:
    embed_dim, heads = words.size(1), config[f"{side}_attention_heads"]
    if heads < 1 or embed_dim % heads:
        raise DataError(f"{file}: {side}_attention_heads={heads} does not divide the width, {embed_dim}")
    layers = count_layers(tensors, f"model.{side}", str(file))
    inner = tensors.get(f"model.{side}.layers.0.fc1.weight")
    if inner is None or layers != config.get(f"{side}_layers"):
        raise DataError(f"{file}: {side}_layers={shorten(config.get(f'{side}_layers'))}, but the weights have {layers}")
    return StackShape(
        key=f"model.{side}",
        prefix="encoder" if side == "encoder" else "decoder.stack",
        layers=layers,
        embed_dim=embed_dim,
        num_heads=heads,
        ffn_dim=len(inner),
        activation=ACTIVATIONS[config["activation_function"]],
        pre_norm=False,
    )


def _positions(
    tensors: dict[str, Tensor], config: dict[str, Any], dim: int, file: Path
) -> tuple[str, dict[str, Tensor]]:
    """``sinusoidal`` and nothing, or ``learned`` and the tables where others than sinusoids are stored."""
    stored = {side: tensors.pop(f"model.{side}.embed_positions.weight", None) for side in ("encoder", "decoder")}
    length = config["max_position_embeddings"]
    tables = {side: table for side, table in stored.items() if table is not None}
    if any(table.shape != (length, dim) for table in tables.values()):
        raise DataError(f"{file}: max_position_embeddings={length}, but the table of positions has another shape")
    if 2 * length * dim > MAX_TABLES:
        raise DataError(f"{file}: max_position_embeddings={length} is too large for a width of {dim}")
    own = _sinusoids(length, dim)[:, halves_from_turns(dim)]
    if all(torch.allclose(table, own, rtol=0, atol=POSITION_TOLERANCE) for table in tables.values()):
        return "sinusoidal", {}
    source, target = (tables.get(side, own).contiguous() for side in ("encoder", "decoder"))
    return "learned", {"embedding.source.positions": source, "embedding.target.positions": target}


def _sinusoids(length: int, dim: int) -> Tensor:
    """Sine and cosine in turn (Vaswani et al. 2017, arXiv:1706.03762, section 3.5), float32 (length, dim)."""
    angle = torch.arange(length).double()[:, None] / 10000 ** (torch.arange(0, dim, 2).double() / dim)
    return torch.stack([angle.sin(), angle.cos()], dim=2).flatten(1)[:, :dim].float()
