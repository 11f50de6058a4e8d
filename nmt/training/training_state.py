"""The part of a checkpoint from which training goes on: optimiser, random numbers, position in the data."""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from nmt.config import DataError
from nmt.files import file_digest
from nmt.training.checkpoint import (
    CONFIG_FILE,
    MODEL_FILE,
    check_tensors,
    load_config,
    load_tensors,
    model_tensors,
    read_tensors,
    save_tensors,
)
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
        skipped_in_a_row: those since the last update that was not.
        window: figures since the last line of the log.
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
    window: dict[str, Any] = field(default_factory=dict)
    lines: int = 0
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
        """Writers of the files that hold the state, taken now; to be written after all others of the checkpoint."""
        optimizer = self.optimizer.state_dict()
        tensors: dict[str, Tensor] = {"random.cpu": torch.get_rng_state()}
        if torch.cuda.is_available():
            tensors["random.cuda"] = torch.cuda.get_rng_state()
        for index, values in optimizer["state"].items():
            tensors.update({f"optimizer.{index}.{name}": t for name, t in values.items()})
        if self.average.decay:  # the model file holds the average: keep the raw weights here
            tensors.update({f"weights.{name}": t for name, t in model_tensors(self.model).items()})
        tensors = {name: t.detach().cpu().clone().contiguous() for name, t in tensors.items()}
        facts = {
            "progress": asdict(self.progress),
            "param_groups": optimizer["param_groups"],
            "scaler": self.scaler.state_dict(),
        }
        return {TENSORS_FILE: lambda path: save_tensors(tensors, path), FACTS_FILE: lambda path: _seal(facts, path)}

    def restore(self, folder: Path) -> None:
        """Go back to the state of a checkpoint.

        Raises:
            DataError: a file is missing, damaged or of another model; nothing has changed.
        """
        facts = _unseal(folder)
        load_config(folder)
        tensors, weights = read_tensors(folder / TENSORS_FILE), read_tensors(folder / MODEL_FILE)
        raw = {name[len("weights.") :]: t for name, t in tensors.items() if name.startswith("weights.")}
        check_tensors(self.model, weights, folder / MODEL_FILE)
        if self.average.decay:
            check_tensors(self.model, raw, folder / TENSORS_FILE)
        load_tensors(self.model, weights, folder / MODEL_FILE)
        if self.average.decay:
            for kept, parameter in zip(self.average.average, self.average.parameters, strict=True):
                kept.copy_(parameter)
            load_tensors(self.model, raw, folder / TENSORS_FILE)
        state: dict[int, dict[str, Tensor]] = {}
        for name, tensor in tensors.items():
            if name.startswith("optimizer."):
                _, index, key = name.split(".", 2)
                state.setdefault(int(index), {})[key] = tensor
        self.optimizer.load_state_dict({"state": state, "param_groups": facts["param_groups"]})
        self.scaler.load_state_dict(facts["scaler"])
        torch.set_rng_state(tensors["random.cpu"])
        if torch.cuda.is_available() and "random.cuda" in tensors:
            torch.cuda.set_rng_state(tensors["random.cuda"])
        self.progress = Progress(**facts["progress"])
        self.progress.ranking = [(float(metric), str(name)) for metric, name in self.progress.ranking]


def _seal(facts: dict[str, Any], path: Path) -> None:
    """Write facts with the digests of all other files of the checkpoint, and one of their own.

    ``config.yaml`` has none: only its keys that say when to stop can differ when the same moment is saved again.
    """
    files = {p.name: file_digest(p) for p in sorted(path.parent.iterdir()) if p.name != CONFIG_FILE}
    facts = {**facts, "files": files}
    path.write_text(json.dumps({**facts, "sha256": _digest(facts)}), encoding="utf-8")


def _unseal(folder: Path) -> dict[str, Any]:
    """The facts of a checkpoint, none of whose files has changed.

    Raises:
        DataError: a file is missing, or not what was written.
    """
    path = folder / FACTS_FILE
    try:
        facts = json.loads(path.read_text(encoding="utf-8"))
        claimed, files = facts.pop("sha256"), facts["files"]
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror})") from error
    except (ValueError, LookupError, TypeError, AttributeError) as error:
        raise DataError(f"{path}: not the state of a training run ({type(error).__name__}: {error})") from error
    if claimed != _digest(facts):
        raise DataError(f"{path}: damaged (its content is not what was written)")
    for name, digest in files.items():
        try:
            found = file_digest(folder / name)
        except OSError as error:
            raise DataError(f"{folder / name}: cannot be read ({error.strerror})") from error
        if found != digest:
            raise DataError(f"{folder / name}: damaged (its content is not what {FACTS_FILE} says)")
    return facts


def _digest(facts: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(facts).encode()).hexdigest()
