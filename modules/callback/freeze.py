"""Weights that stay as they are for a while, so that what is new learns first."""

from __future__ import annotations

import fnmatch
from dataclasses import dataclass

from nmt.config import ConfigError, option, suggest
from nmt.limits import MAX_COUNT
from nmt.models.encoder_decoder import SequenceModel
from nmt.registry import register
from nmt.training.callbacks import Callback


@dataclass
class FreezeOptions:
    """Options of ``freeze`` (callback)."""

    parameters: list[str] = option([], "names of parameters, * for anything: [embedding.*,encoder.layers.0.*]")
    until: int = option(MAX_COUNT, "the last update in which they stay as they are", minimum=1, maximum=MAX_COUNT)


@register("callback", "freeze", options=FreezeOptions)
class Freeze(Callback):
    """Keeps parameters as they are up to an update, or for the whole training."""

    def __init__(self, options: FreezeOptions) -> None:
        super().__init__()
        self.patterns, self.until = options.parameters, options.until
        self.names = frozenset[str]()

    def prepare(self, model: SequenceModel) -> None:
        names = [name for name, _ in model.named_parameters()]
        if not self.patterns:
            raise ConfigError(f"callbacks: freeze needs parameters=[NAME,...], such as {names[0]}")
        for pattern in self.patterns:
            if not fnmatch.filter(names, pattern):
                raise ConfigError(
                    f"callbacks: freeze.parameters={pattern} names no parameter of the model{suggest(pattern, names)}; "
                    f"its first one is {names[0]}, its last one {names[-1]}"
                )
        self.names = frozenset(name for pattern in self.patterns for name in fnmatch.filter(names, pattern))
        if len(self.names) == len(names):
            raise ConfigError("callbacks: freeze.parameters names all of the model: nothing would be learned")

    def before_step(self, model: SequenceModel, update: int) -> None:
        for name, parameter in model.named_parameters():
            if name in self.names:
                parameter.requires_grad_(update > self.until)
