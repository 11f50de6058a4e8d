"""A task's own metrics choose the best checkpoint, in the direction that the task says."""

from __future__ import annotations

from pathlib import Path

import pytest

from nmt.config import ConfigError

GIVEN = ["plugins=[counted]", "task.name=counted", "train.max_updates=3", "validate.every=1", "checkpoints.every=1"]
TRANSLATED = ["validate.translate=true", "validate.beam=3"]


@pytest.fixture(autouse=True)
def counted(plugin) -> None:
    plugin("counted")


@pytest.mark.parametrize(("metric", "best"), [("null", 2), ("distance", 2), ("closeness", 1)])
def test_they_choose_the_best_checkpoint(metric: str, best: int, train, read_metrics, tmp_path: Path) -> None:
    trainer = train(f"run={tmp_path / 'run'}", *GIVEN, *TRANSLATED, f"validate.metric={metric}")
    assert (tmp_path / "run/checkpoints/best").readlink().name == f"update-{best:08d}"
    assert [line["distance"] for line in read_metrics(tmp_path / "run", "valid")] == [5.0, 3.0, 4.0]
    assert trainer.learner.progress.best == (5.0 if metric == "closeness" else 3.0)


def test_another_metric_is_refused_with_the_tasks_own(make_trainer, tmp_path: Path) -> None:
    message = r"^validate\.metric=bleu: task 'counted' has no such metric; valid options: distance, closeness, loss"
    with pytest.raises(ConfigError, match=message):
        make_trainer(f"run={tmp_path / 'run'}", *GIVEN, *TRANSLATED, "validate.metric=bleu")
