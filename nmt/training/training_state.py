"""The part of a checkpoint from which training goes on: optimiser, random numbers, position in the data."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from nmt.config import DataError
from nmt.models.encoder_decoder import EncoderDecoder
from nmt.training.checkpoint import MODEL_FILE, read_tensors
from nmt.training.ema import MovingAverage
from nmt.training.parallel import Replicas
from nmt.training.randomness import random_states, restore_random

TENSORS_FILE, FACTS_FILE = "training.safetensors", "training.json"


@dataclass
class Progress:
    """Where a run stands.

    Attributes:
        update: updates done.
        epoch: the current epoch, from 1.
        batch: batches of the epoch done, by all processes together.
        ranking: validated checkpoints still kept, best first, as (metric, name).
        best: the best metric so far.
        without_better: validations in a row without a better metric.
        validated_at: updates done at the last validation.
        skipped: updates skipped for non-finite gradients.
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
    seconds: float = 0.0
    finished: bool = False


@dataclass
class Learner:
    """Everything that training changes.

    With several processes, each of them must make the same calls: what they hold parts of is gathered.
    """

    parallel: Replicas
    optimizer: torch.optim.Optimizer
    scaler: torch.amp.GradScaler
    average: MovingAverage
    progress: Progress

    def state_files(self) -> dict[str, Any]:
        """Writers of the files that hold the state, taken now; complete on the first process only."""
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
        facts = json.dumps(
            {
                "progress": asdict(self.progress),
                "param_groups": optimizer["param_groups"],
                "scaler": self.scaler.state_dict(),
            }
        )
        return {
            TENSORS_FILE: lambda path: save_file(tensors, path),
            FACTS_FILE: lambda path: path.write_text(facts, encoding="utf-8"),
        }

    def restore(self, folder: Path) -> None:
        """Go back to the state of a checkpoint.

        Raises:
            DataError: a file is missing, truncated or of another model.
        """
        path = folder / FACTS_FILE
        try:
            facts = json.loads(path.read_text(encoding="utf-8"))
            progress = Progress(**facts["progress"])
            groups, scaler = facts["param_groups"], facts["scaler"]
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise DataError(f"{path}: not the state of a training run ({error})") from error
        tensors = read_tensors(folder / TENSORS_FILE)
        weights = read_tensors(folder / MODEL_FILE)
        self.parallel.load(weights, folder / MODEL_FILE)
        if self.average.decay:
            for kept, parameter in zip(self.average.average, self.average.parameters, strict=True):
                kept.copy_(parameter)
            raw = {name[len("weights.") :]: t for name, t in tensors.items() if name.startswith("weights.")}
            self.parallel.load(raw, folder / TENSORS_FILE)
        state: dict[int, dict[str, Tensor]] = {}
        parameters = self._parameters()
        for name, tensor in tensors.items():
            if name.startswith("optimizer."):
                _, index, key = name.split(".", 2)
                state.setdefault(int(index), {})[key] = self.parallel.part(parameters[int(index)], tensor)
        self.optimizer.load_state_dict({"state": state, "param_groups": groups})
        self.scaler.load_state_dict(scaler)
        restore_random(tensors, self.parallel.ranks.rank, progress.update)
        progress.ranking = [(float(metric), str(name)) for metric, name in progress.ranking]
        self.progress = progress

    @property
    def model(self) -> EncoderDecoder:
        """What is trained."""
        return self.parallel.model

    def _parameters(self) -> list[nn.Parameter]:
        """The parameters in the order in which the optimiser numbers them."""
        return [parameter for group in self.optimizer.param_groups for parameter in group["params"]]
