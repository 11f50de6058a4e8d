"""How alike the attention of a model's layers is, measured on real sentences."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from nmt.compression.sharing_policy import jensen_shannon_similarity
from nmt.data.batch import Batch
from nmt.models.encoder_decoder import SequenceModel
from nmt.models.interfaces import CrossAttention, Layer, SelfAttention
from nmt.text.vocabulary import PAD

ENCODER_SELF, DECODER_SELF = "model.encoder.self_attention", "model.decoder.self_attention"
CROSS = "model.decoder.cross_attention"


@dataclass
class Similarity:
    """Of one slot.

    Attributes:
        matrix: (layers, layers) float64: mean over heads, positions and sentences of the Jensen-Shannon similarity.
        rows: attention distributions that were compared: target (or source) positions without padding, times heads.
    """

    matrix: Tensor
    rows: int


@torch.inference_mode()
def attention_similarity(model: SequenceModel, batches: Iterable[Batch]) -> dict[str, Similarity]:
    """Compare all layers of each slot, in one teacher-forced pass over the batches.

    Args:
        model: in evaluation mode.
        batches: on the model's device.

    Returns:
        By the slot's key; slots whose layers have no attention weights are left out.
    """
    assert not model.training, "dropout would make equal layers differ"
    totals: dict[str, Tensor] = {}
    rows: dict[str, int] = {}
    for batch in batches:
        with _recorded(model) as found:
            model(batch.src_tokens, batch.prev_output_tokens)
        for key, weights in found.items():
            present = [w for w in weights if w is not None]
            if not present or len(present) < len(weights):
                continue
            tokens = batch.src_tokens if key == ENCODER_SELF else batch.prev_output_tokens
            real = tokens.ne(PAD)[:, None].expand(-1, present[0].size(1), -1)  # (bsz, num_heads, queries)
            totals[key] = totals.get(key, 0) + _summed(present, real)
            rows[key] = rows.get(key, 0) + int(real.sum())
    return {key: Similarity(totals[key] / rows[key], rows[key]) for key in totals}


def _summed(weights: list[Tensor], real: Tensor) -> Tensor:
    """Similarities of all pairs of layers, summed over the rows that count: (layers, layers) on the CPU.

    Args:
        weights: of every layer (bsz, num_heads, queries, keys).
        real: bool (bsz, num_heads, queries), False = padding.
    """
    kept = [w[real] for w in weights]  # (rows, keys)
    total = torch.full((len(kept), len(kept)), float(len(kept[0])), dtype=torch.float64)
    for i, one in enumerate(kept):
        for j, other in enumerate(kept[:i]):
            total[i, j] = total[j, i] = float(jensen_shannon_similarity(one, other).sum())
    return total


@contextlib.contextmanager
def _recorded(model: SequenceModel) -> Iterator[dict[str, list[Tensor | None]]]:
    """The attention weights of the passes inside, by slot and layer."""
    found: dict[str, list[Tensor | None]] = {}
    with contextlib.ExitStack() as hooks:
        for key, part in _attentions(model):

            def record(part: Any, args: Any, kwargs: Any, output: Any, key: str = key) -> None:
                found.setdefault(key, []).append(part.weights(*args, **kwargs))

            hooks.callback(part.register_forward_hook(record, with_kwargs=True).remove)
        yield found


def _attentions(model: SequenceModel) -> Iterator[tuple[str, nn.Module]]:
    """The attention parts of all layers with the keys of their slots."""
    encoder = getattr(model, "encoder", None)  # language models have none
    for stack, self_key in ((encoder, ENCODER_SELF), (model.decoder, DECODER_SELF)):
        for layer in () if stack is None else stack.modules():
            for part in layer.children() if isinstance(layer, Layer) else ():
                if isinstance(part, SelfAttention):
                    yield self_key, part
                elif isinstance(part, CrossAttention):
                    yield CROSS, part
