"""Training with the experts of a mixture dealt to several processes (Lepikhin et al. 2020, arXiv:2006.16668)."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from nmt.config import ConfigError
from nmt.models.encoder_decoder import SequenceModel
from nmt.models.experts import Experts, Transform
from nmt.models.tensors import check_tensors, model_tensors
from nmt.parallel.options import Parallel
from nmt.parallel.ranks import Ranks, exchanging
from nmt.parallel.replicas import NORMALISER, Divided, norm_of


class DealtExperts(Divided):
    """Every process holds an equal share of the experts, and all of the rest of the model.

    In each pass through a layer with experts, every process sends its tokens to those that have their experts and gets
    them back. So an expert's gradient already sums over the tokens of all processes. Routing, capacity and balance
    losses are those of a process's own batch, as they are for one process that takes the batches one by one.

    Raises:
        ConfigError: there are no experts, they cannot be dealt evenly, or a stack skips layers at random.
    """

    def __init__(
        self, model: SequenceModel, ranks: Ranks, device: torch.device, beside: Sequence[nn.Parameter] = ()
    ) -> None:
        banks = {name: module for name, module in model.named_modules() if isinstance(module, Experts)}
        if not banks:
            raise ConfigError(
                "train.parallel=experts: the model has none; give feed_forward.name=moe or train.parallel=replicate"
            )
        for name, bank in banks.items():
            number = next(bank.parameters()).size(0)
            if number % ranks.world:
                raise ConfigError(
                    f"train.parallel=experts: {ranks.world} processes cannot share the {number} experts of {name} "
                    "evenly; give feed_forward.experts a multiple of the processes, or train.parallel=replicate"
                )
        super().__init__(Parallel.experts, model, ranks, device, beside)
        self._shapes: dict[nn.Parameter, torch.Size] = {}
        for bank in banks.values():
            bank.exchange = self._exchange
            for name, parameter in list(bank.named_parameters(recurse=False)):
                own = nn.Parameter(self._share(parameter.detach()), requires_grad=parameter.requires_grad)
                setattr(bank, name, own)
                self._shapes[own] = parameter.shape
        self.model = model.to(device)
        self.of_model = list(model.parameters())
        self.replicated = [p for p in self.parameters if p not in self._shapes]

    # --- an update ----------------------------------------------------------------------------------------------------

    def reduce(self, num_tokens: int, stop: bool) -> tuple[int, bool]:
        total, stop = super().reduce(num_tokens, stop)
        for parameter in self._shapes:
            if parameter.grad is not None:
                parameter.grad *= NORMALISER / total
        return total, stop

    def grad_norm(self) -> Tensor:
        dealt = norm_of(self._shapes).square()
        self.ranks.all_reduce(dealt)
        return (dealt + norm_of(self.replicated).square()).sqrt()

    def _exchange(self, transform: Transform, x: Tensor, counts: Tensor) -> Tensor:
        """See ``Experts.exchange``."""
        sent = counts.cpu().view(self.ranks.world, -1)  # what goes to each process, by expert there
        received = torch.empty_like(sent)
        dist.all_to_all_single(received, sent)
        there, here = sent.sum(1).tolist(), received.sum(1).tolist()
        x = _Exchange.apply(x, there, here)  # type: ignore[no-untyped-call]
        experts = torch.arange(sent.size(1)).repeat(self.ranks.world).repeat_interleave(received.flatten())
        order = experts.argsort(stable=True).to(x.device)
        y = transform(x.index_select(0, order), received.sum(0).to(x.device))
        y = torch.empty_like(y).index_copy(0, order, y)
        return _Exchange.apply(y, here, there)  # type: ignore[no-untyped-call]

    # --- whole tensors and what of them lies here ---------------------------------------------------------------------

    def shape(self, parameter: Tensor) -> torch.Size:
        return self._shapes.get(parameter, parameter.shape)  # type: ignore[call-overload]

    def whole(self, parameter: Tensor, tensor: Tensor) -> Tensor:
        if parameter not in self._shapes or tensor.shape != parameter.shape:
            return tensor  # a count, say: the same everywhere
        shares = [torch.empty_like(tensor) for _ in range(self.ranks.world)]
        with exchanging():
            dist.all_gather(shares, tensor.contiguous())
        return torch.cat(shares)

    def part(self, parameter: Tensor, tensor: Tensor) -> Tensor:
        if parameter not in self._shapes or tensor.shape != self.shape(parameter):
            return tensor
        return self._share(tensor)

    def check(self, tensors: Mapping[str, Tensor], path: Path) -> None:
        check_tensors(model_tensors(self._plain), tensors, path)

    def load(self, tensors: Mapping[str, Tensor], path: Path) -> None:
        self.check(tensors, path)
        parameters = dict(self.model.named_parameters())
        for name, own in model_tensors(self.model).items():
            own.copy_(self.part(parameters[name], tensors[name]) if name in parameters else tensors[name])

    def _wholes(self) -> Iterator[tuple[str, Tensor]]:
        parameters = dict(self.model.named_parameters())
        for name, tensor in model_tensors(self.model).items():
            yield name, self.whole(parameters[name], tensor) if name in parameters else tensor

    def _share(self, tensor: Tensor) -> Tensor:
        """The rows of a whole tensor that belong here."""
        return tensor.chunk(self.ranks.world)[self.ranks.rank].clone()  # the whole can go


class _Exchange(torch.autograd.Function):
    """Rows sent to all processes, so many to each; their gradients come back the same way."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, sent: list[int], received: list[int]) -> Tensor:
        ctx.sent, ctx.received = sent, received
        return _all_to_all(x, sent, received)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None]:
        return _all_to_all(grad, ctx.received, ctx.sent), None, None


def _all_to_all(x: Tensor, sent: Sequence[int], received: Sequence[int]) -> Tensor:
    """Send the first ``sent[0]`` rows to the first process, and so on; gives what came from each, by rank."""
    got = x.new_empty(sum(received), x.size(1))
    # As bytes: gloo does not know every number format.
    dist.all_to_all_single(got.view(torch.uint8), x.contiguous().view(torch.uint8), list(received), list(sent))
    return got
