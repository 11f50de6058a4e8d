"""Self-attention whose weights are shared between layers (Xiao et al. 2019, arXiv:1906.11024)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from nmt.config import option
from nmt.limits import MAX_LAYERS
from nmt.models.attention import attention_weights, weighted_sum
from nmt.models.dropout import Dropout
from nmt.models.heads import merge_heads, split_heads
from nmt.models.interfaces import ForwardPass, LayerContext
from nmt.models.masks import SelfMask
from nmt.models.sharing import place_in_block, select_policy
from nmt.models.state import Columns, State, Step
from nmt.registry import register

from .multihead import MultiheadOptions, MultiheadSelfAttention

WEIGHTS = "self-attention weights of the block"
"""Where the first layer of a block leaves its weights in the memo, (bsz, num_heads, tgt_len, src_len)."""


@dataclass
class SharedOptions(MultiheadOptions):
    """Options of ``shared`` (self attention)."""

    policy: list[int] | None = option(
        None,
        "layers in each block, from the bottom, such as [2, 4]; default: one block of all layers",
        minimum=1,
        maximum=MAX_LAYERS,
    )


@register("self_attention", "shared", options=SharedOptions, paper="Xiao et al. 2019, arXiv:1906.11024")
class SharedSelfAttention(MultiheadSelfAttention):
    """The first layer of a block computes attention weights; those above apply them to values of their own."""

    def _make_projections(self, options: MultiheadOptions, context: LayerContext) -> None:
        assert isinstance(options, SharedOptions)
        place = place_in_block(options.policy, context, "self_attention")
        self.leads, self.follows = place.leads, place.follows
        if self.leads or self.follows:
            self.drop_weights = Dropout(context.attention_dropout)
        if not self.follows:
            super()._make_projections(options, context)
            return
        self.v = context.make_linear("v", context.embed_dim, context.embed_dim, bias=options.bias)
        self.out = context.make_linear("o", context.embed_dim, context.embed_dim, bias=options.bias)
        self.v.init(gain=2**-0.5)  # as the values of multi-head attention
        self.out.init()

    @classmethod
    def select_layers(cls, node: Mapping[str, Any], kept: Sequence[int]) -> dict[str, Any]:
        return {**node, "policy": select_policy(node.get("policy"), kept, "self_attention")}

    def forward(self, x: Tensor, mask: SelfMask, memo: ForwardPass) -> Tensor:
        if self.follows:
            return self._finish(memo.shared[WEIGHTS], split_heads(self.v(x), self.num_heads))
        if not self.leads:
            return super().forward(x, mask, memo)
        q, k, v = self._project(x)
        weights = attention_weights(q, k, attn_mask=mask.attn_mask, is_causal=mask.causal)
        memo.shared[WEIGHTS] = weights
        return self._finish(weights, v)

    def _finish(self, weights: Tensor, v: Tensor) -> Tensor:
        return self.out(merge_heads(weighted_sum(self.drop_weights(weights), v)))

    def init_state(self, rows: int, max_len: int, like: Tensor) -> State:
        if not self.follows:
            return super().init_state(rows, max_len, like)
        return {"v": Columns.empty(rows, self.num_heads, max_len, self.head_dim, like)}

    def step(self, x: Tensor, cache: State, step: Step, memo: ForwardPass) -> Tensor:
        if not (self.leads or self.follows):
            return super().step(x, cache, step, memo)
        if self.follows:
            v = split_heads(self.v(x), self.num_heads)
        else:
            q, k, v = self._project(x)  # (rows, num_heads, num_tokens, head_dim)
            k = step.write(cache["k"], k)
            # Of all hypotheses of a sentence over all its columns: (bsz, num_heads, beam * num_tokens, span * beam).
            memo.shared[WEIGHTS] = attention_weights(step.queries(q), k, attn_mask=step.attn_mask)
        v = step.write(cache["v"], v)
        return self.out(merge_heads(step.answers(weighted_sum(memo.shared[WEIGHTS], v))))

    def weights(self, x: Tensor, mask: SelfMask, memo: ForwardPass) -> Tensor | None:
        return memo.shared[WEIGHTS] if self.follows else super().weights(x, mask, memo)

    def adopt(self, found: Mapping[str, Tensor]) -> dict[str, Tensor]:
        if not self.follows:
            return {}
        values = slice(-self.v.out_features, None)  # the last third of queries, keys and values
        return {f"v.{kind}": found[f"qkv.{kind}"][values] for kind in ("weight", "bias") if f"qkv.{kind}" in found}
