"""Blocks of adjacent layers that share what the first of them computes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from nmt.config import ConfigError
from nmt.models.interfaces import LayerContext


@dataclass(frozen=True)
class Place:
    """A layer's place in its block. A layer alone in its block does neither.

    Attributes:
        leads: it computes what others of its block use.
        follows: it uses what the first layer of its block computed.
    """

    leads: bool
    follows: bool


def place_in_block(policy: Sequence[int] | None, context: LayerContext, slot: str) -> Place:
    """Where a layer stands.

    Args:
        policy: sizes of the blocks, from the bottom; None = one block of all layers.
        context: of the layer.
        slot: name of its slot, for the message.

    Raises:
        ConfigError: the sizes do not add up to the number of layers.
    """
    sizes = [context.num_layers] if policy is None else policy
    if sum(sizes) != context.num_layers:
        raise ConfigError(
            f"{context.key}.{slot}.policy={list(sizes)} adds up to {sum(sizes)} layers, "
            f"but {context.key}.layers={context.num_layers}; give block sizes that add up to it, "
            "or null for one block"
        )
    start, size = _block_of(sizes, context.layer)
    return Place(leads=size > 1 and context.layer == start, follows=context.layer > start)


def _block_of(sizes: Sequence[int], layer: int) -> tuple[int, int]:
    """First layer and size of the block that a layer is in."""
    start = 0
    for size in sizes:
        if layer < start + size:
            return start, size
        start += size
    raise AssertionError(f"layer {layer} is in no block of {sizes}")


def select_policy(policy: Sequence[int] | None, kept: Sequence[int], slot: str) -> list[int] | None:
    """The policy that is left when only some layers stay.

    Args:
        policy: sizes of the blocks; None = one block of all layers.
        kept: numbers of the layers that stay, ascending.
        slot: name of the slot, for the message.

    Raises:
        ConfigError: a layer stays, but not the first of its block.
    """
    if not kept:
        return None
    sizes = [kept[-1] + 1] if policy is None else policy
    blocks: dict[int, int] = {}
    for layer in kept:
        start, size = _block_of(sizes, layer)
        if start not in kept:
            together = "all layers" if policy is None else f"layers {start} to {start + size - 1}"
            raise ConfigError(
                f"{slot}.policy={'null' if policy is None else list(policy)}: layer {layer} uses the attention of "
                f"layer {start} ({together} are one block); keep layer {start}, or leave layer {layer} out too"
            )
        blocks[start] = blocks.get(start, 0) + 1
    return None if policy is None else list(blocks.values())
