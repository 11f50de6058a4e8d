"""Training with one model in shards, a part of it in each process (FSDP2)."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.distributed.fsdp import FSDPModule, fully_shard
from torch.distributed.tensor import DTensor

from nmt.config import ConfigError
from nmt.models.encoder_decoder import SequenceModel
from nmt.models.interfaces import Layer
from nmt.models.tensors import check_tensors, model_tensors
from nmt.parallel.options import Parallel
from nmt.parallel.ranks import Ranks, exchanging
from nmt.parallel.replicas import NORMALISER, Divided, norm_of


class Shards(Divided):
    """Every process holds a part of each parameter, of its gradient and of the optimiser's state (FSDP2).

    Zhao et al. 2023, arXiv:2304.11277. Each layer is gathered when it runs and scattered again; what belongs to no
    layer (embeddings, the output) stays whole from the forward to the backward pass, so that the output's loss and
    tied matrices find it. Optimiser and moving average work on the plain tensors that lie here, so those that treat
    every value by itself need not know.

    Raises:
        ConfigError: a stack skips layers at random, or this version of torch cannot.
    """

    def __init__(
        self, model: SequenceModel, ranks: Ranks, device: torch.device, beside: Sequence[nn.Parameter] = ()
    ) -> None:
        super().__init__(Parallel.shard, model, ranks, device, beside)
        mesh = init_device_mesh(device.type, (ranks.world,))
        if device.type == "cpu":
            _probe(mesh)
        units = [*_own_layers(model), model]
        for unit in units:
            fully_shard(unit, mesh=mesh)
        for unit in units:
            assert isinstance(unit, FSDPModule)
            unit.unshard()  # the first time lays the shards out for good
            unit.reshard()
        self._sharded = list(model.parameters())
        self.of_model = [nn.Parameter(_local(p.detach()), requires_grad=p.requires_grad) for p in self._sharded]
        self.replicated = self.beside
        self._of = dict(zip(self.of_model, self._sharded))

    def reduce(self, num_tokens: int, stop: bool) -> tuple[int, bool]:
        total, stop = super().reduce(num_tokens, stop)
        for own, sharded in self._of.items():
            assert own.data_ptr() == _local(sharded).data_ptr(), "the shards were moved"
            # The backward pass has left the mean over the processes.
            own.grad = None if sharded.grad is None else _local(sharded.grad) * (NORMALISER * self.ranks.world / total)
        return total, stop

    def grad_norm(self) -> Tensor:
        squares = norm_of(self.of_model).square()
        self.ranks.all_reduce(squares)
        return (squares + norm_of(self.beside).square()).sqrt()

    def zero_grad(self) -> None:
        super().zero_grad()
        for own in self.of_model:
            own.grad = None

    def shape(self, parameter: Tensor) -> torch.Size:
        return self._of.get(parameter, parameter).shape  # type: ignore[call-overload]

    def whole(self, parameter: Tensor, tensor: Tensor) -> Tensor:
        if tensor.shape != parameter.shape:
            return tensor  # a count, say: the same everywhere
        like = self._of.get(parameter)  # type: ignore[call-overload]
        if like is None:
            return tensor
        assert isinstance(like, DTensor)
        spread = DTensor.from_local(
            tensor, like.device_mesh, like.placements, run_check=False, shape=like.shape, stride=like.stride()
        )
        with exchanging():
            return spread.full_tensor()

    def part(self, parameter: Tensor, tensor: Tensor) -> Tensor:
        like = self._of.get(parameter)  # type: ignore[call-overload]
        return tensor if like is None or tensor.shape != like.shape else self._rows(tensor)

    def local(self) -> dict[str, Tensor]:
        return {name: _local(tensor) for name, tensor in model_tensors(self.model).items()}

    def load(self, tensors: Mapping[str, Tensor], path: Path) -> None:
        own = model_tensors(self.model)
        check_tensors(own, tensors, path)
        for name, tensor in own.items():
            _local(tensor).copy_(self._rows(tensors[name]) if isinstance(tensor, DTensor) else tensors[name])

    def _wholes(self) -> Iterator[tuple[str, Tensor]]:
        with exchanging():
            for name, tensor in model_tensors(self.model).items():
                yield name, tensor.full_tensor() if isinstance(tensor, DTensor) else tensor

    def _rows(self, tensor: Tensor) -> Tensor:
        """The rows of a whole tensor that belong here, as FSDP2 deals them out: the last processes may get fewer."""
        each = -(-tensor.size(0) // self.ranks.world)
        return tensor[each * self.ranks.rank : each * (self.ranks.rank + 1)].clone()  # the whole can go


def _local(tensor: Tensor) -> Tensor:
    """What of a tensor lies in this process."""
    return tensor.to_local() if isinstance(tensor, DTensor) else tensor


def _own_layers(model: nn.Module) -> list[nn.Module]:
    """The layers whose parameters nothing else has; others stay with the model as a whole."""
    layers = [module for module in model.modules() if isinstance(module, Layer)]
    inside = {module for layer in layers for module in layer.modules()}
    holders = Counter(p for layer in layers for p in layer.parameters())
    holders.update(p for m in model.modules() if m not in inside for p in m.parameters(recurse=False))
    return [layer for layer in layers if all(holders[p] == 1 for p in layer.parameters())]


def _probe(mesh: DeviceMesh) -> None:
    """See whether gloo of this version of torch can do what sharding needs."""
    module = nn.Linear(2, 2)
    fully_shard(module, mesh=mesh)
    try:
        module(torch.ones(1, 2)).sum().backward()
    except (RuntimeError, ValueError) as error:
        raise ConfigError(
            f"train.parallel=shard: torch {torch.__version__} cannot shard on a CPU; "
            "give train.parallel=replicate, or install a newer torch"
        ) from error
