"""Settings that the validation set chooses, so that the test set is read for the chosen ones alone."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from nmt.config import DataError
from nmt.registry import build
from nmt.reproduction.make import metrics
from nmt.reproduction.plan import Job
from nmt.tasks.interfaces import Task
from nmt.untrusted import read_yaml


@dataclass(frozen=True)
class Trial:
    """What the validation set says of one choice.

    Attributes:
        variant: its name in the recipe.
        choice: name of the setting.
        seed: of the training.
        overrides: the whole training.
        metric: of the task, what its best checkpoint was chosen by.
        value: the best of all validations.
        chosen: whether it is the variant's best (of equal ones the first).
    """

    variant: str
    choice: str
    seed: int
    overrides: list[str]
    metric: str
    value: float
    chosen: bool = False


def choose(jobs: Sequence[Job]) -> list[Trial]:
    """Choose for each variant by the metric that its trainings chose their best checkpoint by.

    Args:
        jobs: finished trainings of every choice.

    Raises:
        DataError: a training has no validation, or the choices of a variant were validated by different metrics.
    """
    better = {job.variant: _better(job) for job in jobs}
    tried = [_trial(job, better[job.variant]) for job in jobs]
    found: list[Trial] = []
    for variant in dict.fromkeys(trial.variant for trial in tried):
        own = [trial for trial in tried if trial.variant == variant]
        if len({trial.metric for trial in own}) > 1:
            raise DataError(f"recipe.variants.{variant}.choices: validate.metric must be the same for all of them")
        best = better[variant](own, key=lambda trial: trial.value)
        found += [Trial(**{**asdict(trial), "chosen": trial is best}) for trial in own]
    return found


def _trial(job: Job, better: Callable[..., Any]) -> Trial:
    assert job.choice is not None, "only choices are tried"
    metric = _config(job).validate.metric
    values = [float(line[metric]) for line in metrics(job.folder, "valid") if line.get(metric) is not None]
    if not values:
        raise DataError(f"{job.folder}: no validation by {metric}, so {job.variant} cannot be chosen")
    return Trial(job.variant, job.choice, job.seed, list(job.overrides), metric, better(values))


def _better(job: Job) -> Callable[..., Any]:
    """``max`` or ``min``, as the task says of the metric that chose a training's best checkpoint."""
    config = _config(job)
    task: Task = build("task", config.task, key="task")
    return max if task.metrics[config.validate.metric] else min


def _config(job: Job) -> Any:
    return read_yaml(job.folder / "config.yaml")
