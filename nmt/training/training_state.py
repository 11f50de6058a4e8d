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
from nmt.training.checkpoint import MODEL_FILE, load_tensors, model_tensors, read_tensors
from nmt.training.ema import MovingAverage

TENSORS_FILE, FACTS_FILE = "training.safetensors", "training.json"


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
    """Everything that training changes."""

    model: nn.Module
    optimizer: torch.optim.Optimizer
    scaler: torch.amp.GradScaler
    average: MovingAverage
    progress: Progress

    def state_files(self) -> dict[str, Any]:
        """Writers of the files that hold the state, taken now."""
        optimizer = self.optimizer.state_dict()
        tensors: dict[str, Tensor] = {"random.cpu": torch.get_rng_state()}
        if torch.cuda.is_available():
            tensors["random.cuda"] = torch.cuda.get_rng_state()
        for index, values in optimizer["state"].items():
            tensors.update({f"optimizer.{index}.{name}": t for name, t in values.items()})
        if self.average.decay:  # the model file holds the average: keep the raw weights here
            tensors.update({f"weights.{name}": t for name, t in model_tensors(self.model).items()})
        tensors = {name: t.detach().cpu().clone().contiguous() for name, t in tensors.items()}
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
        load_tensors(self.model, weights, folder / MODEL_FILE)
        if self.average.decay:
            for kept, parameter in zip(self.average.average, self.average.parameters, strict=True):
                kept.copy_(parameter)
            raw = {name[len("weights.") :]: t for name, t in tensors.items() if name.startswith("weights.")}
            load_tensors(self.model, raw, folder / TENSORS_FILE)
        state: dict[int, dict[str, Tensor]] = {}
        for name, tensor in tensors.items():
            if name.startswith("optimizer."):
                _, index, key = name.split(".", 2)
                state.setdefault(int(index), {})[key] = tensor
        self.optimizer.load_state_dict({"state": state, "param_groups": groups})
        self.scaler.load_state_dict(scaler)
        torch.set_rng_state(tensors["random.cpu"])
        if torch.cuda.is_available() and "random.cuda" in tensors:
            torch.cuda.set_rng_state(tensors["random.cuda"])
        progress.ranking = [(float(metric), str(name)) for metric, name in progress.ranking]
        self.progress = progress
