"""The left-to-right decoder."""

from __future__ import annotations

import torch
from torch import Tensor

from nmt.models.interfaces import Decoder, Embedding, EncoderOut, ForwardPass, Stack
from nmt.models.masks import SelfMask, memory_mask, step_mask
from nmt.models.state import DecoderState, Step
from nmt.registry import NoOptions, register


@register("decoder", "autoregressive", paper="Vaswani et al. 2017, arXiv:1706.03762")
class AutoregressiveDecoder(Decoder):
    """Predicts every word from the words before it."""

    def __init__(self, options: NoOptions, *, stack: Stack, embedding: Embedding) -> None:
        super().__init__()
        self.stack = stack
        self.embedding = embedding

    def forward(self, prev_output_tokens: Tensor, encoder_out: EncoderOut | None, memo: ForwardPass) -> Tensor:
        x = self.embedding.embed_target(prev_output_tokens)
        # Padding stands at the end, where no real position of a causal mask sees it.
        return self.stack(x, SelfMask(causal=True), memo, encoder_out)

    def init_state(self, encoder_out: EncoderOut, beam: int, max_len: int) -> DecoderState:
        states = encoder_out.states
        return DecoderState(
            cache=self.stack.init_state(states.size(0) * beam, max_len, states),
            memory=self.stack.init_memory(encoder_out),
            memory_mask=memory_mask(encoder_out.padding_mask),
            beam=beam,
            max_len=max_len,
        )

    def step(self, tokens: Tensor, state: DecoderState) -> Tensor:
        start, span = state.position, state.position + tokens.size(1)
        assert span <= state.max_len, f"{span} positions do not fit into a state of {state.max_len}"
        positions = torch.arange(start, span, device=tokens.device)
        step = Step(positions, span, step_mask(positions, span), state.memory_mask)
        x = self.embedding.embed_target(tokens, start)
        x = self.stack.step(x, state.cache, state.memory, step, ForwardPass())
        state.position = span
        return x
