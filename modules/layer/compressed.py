"""The compressed decoder layer: both attentions and the feed-forward network in one (Li et al. 2021, arXiv:2101.00542).

Consecutive sub-layers of a decoder read similar inputs. So one attention looks at the source and the target prefix
together, under one softmax, and its values are already in the inner space of the feed-forward network: one norm and one
residual a layer instead of three.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from nmt.config import ConfigError, option
from nmt.limits import MAX_HEADS, MAX_WIDTH
from nmt.models.attention import mask_scores
from nmt.models.dropout import Dropout
from nmt.models.heads import head_dim, merge_heads, split_heads
from nmt.models.interfaces import EncoderOut, ForwardPass, Layer, LayerContext
from nmt.models.masks import SelfMask, causal_mask, memory_mask
from nmt.models.state import Columns, State, Step
from nmt.registry import register

NO_ENCODER = "the layer is built in decoders that read an encoder"


@dataclass
class CompressedOptions:
    """Options of ``compressed`` (layer)."""

    num_heads: int | None = option(None, "heads; default: the stack's num_heads", minimum=1, maximum=MAX_HEADS)
    value_dim: int | None = option(
        None, "width of all heads' values; default: the stack's ffn_dim", minimum=1, maximum=MAX_WIDTH
    )
    input_dropout: bool = option(
        False, "dropout on the input of the feed-forward part too, at the rate of residuals", training_only=True
    )
    bias: bool = option(True, "biases in the projections")


@register("layer", "compressed", options=CompressedOptions, paper="Li et al. 2021, arXiv:2101.00542")
class CompressedLayer(Layer):
    """Self-attention, cross-attention and feed-forward merged into one pre-norm sub-layer, for decoders.

    With U = norm(X) and the encoder's output H: Y = X + W_2 relu(W_1 U + A V), where A is one softmax over the source
    keys of H and the target keys of U, and V are values as wide as the feed-forward network.
    """

    normalised = False
    unused: Mapping[str, str] = {
        "self_attention": "multihead",
        "cross_attention": "multihead",
        "feed_forward": "dense",
    }

    def __init__(self, options: CompressedOptions, *, context: LayerContext, make_part: Callable[[str], Any]) -> None:
        super().__init__()
        if context.memory_dim is None:
            raise ConfigError(
                f"{context.key}.layer.name=compressed attends to an encoder's output, which only model.decoder reads; "
                "choose another layer"
            )
        self.num_heads = options.num_heads or context.num_heads
        self.key_dim = head_dim(context, self.num_heads, "layer")
        value_dim = options.value_dim or context.ffn_dim
        if value_dim % self.num_heads:
            key = "ffn_dim" if options.value_dim is None else "layer.value_dim"
            raise ConfigError(
                f"{context.key}.{key}={value_dim} does not divide into the {self.num_heads} heads of "
                f"{context.key}.layer.name=compressed"
            )
        self.value_dim = value_dim // self.num_heads
        self.norm = context.make_norm(context.embed_dim)
        embed_dim, bias = context.embed_dim, options.bias
        # Queries, keys and values of the target in one product; the inner projection reads a differently dropped input.
        self.target = context.make_linear(("q", "k", "v"), embed_dim, 2 * embed_dim + value_dim, bias=bias)
        self.source = context.make_linear(("k", "v"), context.memory_dim, embed_dim + value_dim, bias=bias)
        self.inner = context.make_linear("ffn1", embed_dim, value_dim, bias=bias)
        self.outer = context.make_linear("ffn2", value_dim, embed_dim, bias=bias)
        self.target.init(parts=(embed_dim, embed_dim, value_dim))
        self.source.init(parts=(embed_dim, value_dim))
        self.inner.init()
        self.outer.init()
        self.input_dropout = Dropout(context.dropout if options.input_dropout else 0.0)
        self.attention_dropout = Dropout(context.attention_dropout)
        self.activation_dropout = Dropout(context.activation_dropout)
        self.dropout = Dropout(context.dropout)

    def forward(self, x: Tensor, mask: SelfMask, memo: ForwardPass, encoder_out: EncoderOut | None = None) -> Tensor:
        assert encoder_out is not None, NO_ENCODER
        u = self.norm(x)
        q, k, v = self._of_target(u)
        may = mask.attn_mask
        if mask.causal:
            before = causal_mask(x.size(1), x.device)
            may = before if may is None else may & before
        source = self._of_source(encoder_out)
        attended = self._attend(q, source, memory_mask(encoder_out.padding_mask), (k, v), may)
        return x + self._transform(u, attended)

    def init_state(self, rows: int, max_len: int, like: Tensor) -> State:
        return {
            "k": Columns.empty(rows, self.num_heads, max_len, self.key_dim, like),
            "v": Columns.empty(rows, self.num_heads, max_len, self.value_dim, like),
        }

    def init_memory(self, encoder_out: EncoderOut | None) -> State:
        assert encoder_out is not None, NO_ENCODER
        k, v = self._of_source(encoder_out)
        return {"k": k.contiguous(), "v": v.contiguous()}  # every step reads them

    def step(self, x: Tensor, cache: State, memory: State, step: Step, memo: ForwardPass) -> Tensor:
        u = self.norm(x)
        q, k, v = self._of_target(u)  # (rows, num_heads, num_tokens, ...)
        target = step.write(cache["k"], k), step.write(cache["v"], v)  # (bsz, num_heads, span * beam, ...)
        source = memory["k"], memory["v"]
        attended = self._attend(step.queries(q), source, step.memory_mask, target, step.attn_mask)
        return x + self._transform(u, step.answers(attended))

    def _of_target(self, u: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Queries, keys and values, each (bsz, num_heads, length, key_dim or value_dim)."""
        keys, values = self.num_heads * self.key_dim, self.num_heads * self.value_dim
        q, k, v = self.target(u).split((keys, keys, values), dim=-1)
        return split_heads(q, self.num_heads), split_heads(k, self.num_heads), split_heads(v, self.num_heads)

    def _of_source(self, encoder_out: EncoderOut) -> tuple[Tensor, Tensor]:
        """Keys and values, each (bsz, num_heads, src_len, key_dim or value_dim)."""
        sizes = self.num_heads * self.key_dim, self.num_heads * self.value_dim
        k, v = self.source(encoder_out.states).split(sizes, dim=-1)
        return split_heads(k, self.num_heads), split_heads(v, self.num_heads)

    def _attend(
        self,
        q: Tensor,
        source: tuple[Tensor, Tensor],
        source_mask: Tensor | None,
        target: tuple[Tensor, Tensor],
        target_mask: Tensor | None,
    ) -> Tensor:
        """One softmax over source and target, whose keys and values are never copied to lie together.

        Returns:
            (bsz, num_heads, number of queries, value_dim).
        """
        bsz, num_heads, num_queries, _ = q.shape
        q = (q * self.key_dim**-0.5).flatten(0, 1)

        def scores(keys: Tensor, mask: Tensor | None) -> Tensor:
            # Flattened here: torch.matmul would copy keys and values, which are a part of a larger state.
            products = torch.bmm(q, keys.flatten(0, 1).transpose(1, 2))
            return mask_scores(products.view(bsz, num_heads, num_queries, -1), mask)

        (k_source, v_source), (k_target, v_target) = source, target
        joint = torch.cat([scores(k_source, source_mask), scores(k_target, target_mask)], dim=-1)
        if joint.dtype in (torch.bfloat16, torch.float16):
            joint = joint.float()
        weights = self.attention_dropout(torch.softmax(joint, dim=-1)).to(v_target.dtype).flatten(0, 1)
        src_len = k_source.size(2)
        attended = torch.bmm(weights[..., :src_len], v_source.flatten(0, 1))
        attended = torch.baddbmm(attended, weights[..., src_len:], v_target.flatten(0, 1))
        return attended.view(bsz, num_heads, num_queries, self.value_dim)

    def _transform(self, u: Tensor, attended: Tensor) -> Tensor:
        """The branch of the residual: the feed-forward network, with what was attended to in its inner space."""
        inner = self.inner(self.input_dropout(u)) + merge_heads(attended)
        return self.dropout(self.outer(self.activation_dropout(F.relu(inner))))
