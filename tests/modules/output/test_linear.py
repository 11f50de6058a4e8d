"""The linear output: its chunked loss against torch's cross-entropy of all logits, values and gradients."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.testing import assert_close

from nmt.models.interfaces import Output, VocabularySizes
from nmt.models.linear import LinearMaker
from nmt.registry import build

WORDS, WIDTH, TOKENS = 11, 6, 13
TOLERANCE = {torch.float64: {"rtol": 1e-12, "atol": 1e-12}, torch.float32: {"rtol": 1e-5, "atol": 1e-5}}

DENSE = LinearMaker({"name": "dense"})


def make(*, tied: bool = False, bias: bool = False) -> tuple[Output, nn.Module]:
    share = "decoder" if tied else "none"
    sizes = VocabularySizes(WORDS, WORDS, True, WIDTH, WIDTH, 0.0)
    embedding = build("embedding", {"name": "learned", "share": share}, key="k", sizes=sizes)
    node = {"name": "linear", "bias": bias}
    output = build("output", node, key="k", embed_dim=WIDTH, vocab_size=WORDS, embedding=embedding, make_linear=DENSE)
    if bias:
        nn.init.normal_(output.projection.bias)
    return output, embedding


def tokens(dtype: torch.dtype = torch.float32) -> tuple[Tensor, Tensor]:
    return torch.randn(TOKENS, WIDTH, dtype=dtype, requires_grad=True), torch.randint(WORDS, (TOKENS,))


def gradients(loss: Tensor, *inputs: Tensor) -> list[Tensor]:
    return list(torch.autograd.grad(loss, inputs))


@pytest.mark.parametrize("dtype", TOLERANCE, ids=str)
@pytest.mark.parametrize("eps", [0.0, 0.1, 0.6])
@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("chunk", [1, 3, 7, TOKENS, 100])
def test_chunked_loss_equals_torch(
    dtype: torch.dtype, eps: float, bias: bool, chunk: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    output, _ = make(bias=bias)
    monkeypatch.setattr("nmt.models.cross_entropy.CHUNK_ELEMENTS", chunk * WORDS)
    output.to(dtype)
    hidden, target = tokens(dtype)
    logits = output.projection(hidden)
    expected = F.cross_entropy(logits, target, label_smoothing=eps, reduction="sum")
    loss, nll = output.loss(hidden, target, eps)
    assert loss.dtype == nll.dtype == dtype
    assert not nll.requires_grad
    assert_close(loss, expected, **TOLERANCE[dtype])
    assert_close(nll, F.cross_entropy(logits, target, reduction="sum").detach(), **TOLERANCE[dtype])
    inputs = (hidden, *output.parameters())
    assert len(inputs) == 2 + bias
    for got, wanted in zip(gradients(loss * 0.3, *inputs), gradients(expected * 0.3, *inputs), strict=True):
        assert_close(got, wanted, **TOLERANCE[dtype])


def test_tied_matrix_gets_the_gradient_of_both_uses() -> None:
    output, embedding = make(tied=True)
    output.double(), embedding.double()
    weight = embedding.output_weight()
    assert output.projection.weight is weight
    words = torch.randint(WORDS, (1, TOKENS))
    target = torch.randint(WORDS, (TOKENS,))
    losses = [
        output.loss(embedding.embed_target(words)[0], target, 0.1)[0],
        F.cross_entropy(embedding.embed_target(words)[0] @ weight.t(), target, label_smoothing=0.1, reduction="sum"),
    ]
    got, wanted = (gradients(loss, weight)[0] for loss in losses)
    assert_close(got, wanted, **TOLERANCE[torch.float64])


def test_smoothing_by_hand() -> None:
    """Three words, all equally likely: the loss is log 3 whatever eps; with logits (log 6, 0, 0) and eps 0.3 mixed."""
    output, _ = make()
    output.projection = DENSE("output", 1, 3, bias=False).double()
    with torch.no_grad():
        output.projection.weight.copy_(torch.tensor([[math.log(6.0)], [0.0], [0.0]]))
    equal, mixed = torch.zeros(1, 1, dtype=torch.float64), torch.ones(1, 1, dtype=torch.float64)
    target = torch.tensor([0])
    assert output.loss(equal, target, 0.3)[0].item() == pytest.approx(math.log(3))
    # p = (6/8, 1/8, 1/8), q = (0.8, 0.1, 0.1)
    assert output.loss(mixed, target, 0.3)[0].item() == pytest.approx(-0.8 * math.log(0.75) - 0.2 * math.log(0.125))
    assert output.loss(mixed, target, 0.3)[1].item() == pytest.approx(-math.log(0.75))


def test_gradcheck() -> None:
    output, _ = make(bias=True)
    output.double()
    hidden, target = tokens(torch.float64)

    def loss(*inputs: Tensor) -> Tensor:  # gradcheck moves the parameters in place
        return output.loss(inputs[0], target, 0.2)[0]

    assert torch.autograd.gradcheck(loss, (hidden, *output.parameters()))


@pytest.mark.parametrize("frozen", ["weight", "hidden", "all but bias"])
def test_frozen_inputs(frozen: str) -> None:
    output, _ = make(bias=True)
    hidden, target = tokens()
    trained = {"weight": hidden, "hidden": output.projection.weight, "all but bias": output.projection.bias}[frozen]
    for tensor in (hidden, *output.parameters()):
        tensor.requires_grad_(tensor is trained)
    expected = F.cross_entropy(output.projection(hidden), target, label_smoothing=0.1, reduction="sum")
    [got], [wanted] = (gradients(loss, trained) for loss in (output.loss(hidden, target, 0.1)[0], expected))
    assert_close(got, wanted, **TOLERANCE[torch.float32])


def test_without_gradients() -> None:
    output, _ = make()
    hidden, target = tokens()
    expected = output.loss(hidden, target, 0.1)
    with torch.no_grad():
        loss, nll = output.loss(hidden, target, 0.1)
    assert not loss.requires_grad
    assert (loss, nll) == expected


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16], ids=str)
def test_log_probs_are_at_least_float32(dtype: torch.dtype) -> None:
    output, _ = make(bias=True)
    hidden = torch.randn(2, 3, WIDTH, dtype=dtype)
    got = output.to(dtype).log_probs(hidden)
    assert got.dtype == (torch.float64 if dtype == torch.float64 else torch.float32)
    assert_close(got.exp().sum(-1), torch.ones(2, 3, dtype=got.dtype))
    assert_close(got, torch.log_softmax(output.projection(hidden).to(got.dtype), -1))


def test_bf16_autocast_is_close_and_keeps_master_dtypes() -> None:
    output, _ = make(bias=True)
    hidden, target = tokens()
    expected = output.loss(hidden, target, 0.1)[0]
    with torch.autocast("cpu", dtype=torch.bfloat16):
        loss, _ = output.loss(hidden, target, 0.1)
    assert loss.dtype == torch.float32
    assert_close(loss, expected, rtol=0.02, atol=0.0)
    inputs = (hidden, *output.parameters())
    for got, wanted in zip(gradients(loss, *inputs), gradients(expected, *inputs), strict=True):
        assert got.dtype == torch.float32
        assert_close(got, wanted, rtol=0.05, atol=0.05)
