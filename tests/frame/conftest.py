"""One small finished run that tests read, and a copy of its checkpoint that they may spoil."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def run(train, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Twelve updates with dropout, validated and saved every third; read only."""
    folder = tmp_path_factory.mktemp("runs") / "run"
    train(f"run={folder}", "train.max_updates=12", "validate.every=3", "checkpoints.every=3", "checkpoints.keep_last=3")
    return folder


@pytest.fixture
def checkpoint(run: Path, tmp_path: Path) -> Path:
    """A copy of the last checkpoint."""
    return Path(shutil.copytree(run / "checkpoints" / "last", tmp_path / "checkpoint"))
