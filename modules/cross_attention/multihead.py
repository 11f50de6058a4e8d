"""Multi-head attention from decoder to encoder positions (Vaswani et al. 2017, arXiv:1706.03762, section 3.2)."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from nmt.config import option
from nmt.limits import MAX_HEADS
from nmt.models.attention import attend, attention_weights
from nmt.models.heads import head_dim, merge_heads, split_heads
from nmt.models.interfaces import CrossAttention, EncoderOut, ForwardPass, LayerContext
from nmt.models.masks import memory_mask
from nmt.models.state import State, Step
from nmt.registry import register


@dataclass
class MultiheadOptions:
    """Options of ``multihead`` (cross attention)."""

    num_heads: int | None = option(None, "heads; default: the stack's num_heads", minimum=1, maximum=MAX_HEADS)
    bias: bool = option(True, "biases in the projections")


@register("cross_attention", "multihead", options=MultiheadOptions, paper="Vaswani et al. 2017, arXiv:1706.03762")
class MultiheadCrossAttention(CrossAttention):
    """Target positions attend to all source positions by scaled dot products, in several heads."""

    def __init__(self, options: MultiheadOptions, *, context: LayerContext) -> None:
        super().__init__()
        self.num_heads = options.num_heads or context.num_heads
        self.head_dim = head_dim(context, self.num_heads, "cross_attention")
        self.dropout = context.attention_dropout
        self._make_projections(options, context)

    def _make_projections(self, options: MultiheadOptions, context: LayerContext) -> None:
        assert context.memory_dim is not None, "cross-attention is built in decoders that read an encoder"
        self.q = context.make_linear("q", context.embed_dim, context.embed_dim, bias=options.bias)
        self.kv = context.make_linear(("k", "v"), context.memory_dim, 2 * context.embed_dim, bias=options.bias)
        self.out = context.make_linear("o", context.embed_dim, context.embed_dim, bias=options.bias)
        self.q.init()
        self.kv.init(parts=2)
        self.out.init()

    def init_memory(self, encoder_out: EncoderOut) -> State:
        k, v = self._project(encoder_out)
        return {"k": k.contiguous(), "v": v.contiguous()}  # every step reads them

    def _project(self, encoder_out: EncoderOut) -> tuple[Tensor, Tensor]:
        """Keys and values, each (bsz, num_heads, src_len, head_dim)."""
        bsz, src_len, _ = encoder_out.states.shape
        k, v = self.kv(encoder_out.states).view(bsz, src_len, 2, self.num_heads, self.head_dim).permute(2, 0, 3, 1, 4)
        return k, v

    def forward(self, x: Tensor, encoder_out: EncoderOut, memo: ForwardPass) -> Tensor:
        return self._attend(x, *self._project(encoder_out), memory_mask(encoder_out.padding_mask))

    def step(self, x: Tensor, memory: State, step: Step, memo: ForwardPass) -> Tensor:
        # The hypotheses of a sentence stand in as positions of one sequence: its keys are read once, never copied.
        rows, num_tokens, embed_dim = x.shape
        x = x.view(memory["k"].size(0), -1, embed_dim)  # (bsz, beam * num_tokens, embed_dim)
        return self._attend(x, memory["k"], memory["v"], step.memory_mask).view(rows, num_tokens, embed_dim)

    def _attend(self, x: Tensor, k: Tensor, v: Tensor, attn_mask: Tensor | None) -> Tensor:
        q = split_heads(self.q(x), self.num_heads)
        dropout = self.dropout if self.training else 0.0
        attended = attend(q, k, v, attn_mask=attn_mask, dropout=dropout)
        return self.out(merge_heads(attended))

    def weights(self, x: Tensor, encoder_out: EncoderOut, memo: ForwardPass) -> Tensor | None:
        q, (k, _) = split_heads(self.q(x), self.num_heads), self._project(encoder_out)
        return attention_weights(q, k, attn_mask=memory_mask(encoder_out.padding_mask))
