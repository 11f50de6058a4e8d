"""A process among others: alone it changes nothing, and what it says when something fails."""

from __future__ import annotations

import pytest
import torch

from nmt.config import ConfigError
from nmt.parallel.ranks import LostProcessError, Ranks, _take_gpu, claim_failure, exchanging


def test_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    ranks, tensor = Ranks.join(torch.device("cpu")), torch.ones(2)
    assert (ranks.rank, ranks.world, ranks.first) == (0, 1, True)
    ranks.all_reduce(tensor)
    ranks.wait()
    assert tensor.tolist() == [1, 1]
    assert ranks.sum([3, 4]) == [3, 4]
    assert ranks.broadcast("a") == "a"
    assert ranks.all_gather("a") == ["a"]
    assert ranks.merge(["a", "b"]) == ["a", "b"]


def test_shares_are_merged_in_order(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Ranks, "gather", lambda self, rows: [["a", "d", "g"], ["b", "e"], ["c", "f"]])
    assert Ranks(0, 3).merge([]) == ["a", "b", "c", "d", "e", "f", "g"]


@pytest.mark.parametrize(("rank", "speaks"), [("0", True), ("1", False)])
def test_mistakes_before_the_meeting_are_reported_by_the_first(
    rank: str, speaks: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RANK", rank)
    assert claim_failure() is speaks


def test_lost_processes_are_told_from_other_errors() -> None:
    with pytest.raises(LostProcessError, match=r"^another process of this run has ended"), exchanging():
        raise RuntimeError("[third_party/gloo/gloo/transport/tcp/pair.cc:553] Connection closed by peer")
    with pytest.raises(RuntimeError, match=r"^CUDA out of memory$"), exchanging():
        raise RuntimeError("CUDA out of memory")


def test_a_gpu_for_each_process(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    taken: list[int] = []
    monkeypatch.setattr(torch.cuda, "set_device", taken.append)
    monkeypatch.setenv("LOCAL_RANK", "1")
    _take_gpu()
    assert taken == [1]
    monkeypatch.setenv("LOCAL_RANK", "2")
    with pytest.raises(ConfigError, match=r"^more processes than GPUs: this machine has 2; .* or give device=cpu$"):
        _take_gpu()
