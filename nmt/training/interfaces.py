"""The slots of training: criterion, optimiser and learning-rate schedule."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from nmt.data.batch import Batch
from nmt.models.encoder_decoder import ModelOutput, SequenceModel
from nmt.registry import declare_slot
from nmt.text.vocabulary import PAD


@dataclass
class CriterionOutput:
    """What a criterion returns for one batch.

    Attributes:
        loss: scalar with gradient: the sum over target tokens, in nats, of everything that is minimised.
        sums: figures summed over target tokens (``nll`` at least), for the log.
        figures: other scalars for the log.
    """

    loss: Tensor
    sums: dict[str, Tensor]
    figures: dict[str, Tensor]


class Criterion(nn.Module, ABC):
    """What training minimises: a main term, plus the terms that components of the model return.

    Built with its options. Its own parameters (a projection of hidden states, say) are trained with the model's, and
    saved and resumed with the state of a training, as are its persistent buffers; the model in a checkpoint has none
    of them. A model that it only uses, such as a teacher, it holds as a `Frozen`.
    """

    def prepare(self, model: SequenceModel) -> None:
        """Make what depends on the model, before training begins; by default nothing.

        Args:
            model: what will be trained, on the CPU; not to be kept.
        """

    @abstractmethod
    def main(self, model: SequenceModel, output: ModelOutput, batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
        """The main term and the figures for the log, both summed over target tokens, in nats."""

    def forward(
        self, model: SequenceModel, batch: Batch, run: Callable[[Tensor, Tensor], ModelOutput] | None = None
    ) -> CriterionOutput:
        """The loss of one batch.

        Args:
            model: gives the output layer.
            batch: on the model's device.
            run: the model's forward pass where that is compiled or wrapped.
        """
        output = (model if run is None else run)(batch.src_tokens, batch.prev_output_tokens)
        loss, sums = self.main(model, output, batch)
        figures = dict(output.figures)
        for name, term in output.losses.items():
            loss = loss + term * batch.num_tokens
            figures[name] = term.detach()
        return CriterionOutput(loss, sums, figures)


def real_tokens(hidden: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
    """Without padding: states (bsz, tgt_len, dim) and targets (bsz, tgt_len) to (num_tokens, dim) and (num_tokens,)."""
    flat = target.reshape(-1)
    kept = flat.ne(PAD).nonzero().squeeze(1)
    return hidden.flatten(0, 1).index_select(0, kept), flat.index_select(0, kept)


class Schedule(ABC):
    """The learning rate over time. Built with its options and ``total_updates`` (None where that is not known)."""

    uses_total: bool = False
    """Whether the schedule depends on the length of the whole training."""

    @abstractmethod
    def factor(self, update: int) -> float:
        """What the peak learning rate is multiplied with at an update, counted from 1."""


declare_slot("criterion", key="criterion", interface=Criterion)
declare_slot("optimizer", key="optimizer", interface=torch.optim.Optimizer)
declare_slot("schedule", key="schedule", interface=Schedule)
