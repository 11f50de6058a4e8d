"""Several processes that share one input (``torchrun``): each takes some lines, the first one merges."""

from __future__ import annotations

import json
import os
from typing import Any

import torch
import torch.distributed as dist


class Ranks:
    """This process and its peers, as ``torchrun`` describes them in the environment; alone where it does not.

    Attributes:
        rank: number of this process.
        world: number of processes.
    """

    def __init__(self) -> None:
        self.rank, self.world = int(os.environ.get("RANK", "0")), int(os.environ.get("WORLD_SIZE", "1"))
        if self.world > 1 and not dist.is_initialized():
            dist.init_process_group("gloo")  # what is exchanged is text: it never lies on a GPU
        if torch.cuda.is_available():
            torch.cuda.set_device(int(os.environ.get("LOCAL_RANK", "0")))

    def gather(self, rows: list[Any]) -> list[Any]:
        """Merge what the processes made of their shares of a block.

        Args:
            rows: JSON values; row i belongs to line ``rank + i * world`` of the block.

        Returns:
            The rows of all processes in the order of the lines; empty on all processes but the first.
        """
        if self.world == 1:
            return rows
        data = torch.frombuffer(bytearray(json.dumps(rows).encode()), dtype=torch.uint8)
        sizes = [torch.zeros(1, dtype=torch.int64) for _ in range(self.world)]
        dist.all_gather(sizes, torch.tensor([len(data)]))
        longest = max(int(size) for size in sizes)
        padded = torch.zeros(longest, dtype=torch.uint8)
        padded[: len(data)] = data
        parts = [torch.zeros_like(padded) for _ in sizes] if self.rank == 0 else None
        dist.gather(padded, parts)
        if parts is None:
            return []
        shares = [json.loads(bytes(part[: int(size)].tolist())) for part, size in zip(parts, sizes)]
        merged = [None] * sum(map(len, shares))
        for rank, share in enumerate(shares):
            merged[rank :: self.world] = share
        return merged

    def close(self) -> None:
        """Leave the group."""
        if dist.is_initialized():
            dist.destroy_process_group()
