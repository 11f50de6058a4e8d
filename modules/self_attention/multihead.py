"""Multi-head self-attention (Vaswani et al. 2017, arXiv:1706.03762, section 3.2)."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from nmt.config import option
from nmt.limits import MAX_HEADS
from nmt.models.attention import attend, attention_weights
from nmt.models.heads import head_dim, merge_heads
from nmt.models.interfaces import ForwardPass, LayerContext, SelfAttention
from nmt.models.masks import SelfMask
from nmt.models.state import Columns, State, Step
from nmt.registry import register


@dataclass
class MultiheadOptions:
    """Options of ``multihead`` (self attention)."""

    num_heads: int | None = option(None, "heads; default: the stack's num_heads", minimum=1, maximum=MAX_HEADS)
    bias: bool = option(True, "biases in the projections")


@register("self_attention", "multihead", options=MultiheadOptions, paper="Vaswani et al. 2017, arXiv:1706.03762")
class MultiheadSelfAttention(SelfAttention):
    """Every position attends to the others by scaled dot products, in several heads."""

    def __init__(self, options: MultiheadOptions, *, context: LayerContext) -> None:
        super().__init__()
        self.num_heads = options.num_heads or context.num_heads
        self.head_dim = head_dim(context, self.num_heads, "self_attention")
        self.dropout = context.attention_dropout
        self._make_projections(options, context)

    def _make_projections(self, options: MultiheadOptions, context: LayerContext) -> None:
        # Queries, keys and values in one product; each third is initialised as a matrix of its own.
        self.qkv = context.make_linear(("q", "k", "v"), context.embed_dim, 3 * context.embed_dim, bias=options.bias)
        self.out = context.make_linear("o", context.embed_dim, context.embed_dim, bias=options.bias)
        self.qkv.init(parts=3)
        self.out.init()

    def _project(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """(bsz, length, embed_dim) to queries, keys, values, each (bsz, num_heads, length, head_dim)."""
        bsz, length, _ = x.shape
        q, k, v = self.qkv(x).view(bsz, length, 3, self.num_heads, self.head_dim).permute(2, 0, 3, 1, 4)
        return q, k, v

    def forward(self, x: Tensor, mask: SelfMask, memo: ForwardPass) -> Tensor:
        q, k, v = self._project(x)
        dropout = self.dropout if self.training else 0.0
        attended = attend(q, k, v, attn_mask=mask.attn_mask, is_causal=mask.causal, dropout=dropout)
        return self.out(merge_heads(attended))

    def init_state(self, rows: int, max_len: int, like: Tensor) -> State:
        shape = (rows, self.num_heads, max_len, self.head_dim)
        return {"k": Columns.empty(*shape, like), "v": Columns.empty(*shape, like)}

    def step(self, x: Tensor, cache: State, step: Step, memo: ForwardPass) -> Tensor:
        q, k, v = self._project(x)  # (rows, num_heads, num_tokens, head_dim)
        k, v = step.write(cache["k"], k), step.write(cache["v"], v)  # (bsz, num_heads, span * beam, head_dim)
        attended = step.answers(attend(step.queries(q), k, v, attn_mask=step.attn_mask))
        return self.out(merge_heads(attended))

    def weights(self, x: Tensor, mask: SelfMask, memo: ForwardPass) -> Tensor | None:
        q, k, _ = self._project(x)
        return attention_weights(q, k, attn_mask=mask.attn_mask, is_causal=mask.causal)
