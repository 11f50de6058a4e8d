"""Shallower models: whole layers go, the others stay as they are (Fan et al. 2020, arXiv:1909.11556, section 3.2).

Models that were trained with ``layer_drop`` lose little by it.
"""

from __future__ import annotations

import copy
import logging
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations, product
from typing import Any, TypeAlias

from omegaconf import DictConfig, OmegaConf
from torch import Tensor, nn

from nmt.checkpoints.checkpoint import Loaded
from nmt.compression.interfaces import Pruned, Pruner, Validate
from nmt.config import ConfigError, option, suggest
from nmt.limits import MAX_COUNT, MAX_LAYERS
from nmt.models.interfaces import Stack
from nmt.registry import find, register

log = logging.getLogger(__name__)

RULES = ("all", "every_other", "search")
PARTS = ("self_attention", "cross_attention", "feed_forward", "layer", "stack")
"""Slots of a stack whose components may hold options a layer."""

Kept: TypeAlias = dict[str, list[int]]
"""Numbers of the layers that stay, of ``encoder`` and ``decoder``."""


@dataclass
class LayersOptions:
    """Options of ``layers`` (pruner)."""

    encoder: Any = option(
        "every_other",
        "layers to keep: a list of numbers from 0, all, every_other or search",
        minimum=0,
        maximum=MAX_LAYERS,
    )
    decoder: Any = option("every_other", "the same for the decoder", minimum=0, maximum=MAX_LAYERS)
    rate: float = option(0.5, "every_other: share to drop; every floor(1 / rate)-th layer goes", above=0, maximum=0.5)
    encoder_layers: int | None = option(None, "search: how many encoder layers to keep", minimum=1, maximum=MAX_LAYERS)
    decoder_layers: int | None = option(None, "search: how many decoder layers to keep", minimum=1, maximum=MAX_LAYERS)
    max_trials: int = option(
        200,
        "search: most models to compare; all subsets where they are fewer, else layers go one by one",
        minimum=1,
        maximum=MAX_COUNT,
    )


@register("pruner", "layers", options=LayersOptions, paper="Fan et al. 2020, arXiv:1909.11556")
class LayersPruner(Pruner):
    """Keeps some layers of each stack: given ones, every other, or those with the lowest loss."""

    def __init__(self, options: LayersOptions) -> None:
        self.options = options
        for side in ("encoder", "decoder"):
            rule, wanted = getattr(options, side), getattr(options, f"{side}_layers")
            if not isinstance(rule, list) and rule not in RULES:
                raise ConfigError(
                    f"method.{side}={rule} is neither a list of layers nor a rule; valid options: "
                    f"{', '.join(RULES)}{suggest(str(rule), RULES)}"
                )
            if (rule == "search") != (wanted is not None):
                given = "" if wanted is None else f"={wanted}"
                raise ConfigError(f"method.{side}=search and method.{side}_layers{given} go together; give both")

    def prune(self, loaded: Loaded, validate: Validate) -> Pruned:
        depths = {side: _depth(loaded.config, side) for side in ("encoder", "decoder")}
        kept = {side: self._chosen(side, depth) for side, depth in depths.items()}
        found: dict[str, float] = {}
        wanted = self._wanted(depths)
        if wanted:
            search = _Search(lambda choice: validate(cut(loaded, choice)), depths, self.options.max_trials)
            whole = validate(cut(loaded, {side: list(range(depth)) for side, depth in depths.items()}))
            kept, loss = search.best(kept, wanted)
            found = {"nll": round(loss, 4), "nll_before": round(whole, 4)}
        pruned = cut(loaded, kept)
        pruned.report = {**{side: kept[side] for side, depth in depths.items() if depth}, **found}
        return pruned

    def _chosen(self, side: str, depth: int) -> list[int]:
        """The layers that the options name; all where they are searched for."""
        rule = getattr(self.options, side)
        if rule == "every_other":
            return every_other(depth, self.options.rate)
        if not isinstance(rule, list):
            return list(range(depth))
        for number in rule:
            if isinstance(number, bool) or not isinstance(number, int) or not 0 <= number < depth:
                has = f"layers 0 to {depth - 1}" if depth else "no layers"
                raise ConfigError(f"method.{side}={rule}: {number} is not a layer; model.{side} has {has}")
        if not rule:
            raise ConfigError(f"method.{side}=[]: give at least one layer to keep")
        if rule != sorted(set(rule)):
            raise ConfigError(f"method.{side}={rule} must be ascending, each layer once")
        return rule

    def _wanted(self, depths: Mapping[str, int]) -> dict[str, int]:
        """How many layers to keep of the sides that are searched."""
        sizes = {side: getattr(self.options, f"{side}_layers") for side in depths}
        for side, size in sizes.items():
            if size is not None and size > depths[side]:
                raise ConfigError(f"method.{side}_layers={size} is out of range: model.{side}.layers is {depths[side]}")
        return {side: size for side, size in sizes.items() if size is not None}


def every_other(depth: int, rate: float) -> list[int]:
    """The paper's rule: the layers whose depth is a multiple of floor(1 / rate) go.

    The paper does not say where depth starts. Counted from 1, the rule keeps what the authors' code keeps of 16 layers
    (0, 2, ... 14, numbered from 0); and the first layer, which reads the embeddings, stays.
    """
    period = math.floor(1 / rate)
    return [layer for layer in range(depth) if (layer + 1) % period]


class _Search:
    """Finds the layers with the lowest loss.

    Args:
        loss: of a choice; a ConfigError where some layers cannot do without others.
        depths: layers of each side.
        max_trials: most losses to compute.
    """

    def __init__(self, loss: Callable[[Kept], float], depths: Mapping[str, int], max_trials: int) -> None:
        self._loss = loss
        self._depths = depths
        self._max_trials = max_trials

    def best(self, kept: Kept, wanted: Mapping[str, int]) -> tuple[Kept, float]:
        """The best choice and its loss.

        Args:
            kept: where the search starts: all layers of the sides that are searched.
            wanted: how many to keep of each of these.

        Raises:
            ConfigError: it would take too many trials, or no choice is possible.
        """
        subsets = math.prod(math.comb(self._depths[side], size) for side, size in wanted.items())
        steps = sum(sum(range(size + 1, self._depths[side] + 1)) for side, size in wanted.items())
        if subsets <= self._max_trials:
            chosen = [combinations(range(self._depths[side]), size) for side, size in wanted.items()]
            choices = ({**kept, **dict(zip(wanted, map(list, choice)))} for choice in product(*chosen))
            return self._lowest(choices, subsets)
        if steps > self._max_trials:
            raise ConfigError(
                f"method.max_trials={self._max_trials} is too few: {subsets} subsets, or {steps} trials one by one"
            )
        loss = math.inf
        for side, size in wanted.items():
            while len(kept[side]) > size:
                kept, loss = self._lowest(_one_less(kept, side), len(kept[side]))
        return kept, loss

    def _lowest(self, choices: Iterator[Kept], number: int) -> tuple[Kept, float]:
        losses: list[tuple[float, Kept]] = []
        refused: ConfigError | None = None
        for trial, choice in enumerate(choices, start=1):
            try:
                loss = self._loss(choice)
            except ConfigError as error:
                refused = error
                continue
            losses.append((loss, choice))
            text = ", ".join(f"{side} {layers}" for side, layers in choice.items())
            log.info("trial %d of %d: %s: nll %.4f", trial, number, text, loss)
        if not losses:
            assert refused is not None, "there was nothing to choose from"
            raise refused
        loss, choice = min(losses, key=lambda pair: pair[0])
        return choice, loss


def _one_less(kept: Kept, side: str) -> Iterator[Kept]:
    """The choices without one more layer of a side."""
    for layer in kept[side]:
        yield {**kept, side: [other for other in kept[side] if other != layer]}


# --- cutting ----------------------------------------------------------------------------------------------------------


def cut(loaded: Loaded, kept: Mapping[str, Sequence[int]]) -> Pruned:
    """The model with some layers of its stacks, which are numbered anew.

    Args:
        loaded: the whole model.
        kept: numbers of the layers that stay, ascending, of ``encoder`` and ``decoder``.

    Raises:
        ConfigError: a component's layers cannot do without one that goes, or its stack is not made of single layers.
    """
    config, prefixes = copy.deepcopy(loaded.config), {}
    for side, layers in kept.items():
        if len(layers) == _depth(config, side):
            continue
        prefixes[_layers_name(loaded.model, config, side)] = layers
        node = config.model[side]
        node.layers = len(layers)
        for slot in PARTS:
            if slot in node:
                key = f"model.{side}.{slot}"
                component: Any = find(slot, node[slot].name, key).factory
                plain: Any = OmegaConf.to_container(node[slot])
                OmegaConf.update(config, key, component.select_layers(plain, layers), merge=False, force_add=True)
    return Pruned(config, _renumbered(loaded.model, prefixes))


def _depth(config: DictConfig, side: str) -> int:
    """Layers of a stack; 0 where the model has none on this side."""
    return int(OmegaConf.select(config, f"model.{side}.layers") or 0)


def _layers_name(model: nn.Module, config: DictConfig, side: str) -> str:
    """Name of the list of a side's layers within the model."""
    for name, module in model.named_modules():
        if name.split(".")[0] == side and isinstance(module, Stack):
            layers = getattr(module, "layers", None)
            if isinstance(layers, nn.ModuleList) and len(layers) == _depth(config, side):
                return f"{name}.layers."
    stack = OmegaConf.select(config, f"model.{side}.stack.name")
    raise ConfigError(f"method.{side}: model.{side}.stack.name={stack} is not made of single layers; give all")


def _renumbered(model: nn.Module, prefixes: Mapping[str, Sequence[int]]) -> dict[str, Tensor]:
    """The tensors that stay, under their new names; what is tied stands under the first of its names that is left."""
    tensors: dict[str, Tensor] = {}
    seen: set[int] = set()
    for name, tensor in model.state_dict(keep_vars=True).items():
        new = _new_name(name, prefixes)
        if new is not None and id(tensor) not in seen:
            seen.add(id(tensor))
            tensors[new] = tensor.data
    return tensors


def _new_name(name: str, prefixes: Mapping[str, Sequence[int]]) -> str | None:
    """What a tensor is called in the shallower model; None where its layer goes."""
    for prefix, kept in prefixes.items():
        if name.startswith(prefix):
            number, rest = name.removeprefix(prefix).split(".", 1)
            return f"{prefix}{list(kept).index(int(number))}.{rest}" if int(number) in kept else None
    return name
