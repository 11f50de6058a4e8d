"""The part of a checkpoint from which training goes on: optimiser, random numbers, position in the data."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from nmt.checkpoints.checkpoint import (
    MODEL_FILE,
    STATE_FACTS,
    STATE_TENSORS,
    Checkpoint,
    read_tensors,
    save_tensors,
)
from nmt.checkpoints.checksums import DamagedError
from nmt.config import DataError
from nmt.models.encoder_decoder import SequenceModel
from nmt.models.from_data import check_from_data
from nmt.models.tensors import check_tensors, model_tensors
from nmt.parallel.replicas import Replicas
from nmt.training.ema import MovingAverage
from nmt.training.interfaces import Criterion
from nmt.training.randomness import check_random, random_states, restore_random
from nmt.training.window import Window
from nmt.untrusted import is_plain_name, read_json, shorten, typed


@dataclass
class Progress:
    """Where a run stands.

    Attributes:
        update: updates done.
        epoch: the current epoch, from 1.
        batch: batches of the epoch done.
        ranking: validated checkpoints still kept, best first, as (metric, name).
        best: the best metric so far.
        without_better: validations in a row without a better metric.
        validated_at: updates done at the last validation.
        skipped: updates skipped for non-finite gradients.
        skipped_in_a_row: those since the last update that was not.
        windows: figures since the last line of the log, of each process.
        lines: lines of ``metrics.jsonl``.
        seconds: wall time spent training.
        finished: the run has reached its end.
    """

    update: int = 0
    epoch: int = 1
    batch: int = 0
    ranking: list[tuple[float, str]] = field(default_factory=list)
    best: float | None = None
    without_better: int = 0
    validated_at: int = -1
    skipped: int = 0
    skipped_in_a_row: int = 0
    windows: list[Window] = field(default_factory=list)
    lines: int = 0
    seconds: float = 0.0
    finished: bool = False


@dataclass
class _Stored:
    """What a checkpoint holds, read and found to fit."""

    weights: dict[str, Tensor]
    raw: dict[str, Tensor]
    beside: dict[str, Tensor]
    optimizer: dict[str, Any]
    scaler: dict[str, Any]
    tensors: dict[str, Tensor]
    progress: Progress


@dataclass
class Learner:
    """Everything that training changes.

    With several processes, each of them must make the same calls: what they hold parts of is gathered.
    """

    parallel: Replicas
    criterion: Criterion
    callbacks: nn.ModuleList
    optimizer: torch.optim.Optimizer
    scaler: torch.amp.GradScaler
    average: MovingAverage
    progress: Progress

    def state_files(self) -> dict[str, Any]:
        """Writers of the files that hold the state, taken now; they are complete on the first process only."""
        tensors = random_states(self.parallel.ranks)

        def keep(name: str, tensor: Tensor) -> None:
            if self.parallel.ranks.first:
                tensors[name] = tensor.detach().cpu().clone().contiguous()

        optimizer, parameters = self.optimizer.state_dict(), self._parameters()
        for index, values in optimizer["state"].items():
            for name, tensor in values.items():
                keep(f"optimizer.{index}.{name}", self.parallel.whole(parameters[index], tensor))
        if self.average.decay:  # the model file holds the average: keep the raw weights here
            for name, tensor in self.parallel.tensors().items():
                keep(f"weights.{name}", tensor)
        for name, tensor in self._beside().items():
            keep(name, tensor)
        facts = {
            "progress": asdict(self.progress),
            "param_groups": optimizer["param_groups"],
            "scaler": self.scaler.state_dict(),
        }
        return {
            STATE_TENSORS: lambda path: save_tensors(tensors, path),
            STATE_FACTS: lambda path: path.write_text(json.dumps(facts), encoding="utf-8"),
        }

    def restore(self, folder: Path) -> None:
        """Go back to the state of a checkpoint, if all processes can.

        Raises:
            DamagedError: for one of them a file is missing or damaged; nothing has changed in any.
            DataError: for one of them it is no state of this training; nothing has changed in any.
        """
        cause, stored = None, None
        try:
            stored = self._read(folder)
        except DataError as error:
            cause = error
        found = self.parallel.ranks.all_gather(cause and [isinstance(cause, DamagedError), str(cause)])
        reasons = sorted(filter(None, found), reverse=True)  # one that finds damage outweighs one that finds more
        if stored is None or reasons:
            damaged, reason = reasons[0]
            raise (DamagedError if damaged else DataError)(reason) from cause
        self._take(stored, folder)

    def _read(self, folder: Path) -> _Stored:
        """All that `_take` needs, compared with what it will replace.

        Raises:
            DataError: it cannot be taken.
        """
        checkpoint = Checkpoint(folder)
        _ = checkpoint.config, checkpoint.vocabularies
        path, state, model = (checkpoint.whole(name) for name in (STATE_FACTS, STATE_TENSORS, MODEL_FILE))
        try:
            facts = typed(dict[str, Any], read_json(path, finite=False), "the top")
            progress = typed(Progress, facts["progress"], "progress", least=-1)
            if not all(is_plain_name(name) for _, name in progress.ranking):
                raise TypeError("progress.ranking names something outside of the run")
            groups, scaler = facts["param_groups"], facts["scaler"]
            own = self.optimizer.state_dict()["param_groups"]
            _check_alike(own, groups, "param_groups")
            if [group["params"] for group in groups] != [group["params"] for group in own]:
                raise TypeError("param_groups are of another model")
            _check_alike(self.scaler.state_dict(), scaler, "scaler")
        except (KeyError, TypeError) as error:
            raise DataError(f"{path}: not the state of a training run ({shorten(error)})") from error
        tensors, weights = read_tensors(state), read_tensors(model)
        raw = {name.removeprefix("weights."): t for name, t in tensors.items() if name.startswith("weights.")}
        beside = {name: t for name, t in tensors.items() if name.startswith(("criterion.", "callbacks."))}
        self.parallel.check(weights, model)
        check_from_data(self.model, weights, model)
        if self.average.decay:
            self.parallel.check(raw, state)
            check_from_data(self.model, raw, state)
        check_tensors(self._beside(), beside, state)
        check_random(tensors, self.parallel.ranks.rank, state)
        optimizer = {"state": self._optimizer_state(tensors, state), "param_groups": groups}
        return _Stored(weights, raw, beside, optimizer, scaler, tensors, progress)

    def _take(self, stored: _Stored, folder: Path) -> None:
        """Become what was read; nothing of it fails."""
        self.parallel.load(stored.weights, folder / MODEL_FILE)
        if self.average.decay:
            for kept, parameter in zip(self.average.average, self.average.parameters, strict=True):
                kept.copy_(parameter)
            self.parallel.load(stored.raw, folder / STATE_TENSORS)
        for name, tensor in self._beside().items():
            tensor.copy_(stored.beside[name])
        self.optimizer.load_state_dict(stored.optimizer)
        self.scaler.load_state_dict(stored.scaler)
        restore_random(stored.tensors, self.parallel.ranks.rank, stored.progress.update)
        self.progress = stored.progress

    def _optimizer_state(self, tensors: Mapping[str, Tensor], path: Path) -> dict[int, dict[str, Tensor]]:
        """What lies here of the optimiser's tensors, by number of the parameter.

        Raises:
            DataError: one is neither a scalar nor of the shape of its parameter.
        """
        parameters = self._parameters()
        shapes = [self.parallel.shape(parameter) for parameter in parameters]
        state: dict[int, dict[str, Tensor]] = {}
        for name, tensor in tensors.items():
            start, _, rest = name.partition(".")
            index, _, key = rest.partition(".")
            if start != "optimizer":
                continue
            number = int(index) if re.fullmatch(r"[0-9]{1,9}", index) else -1
            if not 0 <= number < len(parameters) or (tensor.dim() and tensor.shape != shapes[number]):
                raise DataError(f"{path}: {shorten(name)} fits no parameter of the model")
            state.setdefault(number, {})[key] = self.parallel.part(parameters[number], tensor)
        return state

    @property
    def model(self) -> SequenceModel:
        """What is trained."""
        return self.parallel.model

    def _beside(self) -> dict[str, Tensor]:
        """What changes beside the model: what is trained of criterion and callbacks, and their buffers."""
        found = {}
        for start, module in (("criterion", self.criterion), ("callbacks", self.callbacks)):
            fixed = {name for name, parameter in module.named_parameters() if not parameter.requires_grad}
            found.update({f"{start}.{name}": t for name, t in model_tensors(module).items() if name not in fixed})
        return found

    def _parameters(self) -> list[nn.Parameter]:
        """The parameters in the order in which the optimiser numbers them."""
        return [parameter for group in self.optimizer.param_groups for parameter in group["params"]]


def _check_alike(own: Any, found: Any, key: str) -> None:
    """Refuse what differs in kind from what is there now: another number of things, a text for a number.

    Raises:
        TypeError: it does.
    """
    if isinstance(own, dict):
        if not isinstance(found, dict) or found.keys() != own.keys():
            raise TypeError(f"{key} must hold exactly the keys {', '.join(own)}")
        for name, value in own.items():
            _check_alike(value, found[name], f"{key}.{name}")
    elif isinstance(own, list | tuple):
        if not isinstance(found, list) or len(found) != len(own):
            raise TypeError(f"{key} must be a list of {len(own)}")
        for index, value in enumerate(own):
            _check_alike(value, found[index], f"{key}[{index}]")
    elif own is None or isinstance(own, bool):  # a switch, or one that torch sets by the device
        if found is not None and not isinstance(found, bool):
            raise TypeError(f"{key} must be a switch and not {shorten(repr(found))}")
    elif not (isinstance(own, int | float) and isinstance(found, int | float)) and type(found) is not type(own):
        raise TypeError(f"{key} must be like {own!r} and not {shorten(repr(found))}")
