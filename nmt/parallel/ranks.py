"""Several processes that work on one thing (``torchrun``): who they are, what they exchange, and how they end.

When a process fails, it says why and ends. Its connections close with it, so the others, which wait for it in an
exchange or come to one, fail too (``LostProcessError``) and end in silence: only the first failure is reported.
"""

from __future__ import annotations

import contextlib
import json
import os
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed.distributed_c10d import Store
from torch.distributed.rendezvous import rendezvous

from nmt.config import ConfigError

MEETING = timedelta(minutes=10)
"""How long the first process waits for the others to start."""

PATIENCE = timedelta(hours=12)
"""How long an exchange waits. A process that has ended closes its connections and is not waited for, so what takes
long is work, such as the translation of a large block or a checkpoint on a slow disk."""

_store: Store | None = None


class LostProcessError(ConnectionError):
    """Another process has ended although this one still needed it."""

    def __init__(self) -> None:
        super().__init__("another process of this run has ended without a word (killed, perhaps for want of memory)")


@dataclass(frozen=True)
class Ranks:
    """This process among its peers.

    What is exchanged lies on the CPU and is JSON, but for ``all_reduce``. Every process must make the same calls in the
    same order.

    Attributes:
        rank: number of this process, from 0.
        world: number of processes.
    """

    rank: int = 0
    world: int = 1

    @classmethod
    def join(cls, device: torch.device) -> Ranks:
        """Meet the others, if ``torchrun`` started any.

        Args:
            device: where this process computes; a CUDA device becomes the one that is its own.

        Raises:
            ConfigError: there are more processes than GPUs.
        """
        ranks = cls(int(os.environ.get("RANK", "0")), int(os.environ.get("WORLD_SIZE", "1")))
        if ranks.world > 1 and not dist.is_initialized():
            global _store
            _store, *_ = next(rendezvous("env://", timeout=MEETING))
            cuda = device.type == "cuda"
            if cuda:
                _take_gpu()
            backend = "cpu:gloo,cuda:nccl" if cuda else "gloo"
            dist.init_process_group(backend, store=_store, rank=ranks.rank, world_size=ranks.world, timeout=PATIENCE)
        return ranks

    @property
    def first(self) -> bool:
        """Whether this is the process that writes files and speaks."""
        return self.rank == 0

    def sum(self, counts: list[int]) -> list[int]:
        """Sums over the processes, number by number."""
        if self.world == 1:
            return counts
        total = torch.tensor(counts, dtype=torch.int64)
        self.all_reduce(total)
        return [int(count) for count in total.tolist()]

    def wait(self) -> None:
        """Go on when all have come here."""
        self.sum([0])

    def all_reduce(self, tensor: Tensor) -> None:
        """Replace a tensor by its sum over the processes, on its device."""
        if self.world > 1:
            with exchanging():
                dist.all_reduce(tensor)

    def gather(self, value: Any) -> list[Any]:
        """What each process gives, by rank; empty on all but the first."""
        if self.world == 1:
            return [value]
        data = torch.frombuffer(bytearray(json.dumps(value).encode()), dtype=torch.uint8)
        sizes = self.sum([len(data) if rank == self.rank else 0 for rank in range(self.world)])
        padded = torch.zeros(max(sizes), dtype=torch.uint8)
        padded[: len(data)] = data
        parts = [torch.zeros_like(padded) for _ in sizes] if self.first else None
        with exchanging():
            dist.gather(padded, parts)
        return [json.loads(part[:size].numpy().tobytes()) for part, size in zip(parts or [], sizes)]

    def broadcast(self, value: Any) -> Any:
        """What the first process gives, on all."""
        if self.world == 1:
            return value
        data = torch.frombuffer(bytearray(json.dumps(value).encode()), dtype=torch.uint8)
        [size] = self.sum([len(data) if self.first else 0])
        if not self.first:
            data = torch.zeros(size, dtype=torch.uint8)
        with exchanging():
            dist.broadcast(data, src=0)
        return json.loads(data.numpy().tobytes())

    def all_gather(self, value: Any) -> list[Any]:
        """What each process gives, by rank, on all."""
        found: list[Any] = self.broadcast(self.gather(value))
        return found

    def merge(self, rows: list[Any]) -> list[Any]:
        """Put together what the processes made of their shares of a list.

        Args:
            rows: row i belongs to place ``rank + i * world`` of the list.

        Returns:
            All rows in the order of the list; empty on all processes but the first.
        """
        return interleaved(self.gather(rows))


def interleaved(shares: Sequence[Sequence[Any]]) -> list[Any]:
    """A list of which every process has a share: row i of rank r belongs to place ``r + i * world``."""
    merged = [None] * sum(map(len, shares))
    for rank, share in enumerate(shares):
        merged[rank :: len(shares)] = share
    return merged


def sum_by_name(parts: Iterable[Mapping[str, float]]) -> dict[str, float]:
    """Sums of the figures of several processes, of which some may lack a name."""
    totals: dict[str, float] = {}
    for part in parts:
        for name, value in part.items():
            totals[name] = totals.get(name, 0.0) + value
    return totals


def _take_gpu() -> None:
    """Make the GPU of this process's number on its machine the one that it uses."""
    local, num_gpus = int(os.environ.get("LOCAL_RANK", "0")), torch.cuda.device_count()
    if local >= num_gpus:
        raise ConfigError(
            f"more processes than GPUs: this machine has {num_gpus}; start at most {num_gpus} a machine "
            "(torchrun --nproc_per_node), or give device=cpu"
        )
    torch.cuda.set_device(local)


@contextlib.contextmanager
def exchanging() -> Iterator[None]:
    """Tell a lost process from other errors, around anything in which processes exchange tensors."""
    try:
        yield
    except RuntimeError as error:
        if isinstance(error, dist.DistError) or "gloo" in str(error):
            raise LostProcessError from error
        raise


def claim_failure() -> bool:
    """Whether this process, which fails, is the first one to fail, and so the one that says why."""
    if _store is None:  # what goes wrong before the processes have met goes wrong in all of them
        return int(os.environ.get("RANK", "0")) == 0
    try:
        return _store.add("failures", 1) == 1
    except RuntimeError:  # the process that kept the store has been lost
        return True


def leave() -> None:
    """End the exchange, when all are done, and with it this process, if there was an exchange.

    PyTorch's caches of sharded tensors keep the threads of gloo beyond the exchange. Beside them the end of the
    interpreter was once seen to abort a training that was done, so it is left out: all that remains is to flush.
    """
    if dist.is_initialized():
        Ranks(dist.get_rank(), dist.get_world_size()).wait()
        dist.destroy_process_group()
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(0)
