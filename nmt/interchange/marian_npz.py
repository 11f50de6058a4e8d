"""Marian's own models (Junczys-Dowmunt et al. 2018, arXiv:1804.00344): ``.npz`` files of Transformers.

A file holds matrices that are multiplied from the right, and its settings as text, ``special:model.yml``. Sinusoidal
positions are those of tensor2tensor, from 0; word vectors are scaled; the decoder starts from a vector of zeros. Post-
and pre-norm models are read, and decoders with self-attention or with an SSRU (Kim et al. 2019, D19-5632).
"""

from __future__ import annotations

import logging
from collections.abc import MutableMapping
from pathlib import Path
from typing import Any

import torch
from omegaconf import OmegaConf
from torch import Tensor

from nmt.config import ConfigError, DataError
from nmt.interchange.beside import Given, find_pair
from nmt.interchange.imported import Imported, check_tensors, order_words, vocabulary_pair
from nmt.interchange.layers import MAX_LAYERS
from nmt.interchange.marian_layers import take_layer, take_norm
from nmt.interchange.marian_words import PIECES, read_words
from nmt.interchange.npz import read_npz
from nmt.interchange.positions import sinusoids
from nmt.interchange.standard import StackShape, model_node
from nmt.interchange.subwords import align_pair
from nmt.untrusted import parse_yaml, read_yaml, shorten

log = logging.getLogger(__name__)

SETTINGS = "special:model.yml"
SIDES = ("source", "target")
WORDS = ("*vocab*.yml", "*vocab*.yaml")
SUBWORDS = ("*.spm", "*.model", "*code", "*codes", "code.*", "*codes.*")
POSITIONS = 1024
"""Rows of the tables: marian-decoder takes sentences of 1,000 tokens (``--max-length``)."""

EPS = 1e-6
ACTIVATIONS = {"relu": "relu", "swish": "silu"}

NORMS = {("", "an", ""): False, ("n", "a", "n"): True}
"""``--transformer-preprocess``, ``-postprocess``, ``-postprocess-top`` without dropout, to whether it is pre-norm."""

FIXED: dict[str, tuple[Any, ...]] = {
    "type": ("transformer",),
    "transformer-ffn-depth": (2,),
    "transformer-decoder-ffn-depth": (0, 2),
    "transformer-decoder-autoreg": ("self-attention", "rnn"),
    "transformer-ffn-activation": tuple(ACTIVATIONS),
    **dict.fromkeys(("transformer-no-projection", "transformer-pool", "transformer-rnn-projection"), (False,)),
    **dict.fromkeys(("transformer-train-position-embeddings", "ulr", "right-left"), (False,)),
    **dict.fromkeys(("transformer-tied-layers", "input-types", "special-vocab"), ([],)),
    "lemma-dim-emb": (0,),
}
"""Settings, where they are there, and their values that can be read; the first is Marian's own."""

RECURRENT = {"dec-cell": ("ssru",), "layer-normalization": (False,), "dec-cell-base-depth": (1, 2)}
"""The same where the decoder is recurrent."""

SEARCH: dict[str, Any] = {
    **{"beam": 12, "length_penalty": 0.0, "min_length": 0, "max_length_ratio": 3.0, "max_length_offset": 3},
    "ban_unk": True,
}
"""The defaults of ``marian-decoder``: ``--beam-size 12 --normalize 0 --max-length-factor 3``, no ``--allow-unk``."""


def read_marian(path: Path, given: Given) -> Imported:
    """Read a model of Marian.

    Args:
        path: the ``.npz`` file with its vocabularies beside, or their folder.
        given: ``vocabulary`` and ``subwords`` that lie elsewhere or whose names do not tell.

    Raises:
        ConfigError: no such file.
        DataError: a file is missing, malformed or hostile, or the model is not of this kind.
    """
    file = _checkpoint(path)
    name = str(file)
    tensors = read_npz(file, "Marian")
    settings = _settings(tensors, file)
    tensors = {key: _weight(tensor, key, name) for key, tensor in tensors.items()}
    check_tensors(tensors, name)
    matrices, bias = _matrices(tensors, name)
    files = _files(file.parent, given)
    source, target = (read_words(words, len(matrix) - 1) for words, matrix in zip(files[0], matrices[:2]))
    aligned = align_pair((source, target), files[1])
    words = order_words(*aligned, matrices, bias, name)
    shapes = {side: _shape(tensors, settings, side, matrices[0].size(1), file) for side in ("encoder", "decoder")}
    recurrent = settings.get("transformer-decoder-autoreg") == "rnn"
    ours: dict[str, Tensor] = {}
    for side, shape in shapes.items():
        for index in range(shape.layers):
            prefixes = f"{shape.prefix}.layers.{index}", f"{side}_l{index + 1}"
            ours |= take_layer(tensors, side, *prefixes, shape, recurrent, name)
        if shape.pre_norm:
            ours |= take_norm(tensors, f"{shape.prefix}.norm", f"{side}_top", "", name)
        part = "embedding.source" if side == "encoder" else "embedding.target"
        ours[f"{part}.positions"] = sinusoids(POSITIONS, shape.embed_dim)
    if tensors:
        raise DataError(f"{file}: {shorten(min(tensors))} has no place in a Transformer of Marian that can be imported")
    node = model_node(
        shapes["encoder"],
        shapes["decoder"],
        share=words.share,
        positions="learned",
        max_positions=POSITIONS,
        scale=True,
        output_bias=words.output_bias,
        decoder_self_attention="ssru" if recurrent else "multihead",
        eps=EPS,
    )
    search = _search(file)
    return Imported(file, node, {**ours, **words.tensors}, vocabulary_pair(*aligned), *SIDES, search=search)


def _checkpoint(path: Path) -> Path:
    """The model that a path stands for."""
    if path.is_file():
        return path
    if not path.is_dir():
        raise ConfigError(f"path={path}: no such file or folder")
    found = [file for file in sorted(path.glob("*.npz")) if not file.name.endswith(".optimizer.npz")]
    if path / "model.npz" in found:
        return path / "model.npz"
    if len(found) != 1:
        raise DataError(f"{path}: {len(found)} models (*.npz) here; give path=FOLDER/FILE.npz")
    return found[0]


def _settings(tensors: MutableMapping[str, Tensor], file: Path) -> dict[str, Any]:
    """The settings, taken out of ``tensors`` and checked."""
    stored = tensors.pop(SETTINGS, None)
    if stored is None or stored.dtype not in (torch.int8, torch.uint8):
        raise DataError(f"{file}: not a model of Marian ({SETTINGS} is missing)")
    raw = stored.flatten().view(torch.uint8).numpy().tobytes().rstrip(b"\0")
    settings: Any = OmegaConf.to_container(parse_yaml(raw, f"{file}: {SETTINGS}"))
    allowed = FIXED | (RECURRENT if settings.get("transformer-decoder-autoreg") == "rnn" else {})
    for key, values in allowed.items():
        value = settings.get(key, values[0])
        if value not in values or isinstance(value, bool) != isinstance(values[0], bool):
            raise DataError(
                f"{file}: {key}={shorten(repr(value))} cannot be imported; valid values: {', '.join(map(str, values))}"
            )
    return dict(settings)


def _weight(tensor: Tensor, name: str, file: str) -> Tensor:
    """A weight in float32; biases and norms lie there as matrices of one row."""
    if not tensor.is_floating_point():
        raise DataError(
            f"{file}: {shorten(name)} holds whole numbers; only models that are not quantised can be imported"
        )
    row = tensor.dim() == 2 and tensor.size(0) == 1
    return tensor.float().flatten() if row else tensor.float()


def _matrices(
    tensors: MutableMapping[str, Tensor], file: str
) -> tuple[tuple[Tensor, Tensor, Tensor | None], Tensor | None]:
    """Word matrices of source, target and output (None: the target's), and the output's bias, taken out of ``tensors``.

    A row of zeros is added to each: what the decoder starts from.
    """
    shared = tensors.pop("Wemb", None)
    sides = []
    for side in ("encoder", "decoder"):
        own = tensors.pop(f"{side}_Wemb", shared)
        if own is None or own.dim() != 2 or own.size(1) < 4:
            raise DataError(f"{file}: {side}_Wemb is missing, or not a matrix of at least 4 columns")
        sides.append(own)
    output, turned = (tensors.pop(f"decoder_ff_logit_out_{kind}", None) for kind in ("Wt", "W"))
    if turned is not None and output is None:
        output = turned.t()
    bias = tensors.pop("decoder_ff_logit_out_b", None)
    source = _with_zeros(sides[0])
    target = source if sides[1] is sides[0] else _with_zeros(sides[1])
    return (source, target, None if output is None else _with_zeros(output)), None if bias is None else _with_zeros(
        bias
    )


def _with_zeros(tensor: Tensor) -> Tensor:
    return torch.cat([tensor, tensor.new_zeros(1, *tensor.shape[1:])])


def _files(folder: Path, given: Given) -> tuple[tuple[Path, Path], tuple[Path, Path]]:
    """Files of words and of sub-words of both sides: one ``.spm`` is both."""
    listed = given.vocabulary or any(any(folder.glob(pattern)) for pattern in WORDS)
    words = find_pair(folder, WORDS if listed else [f"*{end}" for end in PIECES], SIDES, "vocabulary", given.vocabulary)
    if all(path.suffix in PIECES for path in words):
        return words, words
    return words, find_pair(folder, SUBWORDS, SIDES, "subwords", given.subwords)


def _shape(
    tensors: MutableMapping[str, Tensor], settings: dict[str, Any], side: str, dim: int, file: Path
) -> StackShape:
    layers, heads = settings.get(f"{side[:3]}-depth"), settings.get("transformer-heads")
    if type(layers) is not int or not 1 <= layers <= MAX_LAYERS:
        raise DataError(f"{file}: {side[:3]}-depth={shorten(repr(layers))} must be from 1 to {MAX_LAYERS}")
    if type(heads) is not int or heads < 1 or dim % heads:
        raise DataError(f"{file}: transformer-heads={shorten(repr(heads))} does not divide the width, {dim}")
    keys = ("transformer-preprocess", "transformer-postprocess", "transformer-postprocess-top")
    steps = tuple(str(settings.get(key) or "").replace("d", "") for key in keys)
    if steps not in NORMS or str(settings.get("transformer-postprocess-emb") or "").replace("d", ""):
        shown = " ".join(f"{key}={shorten(repr(settings.get(key)))}" for key in (*keys, "transformer-postprocess-emb"))
        raise DataError(f"{file}: {shown} cannot be imported; valid are '', 'dan', '', 'd' and 'n', 'da', 'n', 'd'")
    inner = tensors.get(f"{side}_l1_ffn_W1")
    if inner is None or inner.dim() != 2:
        raise DataError(f"{file}: {side}_l1_ffn_W1 is missing")
    return StackShape(
        key=f"model.{side}",
        prefix="encoder" if side == "encoder" else "decoder.stack",
        layers=layers,
        embed_dim=dim,
        num_heads=heads,
        ffn_dim=inner.size(1),
        activation=ACTIVATIONS[settings.get("transformer-ffn-activation", "relu")],
        pre_norm=NORMS[steps],
    )


def _search(file: Path) -> dict[str, Any]:
    """The decoder's settings, where Marian wrote them beside the model, and its defaults."""
    found = dict(SEARCH)
    beside = (file.with_name(f"{file.name}.decoder.yml"), file.with_name("decoder.yml"))
    path = next((path for path in beside if path.is_file()), None)
    settings = {} if path is None else read_yaml(path)
    for key, (ours, kind) in {"beam-size": ("beam", int), "normalize": ("length_penalty", float)}.items():
        value = settings.get(key)
        if value is None:
            continue
        if isinstance(value, bool) or not isinstance(value, int | kind):
            raise DataError(f"{path}: {key}={shorten(repr(value))} must be a number")
        found[ours] = kind(value)
    found["ban_unk"] = settings.get("allow-unk") is not True
    if settings.get("word-penalty"):
        log.warning("%s: word-penalty has no counterpart here and is left out", path)
    return found
