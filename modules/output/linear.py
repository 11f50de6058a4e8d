"""The full softmax over the vocabulary, with a loss that never holds all logits."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from nmt.config import option
from nmt.models.initialisation import init_projection
from nmt.models.interfaces import Embedding, Output
from nmt.registry import register

CHUNK_ELEMENTS = 1 << 20
"""Logits held at once while training: 4 MiB in float32 fit the caches of a CPU; 16 MiB cost 5 to 10 % a step."""


@dataclass
class LinearOutputOptions:
    """Options of ``linear`` (output)."""

    bias: bool = option(False, "a bias per word")


@register("output", "linear", options=LinearOutputOptions)
class LinearOutput(Output):
    """One projection and a softmax; the matrix is the embedding's where that is shared."""

    def __init__(self, options: LinearOutputOptions, *, embed_dim: int, vocab_size: int, embedding: Embedding) -> None:
        super().__init__()
        self.projection = nn.Linear(embed_dim, vocab_size, bias=options.bias)
        shared = embedding.output_weight()
        if shared is None:
            init_projection(self.projection)
        else:
            self.projection.weight = shared
            if options.bias:
                nn.init.zeros_(self.projection.bias)

    def log_probs(self, hidden: Tensor) -> Tensor:
        return torch.log_softmax(_at_least_float32(self.projection(hidden)), dim=-1)

    def loss(self, hidden: Tensor, target: Tensor, label_smoothing: float) -> tuple[Tensor, Tensor]:
        weight, bias = self.projection.weight, self.projection.bias
        loss, nll = _ChunkedCrossEntropy.apply(hidden, weight, bias, target, label_smoothing)  # type: ignore[no-untyped-call]
        return loss, nll


def _at_least_float32(x: Tensor) -> Tensor:
    return x if x.dtype == torch.float64 else x.float()


class _ChunkedCrossEntropy(torch.autograd.Function):
    """Projection and label-smoothed cross-entropy, a chunk of tokens at a time.

    With p = softmax(z) and q = (1 - eps) one-hot + eps / V, the loss is -sum q log p and its gradient by the logits z
    is p - q: both are known as soon as a chunk's logits are, so the gradients of the inputs are formed then and there
    and the logits are dropped. The backward pass only scales them.
    """

    @staticmethod
    def forward(
        ctx: Any, hidden: Tensor, weight: Tensor, bias: Tensor | None, target: Tensor, eps: float
    ) -> tuple[Tensor, Tensor]:
        device = hidden.device.type
        dtype = torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else hidden.dtype
        vocab_size = weight.size(0)
        w = weight.to(dtype)
        needs_grad = any(ctx.needs_input_grad[:3])
        loss = _at_least_float32(hidden.new_zeros(()))
        nll = torch.zeros_like(loss)
        grad_hidden = torch.empty_like(hidden) if needs_grad else None
        grad_weight = torch.zeros_like(weight) if needs_grad else None
        grad_bias = torch.zeros_like(bias) if needs_grad and bias is not None else None
        rows = max(1, CHUNK_ELEMENTS // vocab_size)
        for start in range(0, hidden.size(0), rows):
            h, t = hidden[start : start + rows].to(dtype), target[start : start + rows, None]
            z = _at_least_float32(h @ w.t())
            if bias is not None:
                z += bias
            lprobs = torch.log_softmax(z, dim=1)
            chunk_nll = -lprobs.gather(1, t).sum()
            nll += chunk_nll
            loss += (1 - eps) * chunk_nll
            if eps:
                loss -= eps / vocab_size * lprobs.sum()
            if grad_hidden is None or grad_weight is None:
                continue
            grad = lprobs.exp_()  # p - (1 - eps) one-hot; the uniform part of q follows below, for all chunks at once
            grad.scatter_add_(1, t, grad.new_full((), eps - 1).expand(t.shape))
            if grad_bias is not None:
                grad_bias += grad.sum(0)
            grad = grad.to(dtype)
            grad_hidden[start : start + rows] = grad @ w
            if dtype == grad_weight.dtype:
                grad_weight.addmm_(grad.t(), h)
            else:
                grad_weight += grad.t() @ h
        if eps and grad_hidden is not None and grad_weight is not None:
            # What eps / V for every word adds: rank one, so it needs no pass over the logits.
            uniform = eps / vocab_size
            grad_hidden -= uniform * weight.sum(0)
            grad_weight -= uniform * hidden.sum(0)
            if grad_bias is not None:
                grad_bias -= uniform * hidden.size(0)
        ctx.save_for_backward(grad_hidden, grad_weight, grad_bias)
        ctx.mark_non_differentiable(nll)
        return loss, nll

    @staticmethod
    def backward(ctx: Any, grad_loss: Tensor, _: Tensor) -> tuple[Tensor | None, ...]:
        scaled = [None if g is None else g * grad_loss.to(g.dtype) for g in ctx.saved_tensors]
        return scaled[0], scaled[1], scaled[2], None, None
