"""The slots of a model and the interface that each slot's components meet.

Sizes: bsz sentences; rows = bsz * beam hypotheses; src_len, tgt_len positions; embed_dim features.

Every component is built as ``Component(options, **context)``: its own typed options, then by keyword what the frame
gives to this slot. Within a stack that is a ``LayerContext``. Components keep no state between calls: what one layer
hands to another during a forward pass goes through the ``ForwardPass``, what must survive a decoding step lies in the
state that ``init_state`` and ``init_memory`` allocate.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from nmt.models.bands import BandedVectors
from nmt.models.linear import LinearMaker
from nmt.models.masks import SelfMask
from nmt.models.state import DecoderState, State, Step
from nmt.registry import declare_slot


@dataclass
class EncoderOut:
    """What an encoder returns.

    Attributes:
        states: (bsz, src_len, embed_dim).
        padding_mask: bool (bsz, src_len), True = padding; None when nothing is padded.
    """

    states: Tensor
    padding_mask: Tensor | None


class ForwardPass:
    """One pass through a model: what layers share, and what they add to the loss and to the log.

    No dataclass: FSDP hands copies of those to the layers that it shards, and what is added to a copy is lost.

    Attributes:
        shared: values that a layer leaves for later layers of the same stack; lives for one pass or one step.
        padding_mask: bool (bsz, length), True = padding, of the positions that go through the stack now; None when
            nothing is padded, and in decoding steps.
        losses: terms that the criterion adds to its own, each a scalar on the scale of the mean loss per target
            token, in nats.
        figures: scalars for the log.
    """

    def __init__(self, padding_mask: Tensor | None = None) -> None:
        self.shared: dict[Hashable, Any] = {}
        self.padding_mask = padding_mask
        self.losses: dict[str, Tensor] = {}
        self.figures: dict[str, Tensor] = {}

    def enter_stack(self, padding_mask: Tensor | None) -> None:
        """Begin with a stack: what layers share stays within one."""
        self.shared.clear()
        self.padding_mask = padding_mask

    def add_loss(self, name: str, value: Tensor) -> None:
        """Add a term to the loss; terms of the same name (of several layers) are summed."""
        self.losses[name] = self.losses[name] + value if name in self.losses else value

    def add_figure(self, name: str, value: Tensor) -> None:
        """Report a scalar; under the same name the last one stands."""
        self.figures[name] = value.detach()


@dataclass(frozen=True)
class LayerContext:
    """What the frame tells every component inside a stack.

    Attributes:
        key: full key of the stack's node (``model.decoder``), for messages.
        embed_dim: width of the residual stream.
        ffn_dim: inner width of feed-forward components.
        num_heads: heads of attention components.
        memory_dim: width of the encoder's output; None in an encoder or a decoder-only model.
        dropout: of residual branches.
        attention_dropout: of attention weights.
        activation_dropout: after the feed-forward activation.
        causal: positions see no later ones (decoders).
        layer: index of the layer, from 0.
        num_layers: depth of the stack.
        make_norm: a norm of the model's kind over the last dimension, of the given width.
        make_linear: a linear map by its role, see ``LinearMaker``; whoever asks for it initialises it.
    """

    key: str
    embed_dim: int
    ffn_dim: int
    num_heads: int
    memory_dim: int | None
    dropout: float
    attention_dropout: float
    activation_dropout: float
    causal: bool
    layer: int
    num_layers: int
    make_norm: Callable[[int], nn.Module]
    make_linear: LinearMaker


class Part(nn.Module, ABC):
    """What the components of a layer have in common."""

    takes_raw: bool = False
    """True where a pre-norm sub-layer is to read the residual stream itself: its layer then has no norm before it."""

    follows: bool = False
    """True where it reads what the layer below left in the same pass, and so cannot run without that layer."""

    causal_only: bool = False
    """True where a position can see no later one, whatever the mask: an encoder then refuses it."""

    @classmethod
    def select_layers(cls, node: Mapping[str, Any], kept: Sequence[int]) -> dict[str, Any]:
        """The configuration node for a stack of which only some layers are left.

        Args:
            node: ``name`` and options, as configured for the whole stack.
            kept: numbers of the layers that stay, ascending.

        Raises:
            ConfigError: one of these layers cannot do without one that goes.
        """
        return dict(node)

    def adopt(self, found: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Values for its own parameters from those of another component that stood in its place.

        Parameters of the same name and shape need no conversion: they are taken as they are.

        Args:
            found: what a checkpoint has at this place, named as seen from here.

        Returns:
            Values by the names of its parameters; those that it cannot convert are left out.
        """
        return {}


class SelfAttention(Part):
    """Mixes the positions of one sequence. Built with ``context: LayerContext``."""

    @abstractmethod
    def forward(self, x: Tensor, mask: SelfMask, memo: ForwardPass) -> Tensor:
        """A whole sequence: (bsz, length, embed_dim) to the same shape."""

    @abstractmethod
    def init_state(self, rows: int, max_len: int, like: Tensor) -> State:
        """State of ``rows`` hypotheses for up to ``max_len`` positions, of the dtype and device of ``like``."""

    @abstractmethod
    def step(self, x: Tensor, cache: State, step: Step, memo: ForwardPass) -> Tensor:
        """The next positions (rows, num_tokens, embed_dim), given the state, which is advanced in place."""

    def weights(self, x: Tensor, mask: SelfMask, memo: ForwardPass) -> Tensor | None:
        """The attention weights of a pass, for analysis: asked layer by layer, with the arguments of ``forward``.

        Returns:
            (bsz, num_heads, length, length), each row adding up to 1; None where the method has no weights.
        """
        return None


class CrossAttention(Part):
    """Reads the encoder's output. Built with ``context: LayerContext``."""

    @abstractmethod
    def forward(self, x: Tensor, encoder_out: EncoderOut, memo: ForwardPass) -> Tensor:
        """All target positions: (bsz, tgt_len, embed_dim) to the same shape."""

    @abstractmethod
    def init_memory(self, encoder_out: EncoderOut) -> State:
        """What is computed once a sentence: tensors with bsz rows, shared by all hypotheses of the sentence."""

    @abstractmethod
    def step(self, x: Tensor, memory: State, step: Step, memo: ForwardPass) -> Tensor:
        """The next positions (rows, num_tokens, embed_dim); rows of one sentence are adjacent."""

    def weights(self, x: Tensor, encoder_out: EncoderOut, memo: ForwardPass) -> Tensor | None:
        """As ``SelfAttention.weights``, over the source: (bsz, num_heads, tgt_len, src_len)."""
        return None


class FeedForward(Part):
    """Transforms each position by itself. Built with ``context: LayerContext``."""

    absent: bool = False
    """True for the component that stands for no sub-layer: a layer then leaves out its norm and residual too."""

    @abstractmethod
    def forward(self, x: Tensor, memo: ForwardPass) -> Tensor:
        """(bsz, length, embed_dim) to the same shape."""


class Layer(Part):
    """One layer of a stack. Built with ``context: LayerContext`` and ``make_part``.

    ``make_part(slot)`` builds the component that the stack's node names for ``self_attention``, ``cross_attention``
    or ``feed_forward``; a layer asks only for those that it uses.
    """

    unused: Mapping[str, str] = {}
    """Slots of the stack that this layer has no place for, each with the component that presets name there; another
    component in such a slot, or an option of that one, is refused."""

    normalised: bool
    """Whether the output is normalised (post-norm); if not, the stack ends with a norm (pre-norm)."""

    @abstractmethod
    def forward(self, x: Tensor, mask: SelfMask, memo: ForwardPass, encoder_out: EncoderOut | None = None) -> Tensor:
        """A whole sequence: (bsz, length, embed_dim) to the same shape."""

    @abstractmethod
    def init_state(self, rows: int, max_len: int, like: Tensor) -> State:
        """State of ``rows`` hypotheses for up to ``max_len`` positions, of the dtype and device of ``like``."""

    @abstractmethod
    def init_memory(self, encoder_out: EncoderOut | None) -> State:
        """What is computed once a sentence: tensors with bsz rows."""

    @abstractmethod
    def step(self, x: Tensor, cache: State, memory: State, step: Step, memo: ForwardPass) -> Tensor:
        """The next positions (rows, num_tokens, embed_dim), given the state, which is advanced in place."""


class Stack(nn.Module, ABC):
    """Chains layers. Built with ``layers: list[Layer]`` and ``make_norm``, which makes a norm of the stack's width."""

    skips_layers: bool = False
    """Whether a training pass may leave layers out, chosen by each process for itself."""

    @classmethod
    def select_layers(cls, node: Mapping[str, Any], kept: Sequence[int]) -> dict[str, Any]:
        """See ``Part.select_layers``."""
        return dict(node)

    @abstractmethod
    def forward(self, x: Tensor, mask: SelfMask, memo: ForwardPass, encoder_out: EncoderOut | None = None) -> Tensor:
        """A whole sequence: (bsz, length, embed_dim) to the same shape."""

    @abstractmethod
    def init_state(self, rows: int, max_len: int, like: Tensor) -> State:
        """The states of the layers."""

    @abstractmethod
    def init_memory(self, encoder_out: EncoderOut | None) -> State:
        """What the layers compute once a sentence."""

    @abstractmethod
    def step(self, x: Tensor, cache: State, memory: State, step: Step, memo: ForwardPass) -> Tensor:
        """The next positions through all layers."""


class Embedding(nn.Module, ABC):
    """Tokens and positions to vectors, for both sides. Built with ``sizes: VocabularySizes``."""

    max_positions: int | None
    """Largest number of positions; None = no limit."""

    @abstractmethod
    def embed_source(self, tokens: Tensor) -> Tensor:
        """(bsz, src_len) int64 to (bsz, src_len, encoder embed_dim)."""

    @abstractmethod
    def embed_target(self, tokens: Tensor, start: int = 0) -> Tensor:
        """(rows, num_tokens) int64, the first at position ``start``, to (rows, num_tokens, decoder embed_dim)."""

    @abstractmethod
    def output_weight(self) -> nn.Parameter | None:
        """The matrix (vocab_size, embed_dim) that the output shares; None when it has its own.

        Raises:
            ConfigError: the output is to share vectors, but these form no such matrix (see ``output_bands``).
        """

    def output_bands(self) -> BandedVectors | None:
        """Vectors in bands that an output of the same bands shares; None when it has its own."""
        return None


@dataclass(frozen=True)
class VocabularySizes:
    """What an embedding must know of the vocabularies and the widths.

    Attributes:
        source: number of source types; 0 = there is no source side, and nothing is to be built for it.
        target: number of target types.
        joint: both sides have one vocabulary.
        encoder_dim: width of the encoder.
        decoder_dim: width of the decoder.
        dropout: applied to the sum of token and position.
    """

    source: int
    target: int
    joint: bool
    encoder_dim: int
    decoder_dim: int
    dropout: float


class Output(nn.Module, ABC):
    """Decoder states to words.

    Built with ``embed_dim``, ``vocab_size``, ``embedding: Embedding`` and ``make_linear: LinearMaker``.
    """

    @abstractmethod
    def log_probs(self, hidden: Tensor) -> Tensor:
        """(..., embed_dim) to log-probabilities (..., vocab_size), base e, float32."""

    def top_log_probs(self, hidden: Tensor, k: int) -> Tensor:
        """As ``log_probs`` (rows, vocab_size), for a search that reads the k best of a row.

        Those k and the special words' are exact; what is below them may be minus infinity instead.
        """
        return self.log_probs(hidden)

    @abstractmethod
    def loss(self, hidden: Tensor, target: Tensor, label_smoothing: float) -> tuple[Tensor, Tensor]:
        """Summed cross-entropy of the given tokens against smoothed and against true targets.

        Args:
            hidden: (num_tokens, embed_dim), without padding.
            target: int64 (num_tokens,).
            label_smoothing: epsilon; a target's distribution is (1 - epsilon) one-hot + epsilon / vocab_size.

        Returns:
            The smoothed loss (with gradient) and the negative log-likelihood (without), scalars in nats.
        """


class Decoder(nn.Module, ABC):
    """The target side. Built with ``stack: Stack`` and ``embedding: Embedding``."""

    @abstractmethod
    def forward(self, prev_output_tokens: Tensor, encoder_out: EncoderOut | None, memo: ForwardPass) -> Tensor:
        """Target prefixes int64 (bsz, tgt_len) to states (bsz, tgt_len, embed_dim)."""

    @abstractmethod
    def init_state(self, encoder_out: EncoderOut, beam: int, max_len: int) -> DecoderState:
        """State for ``beam`` hypotheses of every sentence, up to ``max_len`` positions each."""

    @abstractmethod
    def step(self, tokens: Tensor, state: DecoderState) -> Tensor:
        """The next tokens int64 (rows, num_tokens) to states (rows, num_tokens, embed_dim); advances ``state``."""


_STACKS = "model.{encoder,decoder}"
declare_slot("self_attention", key=f"{_STACKS}.self_attention", interface=SelfAttention)
declare_slot("cross_attention", key="model.decoder.cross_attention", interface=CrossAttention)
declare_slot("feed_forward", key=f"{_STACKS}.feed_forward", interface=FeedForward)
declare_slot("norm", key="model.norm", interface=nn.Module)
declare_slot("layer", key=f"{_STACKS}.layer", interface=Layer)
declare_slot("stack", key=f"{_STACKS}.stack", interface=Stack)
declare_slot("embedding", key="model.embedding", interface=Embedding)
declare_slot("output", key="model.output", interface=Output)
declare_slot("decoder", key="model.decoder", interface=Decoder)
