"""Projection and cross-entropy in one, so that the logits of all tokens are never held together."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from nmt.models.precision import at_least_float32

CHUNK_ELEMENTS = 1 << 20
"""Logits held at once while training: 4 MiB in float32 fit the caches of a CPU; 16 MiB cost 5 to 10 % a step."""


def chunked_cross_entropy(
    hidden: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    target: Tensor,
    *,
    kept: float = 1.0,
    spread: float | Tensor = 0.0,
    mass: float = 1.0,
) -> tuple[Tensor, Tensor]:
    """Cross-entropy of softmax(hidden W^T + b), summed over the tokens, a chunk of them at a time.

    A token's target distribution is q = ``kept`` one-hot + ``spread``; it need not sum to 1.

    Args:
        hidden: (num_tokens, dim); there may be none.
        weight: (num_classes, dim).
        bias: (num_classes,) or None.
        target: int64 (num_tokens,).
        kept: what of q stands on the target.
        spread: what every class has in addition: one number for all, or (num_classes,) without gradient.
        mass: sum of q.

    Returns:
        -sum q log p (with gradient) and -sum log p[target] (without), scalars in nats, at least float32.
    """
    loss, nll = _ChunkedCrossEntropy.apply(hidden, weight, bias, target, kept, spread, mass)  # type: ignore[no-untyped-call]
    return loss, nll


class _ChunkedCrossEntropy(torch.autograd.Function):
    """With p = softmax(z), the loss -sum q log p has the gradient (sum q) p - q by the logits z.

    Both are known as soon as a chunk's logits are, so the gradients of the inputs are formed then and there and the
    logits are dropped. The backward pass only scales them.
    """

    @staticmethod
    def forward(
        ctx: Any,
        hidden: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        target: Tensor,
        kept: float,
        spread: float | Tensor,
        mass: float,
    ) -> tuple[Tensor, Tensor]:
        device = hidden.device.type
        dtype = torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else hidden.dtype
        smooth = isinstance(spread, Tensor) or spread != 0
        w = weight.to(dtype)
        needs_grad = any(ctx.needs_input_grad[:3])
        loss = at_least_float32(hidden.new_zeros(()))
        nll = torch.zeros_like(loss)
        grad_hidden = torch.empty_like(hidden) if needs_grad else None
        grad_weight = torch.zeros_like(weight) if needs_grad else None
        grad_bias = torch.zeros_like(bias) if needs_grad and bias is not None else None
        rows = max(1, CHUNK_ELEMENTS // weight.size(0))
        for start in range(0, hidden.size(0), rows):
            h, t = hidden[start : start + rows].to(dtype), target[start : start + rows, None]
            z = at_least_float32(h @ w.t())
            if bias is not None:
                z += bias
            lprobs = torch.log_softmax(z, dim=1)
            chunk_nll = -lprobs.gather(1, t).sum()
            nll += chunk_nll
            loss += kept * chunk_nll
            if isinstance(spread, Tensor):
                loss -= (spread * lprobs.sum(0)).sum()
            elif smooth:
                loss -= spread * lprobs.sum()
            if grad_hidden is None or grad_weight is None:
                continue
            grad = lprobs.exp_()  # mass p - kept one-hot; what is spread follows below, for all chunks at once
            if mass != 1:
                grad *= mass
            grad.scatter_add_(1, t, grad.new_full((), -kept).expand(t.shape))
            if grad_bias is not None:
                grad_bias += grad.sum(0)
            grad = grad.to(dtype)
            grad_hidden[start : start + rows] = grad @ w
            if dtype == grad_weight.dtype:
                grad_weight.addmm_(grad.t(), h)
            else:
                grad_weight += grad.t() @ h
        if smooth and grad_hidden is not None and grad_weight is not None:
            # What the spread part of q adds: rank one, so it needs no pass over the logits.
            if isinstance(spread, Tensor):
                grad_hidden -= spread.to(weight.dtype) @ weight
                grad_weight -= torch.outer(spread, hidden.sum(0).to(spread.dtype))
            else:
                grad_hidden -= spread * weight.sum(0)
                grad_weight -= spread * hidden.sum(0)
            if grad_bias is not None:
                grad_bias -= spread * hidden.size(0)
        ctx.save_for_backward(grad_hidden, grad_weight, grad_bias)
        ctx.mark_non_differentiable(nll)
        return loss, nll

    @staticmethod
    def backward(ctx: Any, grad_loss: Tensor, _: Tensor) -> tuple[Tensor | None, ...]:
        scaled = [None if g is None else g * grad_loss.to(g.dtype) for g in ctx.saved_tensors]
        return scaled[0], scaled[1], scaled[2], None, None, None, None
