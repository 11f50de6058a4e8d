"""Layers one after the other, with LayerDrop (Fan et al. 2020, arXiv:1909.11556)."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import Any

import torch
from torch import Tensor, nn

from nmt.config import option
from nmt.models.interfaces import EncoderOut, ForwardPass, Layer, Stack
from nmt.models.masks import SelfMask
from nmt.models.state import State, Step
from nmt.registry import register


@dataclass
class SequentialOptions:
    """Options of ``sequential`` (stack)."""

    layer_drop: float = option(
        0.0,
        "probability that training skips a layer, drawn per layer and forward pass",
        minimum=0,
        maximum=1,
        training_only=True,
    )


@register("stack", "sequential", options=SequentialOptions, paper="Fan et al. 2020, arXiv:1909.11556 (layer_drop)")
class SequentialStack(Stack):
    """Layers one after the other; training may skip some at random."""

    def __init__(self, options: SequentialOptions, *, layers: list[Layer], make_norm: Callable[[], nn.Module]) -> None:
        super().__init__()
        self.layers = nn.ModuleList(layers)
        self.layer_drop = options.layer_drop
        # A layer that reads what the one below it left stays or goes with it.
        self.groups = list(accumulate(int(not layer.follows or i == 0) for i, layer in enumerate(layers)))
        self.skips_layers = options.layer_drop > 0
        self.norm = nn.Identity() if layers and layers[-1].normalised else make_norm()

    @classmethod
    def select_layers(cls, node: Mapping[str, Any], kept: Sequence[int]) -> dict[str, Any]:
        # The rate belongs to the depth that it makes up for (section 3.2: 1 - layers kept / layers): here nothing.
        return {**node, "layer_drop": 0.0}

    def _kept(self) -> list[bool]:
        # Nothing is drawn without layer_drop, so that the baseline's random numbers stay the same.
        if not self.training or self.layer_drop == 0:
            return [True] * len(self.layers)
        draws = (torch.rand(self.groups[-1] if self.groups else 0) >= self.layer_drop).tolist()
        return [draws[group - 1] for group in self.groups]

    def forward(self, x: Tensor, mask: SelfMask, memo: ForwardPass, encoder_out: EncoderOut | None = None) -> Tensor:
        for layer, kept in zip(self.layers, self._kept()):
            if kept:
                x = layer(x, mask, memo, encoder_out)
        return self.norm(x)

    def init_state(self, rows: int, max_len: int, like: Tensor) -> State:
        return [layer.init_state(rows, max_len, like) for layer in self.layers]  # type: ignore[operator]

    def init_memory(self, encoder_out: EncoderOut | None) -> State:
        return [layer.init_memory(encoder_out) for layer in self.layers]  # type: ignore[operator]

    def step(self, x: Tensor, cache: State, memory: State, step: Step, memo: ForwardPass) -> Tensor:
        for index, layer in enumerate(self.layers):
            x = layer.step(x, cache[index], memory[index], step, memo)  # type: ignore[operator]
        return self.norm(x)
