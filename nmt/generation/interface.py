"""What a model must offer to be searched: the decoding interface, as structural types."""

from __future__ import annotations

from typing import Any, Protocol

from torch import Tensor

from nmt.config import DataError


class NotNumbers(DataError):
    """A model's log-probabilities are nan.

    Args:
        name: whose: a checkpoint's folder where one is known.
    """

    def __init__(self, name: str = "the model") -> None:
        super().__init__(f"{name} gives log-probabilities that are not numbers (nan)")


class DecoderState(Protocol):
    """The decoder's state for ``bsz`` sentences with ``beam`` rows each; row r belongs to sentence r // beam."""

    def reorder(self, rows: Tensor, /) -> None:
        """New row r takes old row ``rows[r]`` (bsz * beam,), which stays within its sentence; in place."""

    def select(self, sentences: Tensor, /) -> Any:
        """The state of the given sentences (new_bsz,) alone."""


class TranslationModel(Protocol):
    """An encoder-decoder that predicts one position at a time."""

    @property
    def max_source_length(self) -> int | None:
        """Most source positions, EOS counted; None: no limit."""

    @property
    def max_target_length(self) -> int | None:
        """Most target positions, EOS counted; None: no limit."""

    def encode(self, src_tokens: Tensor, /) -> Any:
        """Encode ``src_tokens`` (bsz, src_len): ids and EOS, padded on the right."""

    def init_state(self, encoder_out: Any, /, *, beam: int, max_len: int) -> Any:
        """A ``DecoderState`` for at most ``max_len`` decoder inputs (BOS counted)."""

    def step(self, tokens: Tensor, state: Any, /, top: int | None = None) -> Tensor:
        """Log-probabilities (rows, vocab_size) fp32 after ``tokens`` (rows, m); the caller may overwrite it.

        With ``top``, only so many of the best of a row and the special words need be right; the rest may be lower.
        """


class ScoringModel(TranslationModel, Protocol):
    """A model that can also predict every position of a given target at once."""

    @property
    def output(self) -> Any:
        """``output.log_probs(hidden)``: decoder states (..., embed_dim) to log-probabilities (..., vocab_size) fp32."""

    def __call__(self, src_tokens: Tensor, prev_output_tokens: Tensor, /) -> Any:
        """``.hidden``: decoder states (bsz, tgt_len, embed_dim) for targets that start with BOS."""
