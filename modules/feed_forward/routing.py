"""Which experts transform a token, and by what they are multiplied: the routers of a mixture of experts.

Noisy top-k (Shazeer et al. 2017, arXiv:1701.06538, section 2.1 and appendix A), GShard (Lepikhin et al. 2020,
arXiv:2006.16668, section 2.2) and Switch (Fedus et al. 2021, arXiv:2101.03961, section 2).
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from nmt.models.precision import at_least_float32

TIE = 2e-7
"""Training chooses between probabilities closer than this by chance: topk would give the lowest expert all ties."""

SECOND_THRESHOLD = 0.2
"""Gate from which on a further expert is always used under the random policy, as in Mesh TensorFlow."""


@dataclass
class Routing:
    """Where the tokens of a pass go.

    Attributes:
        experts: int64 (num_tokens, k), the first choice first.
        gates: (num_tokens, k), factors of the experts' outputs.
        used: bool (num_tokens, k); None when every choice counts.
        losses: terms that keep the experts equally busy, scalars; in training only.
    """

    experts: Tensor
    gates: Tensor
    used: Tensor | None = None
    losses: dict[str, Tensor] = field(default_factory=dict)


class Router(nn.Module, ABC):
    """Chooses experts by a linear map of the token, at least in float32 whatever the rest of the model computes in.

    Args:
        embed_dim: width of a token.
        num_experts: how many there are to choose from.
        k: how many are chosen.
    """

    def __init__(self, embed_dim: int, num_experts: int, k: int) -> None:
        super().__init__()
        self.num_experts = num_experts
        self.k = k
        self.weight = nn.Parameter(torch.empty(num_experts, embed_dim))

    def forward(self, x: Tensor) -> Routing:
        """Route the tokens (num_tokens, embed_dim)."""
        with torch.autocast(x.device.type, enabled=False):
            return self.route(at_least_float32(x))

    @abstractmethod
    def route(self, x: Tensor) -> Routing:
        """The same, for tokens of the router's own number format."""

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Any:
        """Move with the model, but stay in float32 when it becomes narrower: close decisions would change."""

        def wide(tensor: Tensor) -> Tensor:
            moved = fn(tensor)
            narrower = torch.promote_types(moved.dtype, torch.float32) != moved.dtype
            return tensor.to(moved.device, torch.float32) if narrower else moved

        return super()._apply(wide, recurse)  # type: ignore[no-untyped-call]

    def extra_repr(self) -> str:
        return f"num_experts={self.num_experts}, k={self.k}"


class NoisyTopK(Router):
    """Softmax over the k largest logits, to which training adds noise of a learned size.

    Args:
        noise_floor: least standard deviation of the noise.
        w_importance: weight of the squared coefficient of variation of the experts' summed gates.
        w_load: the same of their expected numbers of tokens.
    """

    def __init__(
        self, embed_dim: int, num_experts: int, k: int, *, noise_floor: float, w_importance: float, w_load: float
    ) -> None:
        super().__init__(embed_dim, num_experts, k)
        self.noise_floor = noise_floor
        self.w_importance = w_importance
        self.w_load = w_load
        self.noise_weight = nn.Parameter(torch.empty(num_experts, embed_dim))
        nn.init.zeros_(self.weight)
        nn.init.zeros_(self.noise_weight)

    def route(self, x: Tensor) -> Routing:
        clean = F.linear(x, self.weight)  # (num_tokens, num_experts)
        if not self.training:
            top, experts = clean.topk(self.k)
            return Routing(experts, top.softmax(-1))
        deviation = F.softplus(F.linear(x, self.noise_weight)) + self.noise_floor
        noisy = clean + torch.randn_like(clean) * deviation
        top, order = noisy.topk(min(self.k + 1, self.num_experts))
        experts, gates = order[:, : self.k], top[:, : self.k].softmax(-1)
        importance = gates.new_zeros(clean.shape).scatter(1, experts, gates).sum(0)
        losses = {"moe_importance": self.w_importance * squared_variation(importance)}
        if self.k < self.num_experts:  # otherwise all experts have the same load
            load = chosen_probability(clean, deviation, top, experts).sum(0)
            losses["moe_load"] = self.w_load * squared_variation(load)
        return Routing(experts, gates, losses=losses)


class SoftmaxRouter(Router):
    """Chooses the k largest probabilities of a softmax over all experts.

    Args:
        aux: weight of the balance loss.
    """

    def __init__(self, embed_dim: int, num_experts: int, k: int, *, aux: float) -> None:
        super().__init__(embed_dim, num_experts, k)
        self.aux = aux
        # Normalised tokens have about embed_dim as their squared norm: logits start with a variance of 0.1.
        nn.init.normal_(self.weight, std=(0.1 / embed_dim) ** 0.5)

    def choose(self, x: Tensor) -> Routing:
        """The k most probable experts with their probabilities."""
        probs = F.linear(x, self.weight).softmax(-1)  # (num_tokens, num_experts)
        if not self.training:
            gates, experts = probs.topk(self.k)
            return Routing(experts, gates)
        experts = (probs.detach() + TIE * torch.rand_like(probs)).topk(self.k).indices
        losses = {"moe_balance": self.aux * balance(probs, experts[:, 0])}
        return Routing(experts, probs.gather(1, experts), losses=losses)


class GShard(SoftmaxRouter):
    """The gates of the chosen experts sum to one.

    Args:
        random_second: training uses an expert beyond the first with probability min(1, gate / 0.2) only.
    """

    def __init__(self, embed_dim: int, num_experts: int, k: int, *, aux: float, random_second: bool) -> None:
        super().__init__(embed_dim, num_experts, k, aux=aux)
        self.random_second = random_second

    def route(self, x: Tensor) -> Routing:
        routing = self.choose(x)
        routing.gates = routing.gates / routing.gates.sum(1, keepdim=True)
        if self.random_second and self.training:
            routing.used = torch.rand_like(routing.gates) * SECOND_THRESHOLD < routing.gates
            routing.used[:, 0] = True
        return routing


class Switch(SoftmaxRouter):
    """The gates are the probabilities themselves: renormalised, that of a single expert would be constant.

    Args:
        jitter: training multiplies the router's input by factors between 1 - jitter and 1 + jitter.
    """

    def __init__(self, embed_dim: int, num_experts: int, k: int, *, aux: float, jitter: float) -> None:
        super().__init__(embed_dim, num_experts, k, aux=aux)
        self.jitter = jitter

    def route(self, x: Tensor) -> Routing:
        if self.training and self.jitter:
            x = x * torch.empty_like(x).uniform_(1 - self.jitter, 1 + self.jitter)
        return self.choose(x)


def squared_variation(amounts: Tensor) -> Tensor:
    """Square of the coefficient of variation: population variance over squared mean."""
    return amounts.var(correction=0) / (amounts.mean().square() + 1e-10)


def chosen_probability(clean: Tensor, deviation: Tensor, top: Tensor, experts: Tensor) -> Tensor:
    """P(x, i) of Shazeer et al. 2017, eq. 8 and 9: that expert i is chosen if its noise alone were drawn anew.

    Args:
        clean: (num_tokens, num_experts), logits without noise.
        deviation: of the same shape, standard deviation of the noise.
        top: (num_tokens, k + 1), the largest logits with noise, descending.
        experts: int64 (num_tokens, k), those that were chosen.

    Returns:
        (num_tokens, num_experts), differentiable.
    """
    k = experts.size(1)
    chosen = torch.zeros_like(clean, dtype=torch.bool).scatter(1, experts, True)
    # What must be passed is the k-th largest of the others.
    threshold = torch.where(chosen, top[:, k : k + 1], top[:, k - 1 : k])
    return torch.special.ndtr((clean - threshold) / deviation)


def balance(probs: Tensor, first: Tensor) -> Tensor:
    """E * sum of f_e P_e: share of the tokens whose first choice is e, times its mean probability; 1 if uniform.

    Args:
        probs: (num_tokens, num_experts).
        first: int64 (num_tokens,), the first choices.
    """
    num_tokens, num_experts = probs.shape
    counts = F.one_hot(first, num_experts).sum(0)
    return num_experts * (counts * probs.sum(0)).sum() / max(1, num_tokens) ** 2
