"""One update against a loop written out, in float64 with plain gradient descent where a step is the gradient itself."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F
from torch.testing import assert_close

from nmt.config import parse_options
from nmt.data.batch import Batch, make_batch
from nmt.data.corpus import Corpus
from nmt.memory import MemoryShortage
from nmt.parallel.ranks import Ranks
from nmt.parallel.replicas import Replicas
from nmt.registry import build
from nmt.training.ema import MovingAverage
from nmt.training.options import LoopOptions, Precision
from nmt.training.training_state import Learner, Progress
from nmt.training.update import TrainingError, Updater


@pytest.fixture
def batches(digits: Path) -> Callable[..., list[Batch]]:
    """``batches([0, 1], [2])``: batches of these lines of the training split."""
    split = Corpus.open(digits).split("train")
    return lambda *lines: [make_batch(split, np.array(chosen)) for chosen in lines]


@pytest.fixture
def make_updater(make_model, composed) -> Callable[..., Updater]:
    """An updater of a small model with plain gradient descent; options are those of ``train.*``."""

    def make(dtype: torch.dtype = torch.float64, *, adam: bool = False, **options: Any) -> Updater:
        model = make_model("model.dropout=0", dtype=dtype).train()
        values = parse_options(LoopOptions, {**composed("train", []).train, **options})
        optimizer: torch.optim.Optimizer = torch.optim.SGD(model.parameters(), lr=1.0)
        if adam:
            optimizer = build("optimizer", {"name": "adam"}, key="k", parameters=model.parameters())
        scaler = torch.amp.GradScaler("cpu", enabled=values.precision is Precision.fp16)
        parallel = Replicas(model, Ranks(), torch.device("cpu"))
        criterion = build("criterion", {"name": "cross_entropy"}, key="k")
        average = MovingAverage(model.parameters(), 0.0)
        learner = Learner(parallel, criterion, nn.ModuleList(), optimizer, scaler, average, Progress())
        return Updater(learner, model, values, torch.device("cpu"))

    return make


def weights(updater: Updater) -> list[torch.Tensor]:
    return [p.detach().clone() for p in updater.learner.model.parameters()]


def mean_loss(model: Any, batches: Sequence[Batch]) -> torch.Tensor:
    """Mean per real token of all batches together, from torch's own parts."""
    total = torch.zeros((), dtype=torch.float64)
    for batch in batches:
        logits = model.output.projection(model(batch.src_tokens, batch.prev_output_tokens).hidden).flatten(0, 1)
        total = total + F.cross_entropy(
            logits, batch.target.flatten(), ignore_index=0, label_smoothing=0.1, reduction="sum"
        )
    return total / sum(int(batch.target.ne(0).sum()) for batch in batches)


@pytest.mark.parametrize("clip_norm", [0.0, 0.1, 100.0])
def test_update_is_the_clipped_gradient_of_the_mean(clip_norm: float, make_updater, batches) -> None:
    updater = make_updater(clip_norm=clip_norm)
    model, chosen = updater.learner.model, batches([0, 1, 2], [3, 4])
    before = weights(updater)
    gradients = torch.autograd.grad(mean_loss(model, chosen), list(model.parameters()))
    norm = math.sqrt(sum(float(g.square().sum()) for g in gradients))
    result = updater(chosen, lr=0.5)
    assert result.grad_norm == pytest.approx(norm)
    factor = min(1.0, clip_norm / norm) if clip_norm else 1.0
    assert norm > 0.1, "else nothing is clipped"
    for new, old, gradient in zip(weights(updater), before, gradients):
        assert_close(new, old - 0.5 * factor * gradient, rtol=0, atol=1e-6)  # torch adds 1e-6 to the norm
    assert all(p.grad is None for p in model.parameters())


def test_accumulated_halves_are_one_batch(make_updater, batches) -> None:
    whole, halves = make_updater(), make_updater()
    results = [whole(batches([0, 1, 2, 3]), lr=0.5), halves(batches([0, 1], [2, 3]), lr=0.5)]
    assert_close(weights(whole), weights(halves), rtol=0, atol=1e-12)
    assert results[0].num_tokens == results[1].num_tokens
    assert_close(results[0].sums, results[1].sums)


def test_figures(make_updater, batches) -> None:
    chosen = batches([0, 1, 2], [3, 4])
    updater = make_updater()
    expected = mean_loss(updater.learner.model, chosen)
    result = updater(chosen, lr=0.5)
    assert result.num_tokens == sum(int(b.target.ne(0).sum()) for b in chosen)
    assert result.num_padded == sum(b.target.numel() for b in chosen)
    assert_close(result.sums["loss"] / result.num_tokens, expected.detach())
    assert not result.skipped


def poison(updater: Updater, value: float, *, times: int = 1000) -> None:
    """Make the next forward passes return ``value``."""
    plain, left = updater.forward, [times]

    def forward(*arguments: Any) -> Any:
        output = plain(*arguments)
        left[0] -= 1
        if left[0] >= 0:
            output.hidden = output.hidden * value
        return output

    updater.forward = forward


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_non_finite_loss_stops_and_changes_nothing(value: float, make_updater, batches) -> None:
    updater = make_updater()
    updater.learner.progress.update, updater.learner.progress.epoch = 41, 3
    before = weights(updater)
    poison(updater, value)
    with pytest.raises(TrainingError) as caught:
        updater(batches([7, 9], [*range(20, 30)]), lr=0.5)
    message = str(caught.value)
    assert message.startswith(
        "a non-finite gradient at update 42 (epoch 3), loss nan, training sentences 7, 9, 20, 21,"
    )
    assert "25 and 4 more; lower optimizer.lr" in message
    assert_close(weights(updater), before, rtol=0, atol=0)


def test_fp16_skips_an_overflow_and_halves_the_scale(make_updater, batches) -> None:
    updater = make_updater(torch.float32, adam=True, precision="fp16")
    learner, before = updater.learner, weights(updater)
    updater(batches([0, 1]), lr=1e-3)
    after = weights(updater)
    assert not all(torch.equal(a, b) for a, b in zip(after, before))
    scale = learner.scaler.get_scale()
    poison(updater, math.inf, times=1)
    result = updater(batches([2, 3]), lr=1e-3)
    assert result.skipped
    assert_close(weights(updater), after, rtol=0, atol=0)
    assert learner.scaler.get_scale() == scale / 2
    assert learner.progress.skipped == 1
    assert {int(state["step"]) for state in learner.optimizer.state.values()} == {1}
    assert not updater(batches([2, 3]), lr=1e-3).skipped
    assert updater.learner.progress.skipped_in_a_row == 0


def test_fp16_stops_after_too_many_overflows(make_updater, batches) -> None:
    updater = make_updater(torch.float32, adam=True, precision="fp16", max_skipped=2)
    poison(updater, math.inf)
    updater(batches([0]), lr=1e-3)
    updater(batches([0]), lr=1e-3)
    with pytest.raises(TrainingError, match=r"^3 updates in a row with non-finite gradient at update 1 "):
        updater(batches([0]), lr=1e-3)


@pytest.mark.parametrize("precision", ["bf16", "fp16"])
def test_half_precision_keeps_master_weights_and_comes_close(precision: str, make_updater, batches) -> None:
    exact, rough = make_updater(torch.float32), make_updater(torch.float32, precision=precision)
    chosen = batches([0, 1, 2, 3])
    losses = [float(u(chosen, lr=0.1).sums["loss"]) for u in (exact, rough)]
    assert losses[0] == pytest.approx(losses[1], rel=0.01)
    assert {p.dtype for p in rough.learner.model.parameters()} == {torch.float32}
    for a, b in zip(weights(exact), weights(rough)):
        assert_close(a, b, rtol=0, atol=2e-3)


def test_out_of_memory_names_the_batch(make_updater, batches) -> None:
    updater = make_updater()

    def forward(*arguments: Any) -> Any:
        raise RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 1 bytes")

    updater.forward = forward
    [batch] = batches([0, 1, 2])
    shape = f"3 sentences, source length {batch.src_tokens.size(1)}, target length {batch.target.size(1)}"
    with pytest.raises(
        MemoryShortage, match=f"^out of memory at update 1 with a batch of {shape}; lower batch.max_tokens"
    ):
        updater([batch], lr=0.1)


def test_other_errors_are_let_out(make_updater, batches) -> None:
    updater = make_updater()
    poisoned = RuntimeError("shapes do not fit")

    def forward(*arguments: Any) -> Any:
        raise poisoned

    updater.forward = forward
    with pytest.raises(RuntimeError) as caught:
        updater(batches([0]), lr=0.1)
    assert caught.value is poisoned
