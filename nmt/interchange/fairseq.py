"""Transformers of fairseq (Ott et al. 2019, arXiv:1904.01038).

A checkpoint (``.pt``), ``dict.LANG.txt`` for both languages, and the sentencepiece model or the codes of subword-nmt
that made the words. The decoder starts with the end-of-sentence symbol; positions count from 2. Sinusoidal positions
have slightly other frequencies than the paper's, so they are taken over as a table.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from nmt.checkpoints.checkpoint import MAX_TABLES
from nmt.config import ConfigError, DataError
from nmt.interchange.beside import Given, find_pair
from nmt.interchange.imported import Imported, check_tensors, order_words, vocabulary_pair
from nmt.interchange.inert import Record, show
from nmt.interchange.layers import count_layers, take, to_ours
from nmt.interchange.pieces import Words
from nmt.interchange.positions import sinusoids
from nmt.interchange.standard import StackShape, model_node
from nmt.interchange.subwords import align_pair
from nmt.interchange.torch_file import TorchFile
from nmt.untrusted import is_plain_name, read_bytes, shorten

SPECIALS = ("<s>", "<pad>", "</s>", "<unk>")
"""The first rows of every matrix; words of the dictionary follow."""
BOS_ROW, PAD_ROW, EOS_ROW, UNK_ROW = range(4)

ACTIVATIONS = {"relu": "relu", "gelu": "gelu", "swish": "silu"}
MAX_POSITIONS = 4096
"""Rows of a sinusoidal table at most: fairseq has no limit there."""

MAX_DICTIONARY_BYTES = 1 << 26
"""Of ``dict.LANG.txt``; a million words take some 15 MiB."""

SUBWORDS = ("*.model", "*code", "*codes", "code.*", "*codes.*")
"""Names of what cuts text into words."""

SEARCH = {"beam": 5, "length_penalty": 1.0, "min_length": 1, "max_length_ratio": 0.0, "max_length_offset": 200}
"""The defaults of ``fairseq-generate``: ``--beam 5 --lenpen 1 --min-len 1 --max-len-a 0 --max-len-b 200``."""

FOREIGN = (
    *("layernorm_embedding", "cross_self_attention", "no_cross_attention", "adaptive_input"),
    *("adaptive_softmax_cutoff", "scale_fc", "scale_attn", "scale_heads", "scale_resids"),
)
"""Switches of parts that we do not have."""


def read_fairseq(path: Path, given: Given) -> Imported:
    """Read a fairseq model.

    Args:
        path: the ``.pt`` file with the dictionaries and the sub-words beside, or their folder.
        given: ``subwords`` that lie elsewhere or whose names do not tell.

    Raises:
        ConfigError: no such file, or ``vocabulary`` is given.
        DataError: a file is missing, malformed or hostile, or the model is not of this kind.
    """
    given.refuse("vocabulary", "fairseq")
    file = _checkpoint(path)
    stored = TorchFile(file)
    settings = _Settings(stored.value, file)
    settings.check()
    state = stored.value.get("model")
    tensors = stored.weights(state, "model")
    check_tensors(tensors, str(file))
    tensors = _renamed(tensors)
    languages = settings.text("source_lang"), settings.text("target_lang")
    matrices = _matrices(tensors, settings)
    sizes = len(matrices[0]), len(matrices[1])
    words = _dictionaries(file.parent, languages, sizes, joined=settings.flag("share_all_embeddings"))
    source, target = align_pair(words, find_pair(file.parent, SUBWORDS, languages, "subwords", given.subwords))
    ordered = order_words(source, target, matrices, None, str(file))
    shapes = {
        "encoder": _shape(tensors, settings, "encoder", matrices[0]),
        "decoder": _shape(tensors, settings, "decoder", matrices[1]),
    }
    positions, length, ours = _positions(tensors, settings, shapes)
    for side, shape in shapes.items():
        for index in range(shape.layers):
            ours |= to_ours(tensors, side, f"{side}.layers.{index}", f"{shape.prefix}.layers.{index}", str(file))
        if shape.pre_norm:
            for kind in ("weight", "bias"):
                ours[f"{shape.prefix}.norm.{kind}"] = take(tensors, f"{side}.layer_norm.{kind}", str(file))
    if tensors:
        raise DataError(f"{file}: {shorten(min(tensors))} has no place in a standard Transformer")
    node = model_node(
        shapes["encoder"],
        shapes["decoder"],
        share=ordered.share,
        positions=positions,
        max_positions=length,
        scale=not settings.flag("no_scale_embedding"),
        output_bias=ordered.output_bias,
    )
    search = {**SEARCH, "max_length_offset": min(SEARCH["max_length_offset"], length - 1)}  # as fairseq, too, does
    return Imported(file, node, {**ours, **ordered.tensors}, vocabulary_pair(source, target), *languages, search=search)


def _checkpoint(path: Path) -> Path:
    """The checkpoint that a path stands for."""
    if path.is_file():
        return path
    if not path.is_dir():
        raise ConfigError(f"path={path}: no such file or folder")
    found = sorted(path.glob("*.pt"))
    for name in ("checkpoint_best.pt", "model.pt", "checkpoint_last.pt"):
        if path / name in found:
            return path / name
    if len(found) != 1:
        raise DataError(f"{path}: {len(found)} checkpoints (*.pt) here; give path=FOLDER/FILE.pt")
    return found[0]


class _Settings:
    """The training's settings: a flat namespace (``args``), or groups (``cfg``) since fairseq 0.10."""

    def __init__(self, value: Any, file: Path) -> None:
        if not isinstance(value, dict) or not isinstance(value.get("model"), dict):
            raise DataError(f"{file}: not a fairseq checkpoint (no dict with a model)")
        self.file = file
        self.values = _fields(value.get("args"))
        groups = _fields(value.get("cfg"))
        for group in ("task", "model"):
            self.values = {**_fields(groups.get(group)), **self.values}
        if not self.values:
            raise DataError(f"{file}: not a fairseq checkpoint (neither args nor cfg)")

    def check(self) -> None:
        """Refuse other architectures and parts that we do not have."""
        arch = self.values.get("arch", self.values.get("_name"))
        if not isinstance(arch, str) or not arch.startswith("transformer") or "_lm" in arch:
            raise DataError(f"{self.file}: arch={show(arch)}; only the Transformer for translation can be imported")
        for name in FOREIGN:
            if self.values.get(name):
                raise DataError(f"{self.file}: {name} is set; it cannot be imported")

    def flag(self, name: str) -> bool:
        """A switch; off where it is missing."""
        value = self.values.get(name, False)
        if not isinstance(value, bool | int | None):
            raise DataError(f"{self.file}: {name} is not a switch")
        return bool(value)

    def number(self, name: str, default: int | None = None) -> int:
        """A whole number above zero."""
        value = self.values.get(name, default)
        if type(value) is not int or not 1 <= value < 1 << 31:
            raise DataError(f"{self.file}: {name} is missing or not a whole number above zero")
        return value

    def text(self, name: str) -> str:
        """A language's code: what may stand in a file's name."""
        value = self.values.get(name)
        if not isinstance(value, str) or not is_plain_name(value):
            raise DataError(f"{self.file}: {name} is missing or not the code of a language")
        return value


def _fields(value: Any) -> Mapping[str, Any]:
    """Attributes of a namespace, entries of a dict, or those of an OmegaConf dict."""
    if isinstance(value, Record) and isinstance(value.state, dict):
        content = value.state.get("_content")
        if not isinstance(content, dict):
            return value.state
        return {key: _plain(node) for key, node in content.items()}
    return value if isinstance(value, dict) else {}


def _plain(node: Any) -> Any:
    """The value in a leaf of an OmegaConf dict."""
    if isinstance(node, Record) and isinstance(node.state, dict) and "_val" in node.state:
        return node.state["_val"]
    return node


_OLD_NORMS = {
    "encoder": ("self_attn_layer_norm", "final_layer_norm"),
    "decoder": ("self_attn_layer_norm", "encoder_attn_layer_norm", "final_layer_norm"),
}


def _renamed(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Names of older versions as those of today; buffers without content are left out."""
    result = {}
    for name, tensor in tensors.items():
        side, _, rest = name.partition(".")
        if rest in ("version", "embed_positions._float_tensor", "embed_positions.weights"):
            continue
        parts = rest.split(".")
        if len(parts) == 5 and parts[2] == "layer_norms" and parts[3] in tuple("012") and side in _OLD_NORMS:
            norms = _OLD_NORMS[side]
            if int(parts[3]) < len(norms):
                result[f"{side}.layers.{parts[1]}.{norms[int(parts[3])]}.{parts[4]}"] = tensor
                continue
        if parts[-1] in ("in_proj_weight", "in_proj_bias") and tensor.size(0) % 3 == 0:
            start, kind = name.rsplit(".", 1)
            for letter, part in zip("qkv", tensor.chunk(3)):
                result[f"{start}.{letter}_proj.{kind.removeprefix('in_proj_')}"] = part
            continue
        result["decoder.output_projection.weight" if name == "decoder.embed_out" else name] = tensor
    return result


def _matrices(tensors: dict[str, Tensor], settings: _Settings) -> tuple[Tensor, Tensor, Tensor | None]:
    """Word matrices of source, target and output (None: the target's), taken out of ``tensors``."""
    file = str(settings.file)
    source = take(tensors, "encoder.embed_tokens.weight", file)
    target = take(tensors, "decoder.embed_tokens.weight", file)
    if source.dim() != 2 or target.dim() != 2 or min(source.size(1), target.size(1)) < 4:
        raise DataError(f"{file}: embed_tokens.weight is not a matrix of at least 4 columns")
    all_one = settings.flag("share_all_embeddings")
    if all_one:
        source = target
    if all_one or settings.flag("share_decoder_input_output_embed"):
        tensors.pop("decoder.output_projection.weight", None)
        return source, target, None
    return source, target, take(tensors, "decoder.output_projection.weight", file)


def _dictionaries(
    folder: Path, languages: tuple[str, str], sizes: tuple[int, int], *, joined: bool
) -> tuple[Words, Words]:
    """The words of both sides. Where all embeddings are shared there is one dictionary, which may lie there once."""
    paths = [folder / f"dict.{language}.txt" for language in languages]
    if joined and sum(path.is_file() for path in paths) == 1:
        paths = [path for path in paths if path.is_file()] * 2
    source = _read_dictionary(paths[0], sizes[0])
    return source, source if paths[0] == paths[1] else _read_dictionary(paths[1], sizes[1])


def _read_dictionary(path: Path, size: int) -> Words:
    """Words and their rows: ``WORD COUNT [FLAG]`` a line, after the four special ones."""
    rows = {word: row for row, word in enumerate(SPECIALS)}
    content = read_bytes(path, MAX_DICTIONARY_BYTES)
    if (count := content.count(b"\n")) > size:
        raise DataError(f"{path}: {count} words, but the checkpoint has {size} with the four special ones")
    try:
        lines = content.decode("utf-8").split("\n")
    except UnicodeDecodeError as error:
        raise DataError(f"{path}: not UTF-8") from error
    count_rows = len(SPECIALS)
    for number, line in enumerate(lines, start=1):
        line = line.rstrip("\r")
        if not line and number == len(lines):
            continue
        line, flag = line.removesuffix(" #fairseq:overwrite"), line.endswith(" #fairseq:overwrite")
        word, _, times = line.rpartition(" ")
        if not word or not times.isdecimal():
            raise DataError(f"{path}:{number}: expected a word and its count")
        if word in rows and not flag:
            raise DataError(f"{path}:{number}: {shorten(repr(word))} occurs twice")
        rows[word] = count_rows
        count_rows += 1
    if count_rows != size:
        raise DataError(f"{path}: {count_rows} words with the four special ones, but the checkpoint has {size}")
    silent = frozenset(word for word in rows if word.startswith("madeupword")) | {"<s>"}
    return Words(rows, size, PAD_ROW, EOS_ROW, EOS_ROW, UNK_ROW, str(path), silent)


def _shape(tensors: Mapping[str, Tensor], settings: _Settings, side: str, words: Tensor) -> StackShape:
    layers, embed_dim = count_layers(tensors, side, str(settings.file)), words.size(1)
    inner = tensors.get(f"{side}.layers.0.fc1.weight")
    if inner is None:
        raise DataError(f"{settings.file}: {side}.layers.0.fc1.weight is missing")
    heads = settings.number(f"{side}_attention_heads")
    if embed_dim % heads:
        raise DataError(f"{settings.file}: {side}_attention_heads={heads} does not divide the width, {embed_dim}")
    activation = settings.values.get("activation_fn", "relu")
    if not isinstance(activation, str) or activation not in ACTIVATIONS:
        raise DataError(f"{settings.file}: activation_fn; only {', '.join(ACTIVATIONS)} can be imported")
    return StackShape(
        key=f"model.{side}",
        prefix="encoder" if side == "encoder" else "decoder.stack",
        layers=layers,
        embed_dim=embed_dim,
        num_heads=heads,
        ffn_dim=len(inner),
        activation=ACTIVATIONS[activation],
        pre_norm=settings.flag(f"{side}_normalize_before"),
    )


def _positions(
    tensors: dict[str, Tensor], settings: _Settings, shapes: Mapping[str, StackShape]
) -> tuple[str, int, dict[str, Tensor]]:
    """Kind of positions, their number, and the tables."""
    if settings.flag("no_token_positional_embeddings"):
        return "none", MAX_POSITIONS, {}
    limits = [settings.number(f"max_{side}_positions", 1024) for side in ("source", "target")]
    tables = {}
    for side, limit in zip(("encoder", "decoder"), limits):
        first = PAD_ROW + 1  # rows up to the padding symbol's are not used
        stored = tensors.pop(f"{side}.embed_positions.weight", None)
        if settings.flag(f"{side}_learned_pos") != (stored is not None):
            raise DataError(f"{settings.file}: {side}_learned_pos and {side}.embed_positions.weight do not fit")
        if stored is None:
            if 2 * min(limit, MAX_POSITIONS) * shapes[side].embed_dim > MAX_TABLES:
                raise DataError(f"{settings.file}: max_{side}_positions is too large for its width")
            stored = sinusoids(first + min(limit, MAX_POSITIONS), shapes[side].embed_dim)
        tables[side] = stored[first:]
    length = min(len(table) for table in tables.values())  # one limit for both sides
    ours = {"embedding.source.positions": tables["encoder"][:length].contiguous()}
    ours["embedding.target.positions"] = tables["decoder"][:length].contiguous()
    return "learned", length, ours
