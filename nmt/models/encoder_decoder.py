"""The encoder-decoder model, assembled from slots."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from nmt.config import ConfigError, option, parse_options
from nmt.limits import MAX_HEADS, MAX_LAYERS, MAX_WIDTH
from nmt.models.interfaces import (
    Decoder,
    Embedding,
    EncoderOut,
    ForwardPass,
    Layer,
    LayerContext,
    Output,
    Part,
    Stack,
    VocabularySizes,
)
from nmt.models.linear import LinearMaker
from nmt.models.masks import SelfMask
from nmt.models.state import DecoderState
from nmt.registry import build, changed_options, slots
from nmt.text.vocabulary import PAD

T = TypeVar("T", bound="DecoderOnlyOptions")


@dataclass
class StackOptions:
    """Dimensions that a stack shares, and the components in its slots (each ``name`` and that component's options)."""

    layers: int = option(help="number of layers", minimum=0, maximum=MAX_LAYERS)
    embed_dim: int = option(help="width of the residual stream", minimum=1, maximum=MAX_WIDTH)
    ffn_dim: int = option(help="inner width of the feed-forward sub-layer", minimum=1, maximum=MAX_WIDTH)
    num_heads: int = option(help="attention heads", minimum=1, maximum=MAX_HEADS)
    self_attention: Any = option(help="slot")
    feed_forward: Any = option(help="slot")
    layer: Any = option(help="slot")
    stack: Any = option(help="slot")


@dataclass
class DecoderOnlyOptions(StackOptions):
    """The stack of a decoder. Keys beyond these are options of the decoder component."""

    name: str = option(help="the decoder component")


@dataclass
class DecoderOptions(DecoderOnlyOptions):
    """A stack that also reads the encoder's output."""

    cross_attention: Any = option(help="slot")


@dataclass
class SharedOptions:
    """``model.*`` without an encoder."""

    decoder: Any = option(help="dimensions, slots and options of the decoder")
    embedding: Any = option(help="slot")
    norm: Any = option(help="slot")
    linear: Any = option({"name": "dense"}, "slot")
    output: Any = option(help="slot")
    dropout: float = option(help="of residual branches and embeddings", minimum=0, below=1, training_only=True)
    attention_dropout: float = option(help="of attention weights", minimum=0, below=1, training_only=True)
    activation_dropout: float = option(help="after the feed-forward activation", minimum=0, below=1, training_only=True)


@dataclass
class ModelOptions(SharedOptions):
    """``model.*``."""

    encoder: StackOptions = field(default_factory=StackOptions)


@dataclass
class ModelOutput:
    """A training pass.

    Attributes:
        hidden: decoder states (bsz, tgt_len, embed_dim), input of ``model.output``.
        encoder_out: what the encoder returned; None in a model without one.
        losses: terms that components add to the loss.
        figures: scalars for the log.
    """

    hidden: Tensor
    encoder_out: EncoderOut | None
    losses: dict[str, Tensor]
    figures: dict[str, Tensor]


class SequenceModel(nn.Module, ABC):
    """A decoder and what stands around it: all that training and searching ask of a model.

    Attributes:
        embedding: tokens to vectors.
        decoder: the target side.
        output: decoder states to words.
    """

    embedding: Embedding
    decoder: Decoder
    output: Output

    @property
    @abstractmethod
    def max_source_length(self) -> int | None:
        """Largest number of source positions, end of sentence included; None = no limit."""

    @property
    def max_target_length(self) -> int | None:
        """Largest number of target positions, end of sentence included; None = no limit."""
        return self.embedding.max_positions

    @abstractmethod
    def encode(self, src_tokens: Tensor) -> EncoderOut:
        """What the decoder is told of the sources int64 (bsz, src_len), padded at the end."""

    @abstractmethod
    def forward(self, src_tokens: Tensor, prev_output_tokens: Tensor) -> ModelOutput:
        """All target positions with the true prefixes (teacher forcing).

        Args:
            src_tokens: int64 (bsz, src_len).
            prev_output_tokens: int64 (bsz, tgt_len): the target shifted right, starting with BOS.
        """

    def init_state(self, encoder_out: EncoderOut, beam: int, max_len: int) -> DecoderState:
        """State for ``beam`` hypotheses of every sentence, up to ``max_len`` target positions each."""
        return self.decoder.init_state(encoder_out, beam, max_len)

    def step(self, tokens: Tensor, state: DecoderState, top: int | None = None) -> Tensor:
        """Extend every hypothesis by ``tokens`` and predict what comes next.

        Args:
            tokens: int64 (rows, num_tokens): one token, or a prefix at once.
            state: advanced in place.
            top: how many of the best of a row must be exact, see ``Output.top_log_probs``; None = all.

        Returns:
            Log-probabilities of the next token, float32 (rows, vocab_size).
        """
        hidden = self.decoder.step(tokens, state)[:, -1]
        return self.output.log_probs(hidden) if top is None else self.output.top_log_probs(hidden, top)


class EncoderDecoder(SequenceModel):
    """An encoder, a decoder and what they share.

    Args:
        embedding: tokens to vectors, both sides.
        encoder: stack over the source.
        decoder: the target side.
        output: decoder states to words.
    """

    def __init__(self, *, embedding: Embedding, encoder: Stack, decoder: Decoder, output: Output) -> None:
        super().__init__()
        self.embedding = embedding
        self.encoder = encoder
        self.decoder = decoder
        self.output = output

    @property
    def max_source_length(self) -> int | None:
        return self.embedding.max_positions

    def encode(self, src_tokens: Tensor, memo: ForwardPass | None = None) -> EncoderOut:
        """Run the encoder.

        Args:
            src_tokens: int64 (bsz, src_len), padded at the end.
            memo: collects what layers report; a new one where absent.
        """
        padding: Tensor | None = src_tokens.eq(PAD)
        eager_cpu = src_tokens.device.type == "cpu" and not torch.compiler.is_compiling()
        if eager_cpu and padding is not None and not padding.any():
            padding = None  # attention without a mask is faster; on a GPU the question would stall the queue
        memo = ForwardPass() if memo is None else memo
        memo.enter_stack(padding)
        x = self.embedding.embed_source(src_tokens)
        x = self.encoder(x, SelfMask(causal=False, padding_mask=padding), memo)
        return EncoderOut(x, padding)

    def forward(self, src_tokens: Tensor, prev_output_tokens: Tensor) -> ModelOutput:
        memo = ForwardPass()
        encoder_out = self.encode(src_tokens, memo)
        hidden = self.decoder(prev_output_tokens, encoder_out, memo)
        return ModelOutput(hidden, encoder_out, memo.losses, memo.figures)


def build_model(node: Mapping[str, Any], *, source_size: int, target_size: int, joint: bool) -> EncoderDecoder:
    """Assemble a model from the node ``model`` of a configuration.

    Args:
        node: see ``ModelOptions``.
        source_size: number of source types.
        target_size: number of target types.
        joint: both sides have one vocabulary.

    Raises:
        ConfigError: unknown key or component, wrong type, value out of range, or dimensions that do not fit.
    """
    options = parse_options(ModelOptions, node, key="model")
    decoder_options, own = parse_decoder(DecoderOptions, options.decoder)
    sizes = VocabularySizes(
        source_size,
        target_size,
        joint,
        options.encoder.embed_dim,
        decoder_options.embed_dim,
        options.dropout,
    )
    embedding = build("embedding", options.embedding, key="model.embedding", sizes=sizes)
    make_linear = LinearMaker(options.linear)
    encoder = build_stack(
        options, options.encoder, key="model.encoder", memory_dim=None, causal=False, make_linear=make_linear
    )
    decoder, output = build_decoder(
        options,
        decoder_options,
        own,
        memory_dim=options.encoder.embed_dim,
        vocab_size=target_size,
        embedding=embedding,
        make_linear=make_linear,
    )
    return EncoderDecoder(embedding=embedding, encoder=encoder, decoder=decoder, output=output)


def parse_decoder(schema: type[T], node: Any) -> tuple[T, dict[str, Any]]:
    """The node ``model.decoder``: the keys of a schema, and the rest, which are the decoder component's own."""
    if not isinstance(node, Mapping):
        raise ConfigError(f"model.decoder={node} must be a group of keys: model.decoder.KEY=VALUE")
    names = {item.name for item in fields(schema)}
    known = parse_options(schema, {k: v for k, v in node.items() if k in names}, key="model.decoder")
    return known, {k: v for k, v in node.items() if k not in names}


def build_decoder(
    model: SharedOptions,
    options: DecoderOnlyOptions,
    own: Mapping[str, Any],
    *,
    memory_dim: int | None,
    vocab_size: int,
    embedding: Embedding,
    make_linear: LinearMaker,
) -> tuple[Decoder, Output]:
    """The target side and what scores its words."""
    stack = build_stack(
        model, options, key="model.decoder", memory_dim=memory_dim, causal=True, make_linear=make_linear
    )
    decoder = build("decoder", {"name": options.name, **own}, key="model.decoder", stack=stack, embedding=embedding)
    output = build(
        "output",
        model.output,
        key="model.output",
        embed_dim=options.embed_dim,
        vocab_size=vocab_size,
        embedding=embedding,
        make_linear=make_linear,
    )
    make_linear.check_used()
    return decoder, output


def build_stack(
    model: SharedOptions,
    options: StackOptions,
    *,
    key: str,
    memory_dim: int | None,
    causal: bool,
    make_linear: LinearMaker,
) -> Stack:
    """Build a stack: every layer with its own parts, then the component that chains them."""
    if options.embed_dim % options.num_heads:
        raise ConfigError(f"{key}.num_heads={options.num_heads} does not divide {key}.embed_dim={options.embed_dim}")

    def make_norm(width: int) -> nn.Module:
        norm: nn.Module = build("norm", model.norm, key="model.norm", width=width)
        return norm

    layers = []
    for index in range(options.layers):
        context = LayerContext(
            key=key,
            embed_dim=options.embed_dim,
            ffn_dim=options.ffn_dim,
            num_heads=options.num_heads,
            memory_dim=memory_dim,
            dropout=model.dropout,
            attention_dropout=model.attention_dropout,
            activation_dropout=model.activation_dropout,
            causal=causal,
            layer=index,
            num_layers=options.layers,
            make_norm=make_norm,
            make_linear=make_linear,
        )

        def make_part(slot: str, context: LayerContext = context) -> Any:
            part = build(slot, getattr(options, slot), key=f"{key}.{slot}", context=context)
            _check_direction(part, slot, getattr(options, slot), context)
            return part

        layer = build("layer", options.layer, key=f"{key}.layer", context=context, make_part=make_part)
        _check_direction(layer, "layer", options.layer, context)
        layers.append(layer)
    for layer in layers[:1]:
        _check_unused(options, layer, key)
    stack: Stack = build(
        "stack", options.stack, key=f"{key}.stack", layers=layers, make_norm=lambda: make_norm(options.embed_dim)
    )
    return stack


def _check_direction(part: Part, slot: str, node: Mapping[str, Any], context: LayerContext) -> None:
    """Refuse in an encoder what cannot see later positions."""
    if part.causal_only and not context.causal:
        components = slots()[slot].components.items()
        valid = sorted(name for name, c in components if not getattr(c.factory, "causal_only", False))
        raise ConfigError(
            f"{context.key}.{slot}.name={node['name']} sees only earlier positions and works in decoders alone; "
            f"valid options: {', '.join(repr(name) for name in valid)}"
        )


def _check_unused(options: StackOptions, layer: Layer, key: str) -> None:
    """Refuse a component, or an option of it, in a slot that the layer has no place for: it would do nothing."""
    for slot, usual in layer.unused.items():
        node = getattr(options, slot, None)
        if node is None:
            continue
        name = node.get("name") if isinstance(node, Mapping) else node
        chosen = {"name": name} if name != usual else changed_options(slot, node, key=f"{key}.{slot}")
        for option_name, value in chosen.items():
            raise ConfigError(
                f"{key}.{slot}.{option_name}={value} would do nothing: {key}.layer.name={options.layer['name']} has no "
                f"such part; leave {key}.{slot} out, or choose another layer"
            )


def num_parameters(model: nn.Module) -> int:
    """Number of trainable values, tied ones counted once."""
    return sum(p.numel() for p in model.parameters() if p.requires_grad)


def full_log_probs(model: SequenceModel, src_tokens: Tensor, prev_output_tokens: Tensor) -> Tensor:
    """Log-probabilities of every target position at once, float32 (bsz, tgt_len, vocab_size)."""
    hidden = model(src_tokens, prev_output_tokens).hidden
    return model.output.log_probs(hidden)
