"""Sparsely gated mixture of experts: a router sends each token to a few of many feed-forward networks.

Shazeer et al. 2017 (arXiv:1701.06538); in the Transformer Lepikhin et al. 2020 (GShard, arXiv:2006.16668) and Fedus et
al. 2021 (Switch, arXiv:2101.03961).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import Enum
from fractions import Fraction
from typing import Any

import torch
from torch import Tensor

from nmt.config import ConfigError, option
from nmt.limits import MAX_LAYERS, MAX_WEIGHT, MAX_WIDTH
from nmt.models.interfaces import FeedForward, ForwardPass, LayerContext
from nmt.registry import register

from .dense import Activation, DenseFeedForward, DenseOptions
from .experts import FeedForwardExperts
from .routing import GShard, NoisyTopK, Router, Routing, Switch, squared_variation


class RouterKind(Enum):
    """How experts are chosen and weighted."""

    switch = "switch"
    noisy_topk = "noisy_topk"
    gshard = "gshard"


class SecondPolicy(Enum):
    """When gshard uses the experts beyond the first, in training."""

    all = "all"
    random = "random"


MAX_EXPERTS = 4096
"""Of a layer: the largest published have 2,048 (arXiv:2006.16668, arXiv:2101.03961)."""


@dataclass
class MixtureOptions:
    """Options of ``moe`` (feed forward)."""

    experts: int = option(8, "number of feed-forward networks in a layer", minimum=1, maximum=MAX_EXPERTS)
    k: int | None = option(
        None, "experts that a token goes to; default: 1 for switch, else 2", minimum=1, maximum=MAX_EXPERTS
    )
    ffn_dim: int | None = option(
        None, "inner width of each expert; default: the stack's ffn_dim", minimum=1, maximum=MAX_WIDTH
    )
    activation: Activation = option(Activation.relu, "relu, gelu, silu, or gated: glu, reglu, geglu, swiglu")
    bias: bool = option(True, "biases in the projections")
    expert_dropout: float | None = option(
        None,
        "after the activation in the experts; default: model.activation_dropout",
        minimum=0,
        below=1,
        training_only=True,
    )
    router: RouterKind = option(
        RouterKind.switch, "switch: gate = probability; gshard: gates sum to 1; noisy_topk: softmax of noisy logits"
    )
    layers: Any = option(
        "every_other",
        "layers with experts: every_other (1, 3, ...; a single layer too), all, or a list of numbers",
        minimum=0,
        maximum=MAX_LAYERS,
    )
    capacity_factor_train: float | None = option(
        1.25,
        "in training an expert takes at most this times its even share of a batch; what is beyond is dropped: the "
        "residual alone carries it; null = no limit",
        above=0,
        maximum=MAX_EXPERTS,
        training_only=True,
    )
    capacity_factor_eval: float | None = option(
        None,
        "the same at inference, where translations then depend on their neighbours in the batch",
        above=0,
        maximum=MAX_EXPERTS,
    )
    w_importance: float = option(
        0.01,
        "noisy_topk: weight of the loss that evens out the summed gates",
        minimum=0,
        maximum=MAX_WEIGHT,
        training_only=True,
    )
    w_load: float = option(
        0.01,
        "noisy_topk: weight of the loss that evens out the expected load",
        minimum=0,
        maximum=MAX_WEIGHT,
        training_only=True,
    )
    aux: float = option(
        0.01, "switch and gshard: weight of the balance loss", minimum=0, maximum=MAX_WEIGHT, training_only=True
    )
    noise_floor: float = option(
        0.01, "noisy_topk: least standard deviation of the noise", minimum=1e-6, maximum=100, training_only=True
    )
    jitter: float = option(
        0.01, "switch: training scales router inputs by 1 +- jitter at most", minimum=0, below=1, training_only=True
    )
    second_policy: SecondPolicy = option(
        SecondPolicy.all,
        "gshard, beyond the first expert: all; random: in training with probability min(1, gate/0.2)",
        training_only=True,
    )


@register(
    "feed_forward",
    "moe",
    options=MixtureOptions,
    paper="Shazeer et al. 2017, arXiv:1701.06538 (noisy_topk); arXiv:2006.16668 (gshard); arXiv:2101.03961 (switch)",
)
class MixtureOfExperts(FeedForward):
    """A router sends each token to a few of many feed-forward networks.

    Raises:
        ConfigError: more experts are chosen than there are, or ``layers`` names none of the stack.
    """

    def __init__(self, options: MixtureOptions, *, context: LayerContext) -> None:
        super().__init__()
        key = f"{context.key}.feed_forward"
        chosen = _layers(options.layers, context.num_layers, key)
        self.dense: DenseFeedForward | None = None
        if context.layer not in chosen:
            dense = DenseOptions(ffn_dim=options.ffn_dim, activation=options.activation, bias=options.bias)
            self.dense = DenseFeedForward(dense, context=context)
            return
        self.router = _router(options, context.embed_dim, key)
        self.experts = FeedForwardExperts(
            options.experts,
            context.embed_dim,
            options.ffn_dim or context.ffn_dim,
            options.activation,
            bias=options.bias,
            dropout=context.activation_dropout if options.expert_dropout is None else options.expert_dropout,
        )
        self.capacity_factors = _exact(options.capacity_factor_train), _exact(options.capacity_factor_eval)
        self.share = 1 / len(chosen)
        self.place = f"{context.key.rpartition('.')[2]}.{context.layer}"

    @classmethod
    def select_layers(cls, node: Mapping[str, Any], kept: Sequence[int]) -> dict[str, Any]:
        layers = node.get("layers", "every_other")
        if layers == "all":
            return dict(node)
        chosen = [new for new, old in enumerate(kept) if (old % 2 if layers == "every_other" else old in layers)]
        return {**node, "layers": chosen}

    def forward(self, x: Tensor, memo: ForwardPass) -> Tensor:
        if self.dense is not None:
            return self.dense(x, memo)
        rows = x.flatten(0, -2)
        if memo.padding_mask is None:
            return self._mix(rows, memo).view_as(x)
        real = memo.padding_mask.logical_not().flatten().nonzero().squeeze(1)
        mixed = self._mix(rows.index_select(0, real), memo)
        return mixed.new_zeros(rows.shape).index_copy(0, real, mixed).view_as(x)

    def _mix(self, x: Tensor, memo: ForwardPass) -> Tensor:
        """The tokens (num_tokens, embed_dim) through their experts."""
        routing = self.router(x)
        num_tokens, k = routing.experts.shape
        order, counts, demand = self._assign(routing)
        repeated = x if k == 1 else x.repeat(k, 1)
        y = self.experts(repeated.index_select(0, order), counts)
        y = y * routing.gates.t().reshape(-1).index_select(0, order)[:, None]
        mixed = y.new_zeros(k * num_tokens, x.size(1)).index_copy(0, order, y).view(k, num_tokens, -1).sum(0)
        if self.training:
            for name, term in routing.losses.items():
                memo.add_loss(name, term * self.share)
            self._report(demand, counts, memo)
        return mixed.to(x.dtype)

    def _assign(self, routing: Routing) -> tuple[Tensor, Tensor, Tensor]:
        """Sort the choices by expert and drop those beyond an expert's capacity.

        Choice c of token t has the number c * num_tokens + t, so that no second choice takes the place of a first one
        and earlier tokens go first.

        Returns:
            Numbers of the choices that are left, by expert; how many of them each expert has; and how many it would
            have without a limit.
        """
        num_tokens, k = routing.experts.shape
        num_experts = self.router.num_experts
        experts = routing.experts.t().reshape(-1)
        if routing.used is not None:
            experts = experts.masked_fill(~routing.used.t().reshape(-1), num_experts)
        experts, order = experts.sort(stable=True)
        ends = torch.searchsorted(experts, torch.arange(num_experts, device=experts.device), right=True)
        demand = ends.diff(prepend=ends.new_zeros(1))
        factor = self.capacity_factors[0 if self.training else 1]
        if factor is None and routing.used is None:
            return order, demand, demand
        capacity = len(order) if factor is None else math.ceil(factor * k * num_tokens / num_experts)
        starts = torch.cat([ends - demand, ends[-1:]])  # choices that are not used come last
        places = torch.arange(len(order), device=order.device) - starts.index_select(0, experts)
        left = ((places < capacity) & (experts < num_experts)).nonzero().squeeze(1)
        return order.index_select(0, left), demand.clamp(max=capacity), demand

    def _report(self, demand: Tensor, counts: Tensor, memo: ForwardPass) -> None:
        """How evenly the experts are used, before anything is dropped, and how much is."""
        total = demand.sum()
        memo.add_figure(f"{self.place}.max_load", demand.max() / total)
        memo.add_figure(f"{self.place}.load_cv2", squared_variation(demand.float()))
        memo.add_figure(f"{self.place}.dropped", 1 - counts.sum() / total)


def _exact(factor: float | None) -> Fraction | None:
    """The factor as it was written: 1.1 * 10 is more than 11 in floating point, and its ceiling would be 12."""
    return None if factor is None else Fraction(repr(factor))


def _router(options: MixtureOptions, embed_dim: int, key: str) -> Router:
    """The router that the options describe."""
    num_experts = options.experts
    k = options.k or min(1 if options.router is RouterKind.switch else 2, num_experts)
    if k > num_experts:
        raise ConfigError(f"{key}.k={k} is out of range: it must be at most {key}.experts={num_experts}")
    if options.router is RouterKind.switch:
        return Switch(embed_dim, num_experts, k, aux=options.aux, jitter=options.jitter)
    if options.router is RouterKind.gshard:
        random_second = options.second_policy is SecondPolicy.random
        return GShard(embed_dim, num_experts, k, aux=options.aux, random_second=random_second)
    return NoisyTopK(
        embed_dim,
        num_experts,
        k,
        noise_floor=options.noise_floor,
        w_importance=options.w_importance,
        w_load=options.w_load,
    )


def _layers(given: Any, num_layers: int, key: str) -> list[int]:
    """Numbers of the layers with experts.

    Raises:
        ConfigError: ``given`` is none of the valid options.
    """
    if given == "all":
        return list(range(num_layers))
    if given == "every_other":
        return list(range(1, num_layers, 2)) or list(range(num_layers))
    if not isinstance(given, list) or not all(type(n) is int and 0 <= n < num_layers for n in given):
        raise ConfigError(
            f"{key}.layers={given} names no layers; valid options: every_other, all, or a list of numbers from 0 to "
            f"{num_layers - 1}"
        )
    return sorted(set(given))
