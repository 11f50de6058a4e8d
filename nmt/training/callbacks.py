"""The slot for what changes while a model is trained: masks, schedules, rewinding, delays."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, cast

from torch import Tensor, nn

from nmt.config import ConfigError
from nmt.models.encoder_decoder import SequenceModel
from nmt.parallel.options import Parallel
from nmt.registry import build, declare_slot


class Callback(nn.Module):
    """Acts on a model between the steps of its training. Built with its options.

    Its parameters are trained with the model's; they and its persistent buffers are saved and resumed with the state of
    the training, so a buffer is the place for what must be remembered. The model in a checkpoint has none of them.
    Updates are counted from 1 over the whole training, whatever was resumed.

    Attributes:
        whole: each process must hold the whole model.
    """

    whole: bool = True

    def prepare(self, model: SequenceModel) -> None:
        """Make what depends on the model, once, before training begins or goes on.

        Args:
            model: what will be trained, on the CPU, with its first weights; not to be kept.

        Raises:
            ConfigError: an option does not fit the model.
        """

    def before_step(self, model: SequenceModel, update: int) -> None:
        """Act before the passes of an update; weights may be changed in place."""

    def terms(self, model: SequenceModel) -> dict[str, Tensor]:
        """What is added to the loss of a target token, in nats, by a name for the log."""
        return {}

    def constrain(self, weights: Mapping[str, Tensor], update: int) -> None:
        """Bring weights to where they may be, in place; after an update, for the model's and for their moving average.

        Args:
            weights: the parameters by name, without graph.
            update: the one that was made.
        """


def build_callbacks(nodes: Sequence[Any], model: SequenceModel, parallel: Parallel) -> nn.ModuleList:
    """The callbacks of a training, in the order in which they act.

    Args:
        nodes: of the configuration, each ``name`` and options.
        model: what will be trained.
        parallel: how processes share it.

    Raises:
        ConfigError: unknown callback or option, or one that needs the whole model where a process holds a part.
    """
    found = nn.ModuleList()
    for index, node in enumerate(nodes):
        key = f"callbacks.{index}"
        callback: Callback = build("callback", node, key=key)
        if callback.whole and parallel is not Parallel.replicate:
            raise ConfigError(
                f"{key}.name={node['name']} needs the whole model in every process and does not go with "
                f"train.parallel={parallel.value}; valid option: train.parallel=replicate"
            )
        callback.prepare(model)
        found.append(callback)
    return found


def each(callbacks: nn.ModuleList) -> Iterable[Callback]:
    """The callbacks of a list, by their type."""
    return cast(Iterable[Callback], callbacks)


declare_slot("callback", key="callbacks", interface=Callback, many=True)
