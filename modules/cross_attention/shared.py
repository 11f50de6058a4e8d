"""Cross-attention that is shared between layers (Xiao et al. 2019, arXiv:1906.11024)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import Enum
from typing import Any

from torch import Tensor

from nmt.config import ConfigError, option
from nmt.limits import MAX_LAYERS
from nmt.models.attention import attend, attention_weights, weighted_sum
from nmt.models.dropout import Dropout
from nmt.models.heads import merge_heads, split_heads
from nmt.models.interfaces import EncoderOut, ForwardPass, LayerContext
from nmt.models.masks import memory_mask
from nmt.models.sharing import place_in_block, select_policy
from nmt.models.state import State, Step
from nmt.registry import register

from .multihead import MultiheadCrossAttention, MultiheadOptions


class Share(Enum):
    """What the first layer of a block leaves to the others."""

    context = "context"
    weights = "weights"


class ContextPoint(Enum):
    """Where a context is taken."""

    post_out = "post_out"
    pre_out = "pre_out"


LEFT = "cross-attention of the block"
"""Where the first layer of a block leaves in the memo what it shares: weights (bsz, num_heads, tgt_len, src_len), or
the context (bsz, tgt_len, embed_dim); in decoding steps tgt_len counts the tokens of all hypotheses of a sentence."""

SEEN = "cross-attention weights of the block, for analysis"


@dataclass
class SharedOptions(MultiheadOptions):
    """Options of ``shared`` (cross attention)."""

    policy: list[int] | None = option(
        None,
        "layers in each block, from the bottom, such as [4, 2]; default: one block of all layers",
        minimum=1,
        maximum=MAX_LAYERS,
    )
    share: Share = option(Share.context, "context: the weighted sum of the values; weights: each layer has own values")
    context_point: ContextPoint = option(
        ContextPoint.post_out, "the context shared: post_out: after the output projection; pre_out: before it"
    )


@register("cross_attention", "shared", options=SharedOptions, paper="Xiao et al. 2019, arXiv:1906.11024")
class SharedCrossAttention(MultiheadCrossAttention):
    """The first layer of a block reads the source; those above reuse what it read, or its attention weights."""

    def _make_projections(self, options: MultiheadOptions, context: LayerContext) -> None:
        assert isinstance(options, SharedOptions)
        place = place_in_block(options.policy, context, "cross_attention")
        if options.share is Share.weights and options.context_point is ContextPoint.pre_out:
            raise ConfigError(
                f"{context.key}.cross_attention.context_point=pre_out would do nothing with share=weights, which "
                "shares no context; leave it out, or choose share=context"
            )
        self.leads, self.follows = place.leads, place.follows
        self.takes_raw = self.follows  # it has no query that would have to be normalised
        self.shares_weights = options.share is Share.weights
        self.shares_output = options.share is Share.context and options.context_point is ContextPoint.post_out
        if self.shares_weights and (self.leads or self.follows):
            self.drop_weights = Dropout(context.attention_dropout)
        if not self.follows:
            super()._make_projections(options, context)
            return
        if self.shares_weights:
            assert context.memory_dim is not None, "cross-attention is built in decoders that read an encoder"
            self.v = context.make_linear("v", context.memory_dim, context.embed_dim, bias=options.bias)
            self.v.init(gain=2**-0.5)  # as the values of multi-head attention
        if not self.shares_output:
            self.out = context.make_linear("o", context.embed_dim, context.embed_dim, bias=options.bias)
            self.out.init()

    @classmethod
    def select_layers(cls, node: Mapping[str, Any], kept: Sequence[int]) -> dict[str, Any]:
        return {**node, "policy": select_policy(node.get("policy"), kept, "cross_attention")}

    def init_memory(self, encoder_out: EncoderOut) -> State:
        if not self.follows:
            return super().init_memory(encoder_out)
        return {"v": self._values(encoder_out).contiguous()} if self.shares_weights else {}

    def _values(self, encoder_out: EncoderOut) -> Tensor:
        return split_heads(self.v(encoder_out.states), self.num_heads)

    def forward(self, x: Tensor, encoder_out: EncoderOut, memo: ForwardPass) -> Tensor:
        if not self.follows:
            k, v = self._project(encoder_out)
            return self._lead(x, k, v, memory_mask(encoder_out.padding_mask), memo)
        return self._follow(self._values(encoder_out) if self.shares_weights else None, memo)

    def step(self, x: Tensor, memory: State, step: Step, memo: ForwardPass) -> Tensor:
        rows, num_tokens, embed_dim = x.shape
        if self.follows:
            y = self._follow(memory.get("v"), memo)
        else:
            x = x.view(memory["k"].size(0), -1, embed_dim)  # (bsz, beam * num_tokens, embed_dim)
            y = self._lead(x, memory["k"], memory["v"], step.memory_mask, memo)
        return y.view(rows, num_tokens, embed_dim)

    def _lead(self, x: Tensor, k: Tensor, v: Tensor, attn_mask: Tensor | None, memo: ForwardPass) -> Tensor:
        if not self.leads:
            return self._attend(x, k, v, attn_mask)
        q = split_heads(self.q(x), self.num_heads)
        if self.shares_weights:
            weights = memo.shared[LEFT] = attention_weights(q, k, attn_mask=attn_mask)
            return self.out(merge_heads(weighted_sum(self.drop_weights(weights), v)))
        dropout = self.dropout if self.training else 0.0
        context = merge_heads(attend(q, k, v, attn_mask=attn_mask, dropout=dropout))
        y: Tensor = self.out(context)
        memo.shared[LEFT] = y if self.shares_output else context
        return y

    def _follow(self, v: Tensor | None, memo: ForwardPass) -> Tensor:
        left: Tensor = memo.shared[LEFT]
        if v is not None:
            left = merge_heads(weighted_sum(self.drop_weights(left), v))
        return left if self.shares_output else self.out(left)

    def weights(self, x: Tensor, encoder_out: EncoderOut, memo: ForwardPass) -> Tensor | None:
        if not self.follows:
            memo.shared[SEEN] = super().weights(x, encoder_out, memo)
        return memo.shared[SEEN]

    def adopt(self, found: Mapping[str, Tensor]) -> dict[str, Tensor]:
        if not (self.follows and self.shares_weights):
            return {}
        values = slice(-self.v.out_features, None)  # the second half of keys and values
        return {f"v.{kind}": found[f"kv.{kind}"][values] for kind in ("weight", "bias") if f"kv.{kind}" in found}
