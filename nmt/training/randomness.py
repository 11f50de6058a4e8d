"""Random numbers of processes that train together: each has its own, or dropout would be the same in all."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from nmt.config import DataError
from nmt.parallel.ranks import Ranks
from nmt.untrusted import shorten


def seed_process(seed: int, rank: int) -> None:
    """Start the random numbers of a process; those of the first one go on from where building the model left them."""
    if rank:
        torch.manual_seed(_mixed(seed, rank))


def random_states(ranks: Ranks) -> dict[str, Tensor]:
    """States of the generators of all processes, by name; empty on all processes but the first."""
    states = {"cpu": torch.get_rng_state()}
    if torch.cuda.is_available():
        states["cuda"] = torch.cuda.get_rng_state()
    gathered = ranks.gather({kind: state.numpy().tobytes().hex() for kind, state in states.items()})
    return {
        _name(kind, rank): torch.frombuffer(bytearray.fromhex(state), dtype=torch.uint8)
        for rank, of_rank in enumerate(gathered)
        for kind, state in of_rank.items()
    }


def check_random(tensors: Mapping[str, Tensor], rank: int, path: Path) -> None:
    """Refuse states that the generators of a process cannot take.

    Raises:
        DataError: there are such, or none at all.
    """
    try:
        torch.Generator().set_state(tensors.get(_name("cpu", rank), tensors["random.cpu"]))
        if torch.cuda.is_available() and _name("cuda", rank) in tensors:
            torch.Generator("cuda").set_state(tensors[_name("cuda", rank)])
    except (KeyError, TypeError, RuntimeError) as error:
        raise DataError(f"{path}: no state of the random numbers ({shorten(error)})") from error


def restore_random(tensors: Mapping[str, Tensor], rank: int, update: int) -> None:
    """Go back to the state of a process; one that is new to the training starts with numbers of its own.

    Args:
        tensors: see ``random_states``.
        rank: number of this process.
        update: updates done.
    """
    if _name("cpu", rank) not in tensors:
        torch.manual_seed(_mixed(torch.initial_seed(), update))
        return
    torch.set_rng_state(tensors[_name("cpu", rank)])
    if torch.cuda.is_available() and _name("cuda", rank) in tensors:
        torch.cuda.set_rng_state(tensors[_name("cuda", rank)])


def _name(kind: str, rank: int) -> str:
    return f"random.{kind}.{rank}" if rank else f"random.{kind}"


def _mixed(*numbers: int) -> int:
    return int(np.random.SeedSequence(numbers).generate_state(1, np.uint64)[0] >> 1)
