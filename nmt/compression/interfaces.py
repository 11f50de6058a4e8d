"""The slot for pruning methods: what makes a smaller model out of a trained one."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, TypeAlias

from omegaconf import DictConfig
from torch import Tensor

from nmt.checkpoints.checkpoint import Loaded
from nmt.registry import declare_slot


@dataclass
class Pruned:
    """A smaller model, as a checkpoint holds it.

    Attributes:
        config: the configuration of the checkpoint that it was made of, changed where the model is another.
        tensors: of the model that this configuration describes, named as by ``model_tensors``.
        report: what was kept, as plain values; it is printed, and stored in the new checkpoint.
    """

    config: DictConfig
    tensors: dict[str, Tensor]
    report: dict[str, Any] = field(default_factory=dict)


Validate: TypeAlias = Callable[[Pruned], float]
"""The negative log-likelihood per target token, in nats, of a model on the corpus and split that the user named; a
ConfigError where none was."""


class Pruner(ABC):
    """Makes a smaller model out of a trained one. Built with its options only."""

    @abstractmethod
    def prune(self, loaded: Loaded, validate: Validate) -> Pruned:
        """The smaller model.

        Args:
            loaded: the checkpoint, on the CPU; left as it is.
            validate: for methods that choose by the loss; those that do not never call it, and need no corpus.

        Raises:
            ConfigError: the model has not what the options name.
        """


declare_slot("pruner", key="method", interface=Pruner)
