"""Running out of memory is one line that names what to change, in training and in generation."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import nmt
from nmt.benchmark.system import Search
from nmt.benchmark.worker import _bind
from nmt.memory import MemoryShortage, explaining_shortage, is_shortage

GOLDEN = Path(__file__).parents[1] / "golden" / "checkpoint"
CUDA = torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB. GPU 0 has a total capacity of 79 GiB")
SHORTAGES = [
    CUDA,
    RuntimeError("[enforce fail at alloc_cpu.cpp:121] err == 0. DefaultCPUAllocator: can't allocate memory: you tried"),
    RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"),
    MemoryError("Unable to allocate 9.00 GiB for an array"),
]


def failing(error: BaseException) -> Callable[..., Any]:
    def call(*arguments: Any, **options: Any) -> Any:
        raise error

    return call


@pytest.mark.parametrize("error", SHORTAGES, ids=range(len(SHORTAGES)))
def test_errors_for_want_of_memory(error: BaseException) -> None:
    with pytest.raises(MemoryShortage, match=r"^out of memory here; do that$"), explaining_shortage("here", "do that"):
        raise error


def test_real_ones() -> None:
    """As torch and numpy word them today."""
    for allocate in (torch.empty, np.empty):
        with pytest.raises(MemoryShortage, match=r"^out of memory now"), explaining_shortage("now", "buy some"):
            allocate(2**58)


def test_others_are_let_out() -> None:
    assert not is_shortage(ValueError("out of memory"))
    with pytest.raises(RuntimeError, match=r"^shapes$"), explaining_shortage("here", "do that"):
        raise RuntimeError("shapes")


def test_the_outermost_speaks() -> None:
    """Validation translates; there, what to change has other names."""
    with (
        pytest.raises(MemoryShortage, match=r"^out of memory outside; b$"),
        explaining_shortage("outside", "b"),
        explaining_shortage("inside", "a"),
    ):
        raise CUDA


def test_generation(monkeypatch: pytest.MonkeyPatch) -> None:
    translator = nmt.load(GOLDEN)
    less = r"lower batch\.max_tokens \(now \d+\), batch\.max_sentences"
    monkeypatch.setattr(translator.models[0], "encode", failing(CUDA))
    for given, rows in (({"beam": 3}, "beam"), ({"nbest": 3, "sampling": "random"}, "nbest")):
        more = rf"search\.{rows}, search\.max_length_offset, or give precision=bf16$"
        with pytest.raises(MemoryShortage, match=rf"^out of memory while searching with {rows} 3; {less}, {more}"):
            translator.translate(["one"], **given)
    monkeypatch.setattr(translator.models[0], "forward", failing(CUDA))
    with pytest.raises(MemoryShortage, match=rf"^out of memory while scoring; {less}, or give precision=bf16$"):
        translator.score(["one"], ["unu"])


def test_measuring() -> None:
    class Large:
        translate = staticmethod(failing(CUDA))

    measure = _bind(("translate", ["one"], Search(5, 1.0, None), 32), Large(), None, None)  # type: ignore[arg-type]
    with pytest.raises(MemoryShortage, match=r"^out of memory with batch=32 and search\.beam=5; leave the largest"):
        measure()


@pytest.mark.parametrize(
    ("place", "message"),
    [
        ("batch", r"at update 1 with a batch of \d+ sentences, .*; lower batch\.max_tokens .*train\.precision=bf16"),
        ("step", r"in the optimiser's step of update 1; choose a smaller model, train\.ema=0"),
        ("validation", r"while validating; lower validate\.max_tokens or validate\.beam, or give"),
    ],
)
def test_training(place: str, message: str, make_trainer: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    trainer = make_trainer(f"run={tmp_path / 'run'}", "train.max_updates=1")
    if place == "batch":
        trainer.updater.forward = failing(CUDA)
    elif place == "step":
        trainer.learner.optimizer.step = failing(CUDA)
    else:
        monkeypatch.setattr("nmt.training.trainer.validation_loss", failing(CUDA))
    with pytest.raises(MemoryShortage, match=rf"^out of memory {message}"):
        trainer.fit()
