"""The left-to-right decoder."""

from __future__ import annotations

from torch import Tensor

from nmt.models.interfaces import Decoder, Embedding, EncoderOut, ForwardPass, Stack
from nmt.models.masks import SelfMask, memory_mask
from nmt.models.state import DecoderState
from nmt.registry import NoOptions, register
from nmt.text.vocabulary import PAD


@register("decoder", "autoregressive", paper="Vaswani et al. 2017, arXiv:1706.03762")
class AutoregressiveDecoder(Decoder):
    """Predicts every word from the words before it."""

    def __init__(self, options: NoOptions, *, stack: Stack, embedding: Embedding) -> None:
        super().__init__()
        self.stack = stack
        self.embedding = embedding

    def forward(self, prev_output_tokens: Tensor, encoder_out: EncoderOut | None, memo: ForwardPass) -> Tensor:
        memo.enter_stack(prev_output_tokens.eq(PAD))
        x = self.embedding.embed_target(prev_output_tokens)
        # Padding stands at the end, where no real position of a causal mask sees it.
        return self.stack(x, SelfMask(causal=True), memo, encoder_out)

    def init_state(self, encoder_out: EncoderOut, beam: int, max_len: int) -> DecoderState:
        states = encoder_out.states
        bsz = states.size(0)
        return DecoderState.start(
            self.stack.init_state(bsz * beam, max_len, states),
            self.stack.init_memory(encoder_out),
            memory_mask(encoder_out.padding_mask),
            bsz=bsz,
            beam=beam,
            max_len=max_len,
            device=states.device,
        )

    def step(self, tokens: Tensor, state: DecoderState) -> Tensor:
        x = self.embedding.embed_target(tokens, state.position)
        step = state.begin(tokens.size(1), x)
        return self.stack.step(x, state.cache, state.memory, step, ForwardPass())
