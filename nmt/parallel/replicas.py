"""How processes share the training of one model: a replica each, or parts of it (``train.parallel``)."""

from __future__ import annotations

import copy
from abc import abstractmethod
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

import torch
from torch import Tensor, nn

from nmt.config import ConfigError
from nmt.data.batch import Batch
from nmt.models.encoder_decoder import SequenceModel
from nmt.models.interfaces import Stack
from nmt.models.tensors import check_tensors, load_tensors, model_tensors
from nmt.parallel.options import Parallel
from nmt.parallel.ranks import Ranks
from nmt.text.vocabulary import BOS, EOS, PAD

NORMALISER = 4096.0
"""With several processes the losses are divided by this before the backward passes, and the gradients by the rest when
the number of target tokens of all processes is known. A power of two rounds nothing, and this one is near the size of a
batch, which keeps the gradients of fp16 in range."""

BUCKET_ELEMENTS = 1 << 24
"""Gradients that are summed over the processes in one piece: 64 MiB in float32."""


class Replicas:
    """Every process holds the whole model; gradients are summed when the backward passes are over.

    Attributes:
        model: what is trained.
        ranks: the processes.
        beside: parameters that are trained with the model and are not its own; every process holds all of them.
        of_model: what this process updates of the model.
        replicated: what every process holds alike of all that is trained.
    """

    def __init__(
        self, model: SequenceModel, ranks: Ranks, device: torch.device, beside: Sequence[nn.Parameter] = ()
    ) -> None:
        self.model = model.to(device)
        self.ranks = ranks
        self.beside = list(beside)
        self.of_model = list(self.model.parameters())
        self.replicated = self.parameters

    @property
    def parameters(self) -> list[nn.Parameter]:
        """What the optimiser of this process updates: the model's first."""
        return [*self.of_model, *self.beside]

    # --- an update ----------------------------------------------------------------------------------------------------

    def divisor(self, num_tokens: int) -> float:
        """What the loss is divided by before the backward pass of a process that has so many target tokens."""
        return num_tokens if self.ranks.world == 1 else NORMALISER

    def filled(self, batches: Sequence[Batch], rounds: int) -> Sequence[Batch]:
        """The batches that this process runs where each process has at most ``rounds`` of them."""
        return batches

    def reduce(self, num_tokens: int, stop: bool) -> tuple[int, bool]:
        """Make the gradients those of the mean loss per target token of all processes.

        A parameter that no process used keeps no gradient, so that the optimiser leaves it alone, as with one process.

        Args:
            num_tokens: target tokens of this process.
            stop: this process was asked to stop.

        Returns:
            Target tokens of all processes, and whether any was asked to stop.
        """
        if self.ranks.world == 1:
            return num_tokens, stop
        present = [int(p.grad is not None) for p in self.replicated]
        total, stops, *counts = self.ranks.sum([num_tokens, int(stop), *present])
        for bucket in _buckets([p for p, count in zip(self.replicated, counts) if count]):
            grads = [torch.zeros_like(p) if p.grad is None else p.grad for p in bucket]
            flat = torch.cat([grad.flatten() for grad in grads])
            self.ranks.all_reduce(flat)
            flat *= NORMALISER / total
            for parameter, grad in zip(bucket, torch.split(flat, [p.numel() for p in bucket])):
                parameter.grad = grad.view_as(parameter)
        return total, stops > 0

    def grad_norm(self) -> Tensor:
        """The norm of all gradients together."""
        return norm_of(self.parameters)

    def zero_grad(self) -> None:
        """Drop the gradients."""
        self.model.zero_grad(set_to_none=True)
        for parameter in self.beside:
            parameter.grad = None

    # --- whole tensors and what of them lies here ---------------------------------------------------------------------

    def shape(self, parameter: Tensor) -> torch.Size:
        """The shape of the whole of which this process holds a part as a parameter."""
        return parameter.shape

    def whole(self, parameter: Tensor, tensor: Tensor) -> Tensor:
        """All of a tensor of which this process holds the part that goes with its part of a parameter."""
        return tensor

    def part(self, parameter: Tensor, tensor: Tensor) -> Tensor:
        """The inverse of ``whole``."""
        return tensor

    def tensors(self) -> dict[str, Tensor]:
        """The whole model by name, as ``model_tensors``; may be empty on all processes but the first."""
        return model_tensors(self.model)

    def local(self) -> dict[str, Tensor]:
        """What of the model lies here, by name."""
        return model_tensors(self.model)

    def check(self, tensors: Mapping[str, Tensor], path: Path) -> None:
        """Compare whole tensors with the model.

        Raises:
            DataError: see ``check_tensors``.
        """
        check_tensors(model_tensors(self.model), tensors, path)

    def load(self, tensors: Mapping[str, Tensor], path: Path) -> None:
        """Copy whole tensors into the model; names and shapes must be exactly the model's.

        Raises:
            DataError: a tensor is missing, unknown or of another shape; the model is as it was.
        """
        load_tensors(self.model, tensors, path)

    @contextmanager
    def evaluated(self) -> Iterator[SequenceModel]:
        """A whole model with the weights of now, to validate with."""
        yield self.model


class Divided(Replicas):
    """Every process holds a part of the model, so they meet within each pass: all run as many, through the same layers.

    Raises:
        ConfigError: a stack skips layers at random.
    """

    def __init__(
        self,
        parallel: Parallel,
        model: SequenceModel,
        ranks: Ranks,
        device: torch.device,
        beside: Sequence[nn.Parameter],
    ) -> None:
        if any(stack.skips_layers for stack in model.modules() if isinstance(stack, Stack)):
            raise ConfigError(
                f"train.parallel={parallel.value}: all processes must run the same layers, but layer_drop skips some "
                "at random; give layer_drop=0 or train.parallel=replicate"
            )
        self.model = model
        self.ranks = ranks
        self.device = device
        self.beside = list(beside)
        self._plain = copy.deepcopy(model)

    def filled(self, batches: Sequence[Batch], rounds: int) -> Sequence[Batch]:
        # Who has fewer batches than others runs some without target tokens.
        return [*batches, *[_blank()] * (rounds - len(batches))]

    def tensors(self) -> dict[str, Tensor]:
        return {name: tensor.cpu() for name, tensor in self._wholes() if self.ranks.first}

    @contextmanager
    def evaluated(self) -> Iterator[SequenceModel]:
        own = model_tensors(self._plain.to(self.device))
        for name, tensor in self._wholes():
            own[name].copy_(tensor)
        try:
            yield self._plain
        finally:
            self._plain.cpu()

    @abstractmethod
    def _wholes(self) -> Iterator[tuple[str, Tensor]]:
        """The whole tensors of the model, one after the other; every process must take all."""


def norm_of(parameters: Iterable[nn.Parameter]) -> Tensor:
    """The norm of the gradients of parameters together."""
    return torch.nn.utils.get_total_norm([p.grad for p in parameters if p.grad is not None])


def _buckets(parameters: Sequence[nn.Parameter]) -> Iterator[list[nn.Parameter]]:
    """Parameters in pieces of about ``BUCKET_ELEMENTS`` values."""
    bucket: list[nn.Parameter] = []
    size = 0
    for parameter in parameters:
        bucket.append(parameter)
        size += parameter.numel()
        if size >= BUCKET_ELEMENTS:
            yield bucket
            bucket, size = [], 0
    if bucket:
        yield bucket


def _blank() -> Batch:
    """A batch without target tokens: its loss and gradients are zero."""
    return Batch(torch.tensor([[EOS]]), torch.tensor([[BOS]]), torch.tensor([[PAD]]), num_tokens=0, ids=[])
