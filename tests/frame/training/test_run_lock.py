"""One process a run: the second is refused by name, and a dead holder holds nothing."""

from __future__ import annotations

import errno
import os
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from nmt.config import ConfigError
from nmt.training.run import lock as module
from nmt.training.run.lock import LOCK_FILE, run_lock

HOLD = """
import os, sys, time
from pathlib import Path
from nmt.training.run.lock import run_lock
with run_lock(Path(sys.argv[1])):
    child = os.fork()  # as the workers that prepare batches: they may live on for a moment
    if child:
        print(child, flush=True)
    time.sleep(120)
"""


@pytest.fixture
def holder(tmp_path: Path):
    """A process that holds the lock of ``tmp_path / "run"``; it has forked a child."""
    process = subprocess.Popen([sys.executable, "-c", HOLD, str(tmp_path / "run")], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    child = int(process.stdout.readline())
    yield process
    os.kill(child, signal.SIGKILL)
    process.kill()
    process.wait()


def test_a_run_in_use_is_refused_until_its_holder_dies(holder, tmp_path: Path) -> None:
    run = tmp_path / "run"
    with pytest.raises(ConfigError) as caught, run_lock(run):
        pytest.fail("two processes at once")
    said = str(caught.value)
    assert said.startswith(f"run={run} is in use by process {holder.pid} on {socket.gethostname()} since 20")
    assert said.endswith("; stop that process or choose another run=")
    holder.kill()
    holder.wait()
    with run_lock(run):  # although its child is still there
        assert (run / LOCK_FILE).read_text().startswith(f"process {os.getpid()} on ")


def test_training_in_a_run_in_use_touches_nothing(holder, make_trainer, tmp_path: Path) -> None:
    run = tmp_path / "run"
    trainer = make_trainer(f"run={run}", "train.max_updates=1")
    with pytest.raises(ConfigError, match=f"is in use by process {holder.pid} "):
        trainer.fit()
    assert [p.name for p in run.iterdir()] == [LOCK_FILE]
    holder.kill()
    holder.wait()
    trainer.fit()
    assert trainer.learner.progress.finished


def test_a_file_system_without_locks_is_a_warning(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def refuse(*_: object) -> None:
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(module.fcntl, "lockf", refuse)
    with run_lock(tmp_path):
        pass
    assert caplog.messages == [f"{tmp_path}: no locks on this file system; nothing keeps a second process off the run"]


def test_a_folder_that_cannot_be_made(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with (
        pytest.raises(ConfigError, match=r"^run=.*/file/run: cannot be written \(Not a directory\)$"),
        run_lock(tmp_path / "file" / "run"),
    ):
        pass
