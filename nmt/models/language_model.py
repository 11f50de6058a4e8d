"""The decoder-only model, assembled from the decoder's slots."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from nmt.config import parse_options
from nmt.models.encoder_decoder import (
    DecoderOnlyOptions,
    ModelOutput,
    SequenceModel,
    SharedOptions,
    build_decoder,
    parse_decoder,
)
from nmt.models.interfaces import Decoder, Embedding, EncoderOut, ForwardPass, Output, VocabularySizes
from nmt.models.linear import LinearMaker
from nmt.registry import build
from nmt.text.vocabulary import BOS


class LanguageModel(SequenceModel):
    """A decoder that reads its own prefix only; sources are ignored, however long.

    Args:
        embedding: tokens to vectors.
        decoder: built without cross-attention.
        output: decoder states to words.
    """

    def __init__(self, *, embedding: Embedding, decoder: Decoder, output: Output) -> None:
        super().__init__()
        self.embedding = embedding
        self.decoder = decoder
        self.output = output

    @property
    def max_source_length(self) -> int | None:
        return None

    def encode(self, src_tokens: Tensor) -> EncoderOut:
        """Nothing: no positions, of as many sentences and of the number format in which the decoder works."""
        first = self.embedding.embed_target(src_tokens.new_full((src_tokens.size(0), 1), BOS))
        return EncoderOut(first[:, :0], None)

    def forward(self, src_tokens: Tensor, prev_output_tokens: Tensor) -> ModelOutput:
        memo = ForwardPass()
        hidden = self.decoder(prev_output_tokens, None, memo)
        return ModelOutput(hidden, None, memo.losses, memo.figures)


def build_language_model(node: Mapping[str, Any], *, vocab_size: int) -> LanguageModel:
    """Assemble a model from the node ``model`` of a configuration.

    Presets serve translation too: the nodes ``encoder`` and ``decoder.cross_attention`` are not looked at.

    Args:
        node: see ``SharedOptions``.
        vocab_size: number of types.

    Raises:
        ConfigError: unknown key or component, wrong type, value out of range, or dimensions that do not fit.
    """
    options = parse_options(SharedOptions, {k: v for k, v in node.items() if k != "encoder"}, key="model")
    decoder_options, own = parse_decoder(DecoderOnlyOptions, options.decoder)
    own.pop("cross_attention", None)
    dim = decoder_options.embed_dim
    sizes = VocabularySizes(0, vocab_size, True, dim, dim, options.dropout)
    embedding = build("embedding", options.embedding, key="model.embedding", sizes=sizes)
    decoder, output = build_decoder(
        options,
        decoder_options,
        own,
        memory_dim=None,
        vocab_size=vocab_size,
        embedding=embedding,
        make_linear=LinearMaker(options.linear),
    )
    return LanguageModel(embedding=embedding, decoder=decoder, output=output)
