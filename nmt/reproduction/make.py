"""Makes the models of a plan: each in a process of its own, with progress, and going on after a stop."""

from __future__ import annotations

import json
import logging
import subprocess
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from nmt.checkpoints.checkpoint import Checkpoint
from nmt.config import ConfigError
from nmt.files import write_text
from nmt.reproduction.plan import Job
from nmt.untrusted import parse_json, read_json

logger = logging.getLogger(__name__)

PLACES = ("checkpoint=", "out=")
"""Overrides of a derived model that say where things lie: results may be moved."""

LINE_SECONDS = 30.0
"""Seconds between lines of progress."""
POLL_SECONDS = 0.2
STOP_SECONDS = 120
"""That a training may take to save itself when it is asked to stop."""


class RunFailed(RuntimeError):
    """Models that could not be made; says which and why."""


def make_all(jobs: Sequence[Job], at_once: int) -> None:
    """Train and derive what is missing; a training that was stopped goes on.

    Args:
        jobs: all models.
        at_once: processes at the same time.

    Raises:
        ConfigError: a derived model is there that another command has made.
        RunFailed: some failed; the others were made.
    """
    waiting, failed = list(jobs), dict[Path, str]()
    running: dict[Job, subprocess.Popen[bytes]] = {}
    started = shown = time.monotonic()
    before = {job: fraction(job) for job in jobs}
    try:
        while waiting or running:
            for job in list(waiting):
                if job.source is not None and job.source in failed:
                    waiting.remove(job)
                    failed[job.folder] = f"{job.folder.name}: {job.source.name} failed"
                elif len(running) < at_once and not any(other.folder == job.source for other in (*waiting, *running)):
                    waiting.remove(job)
                    if (process := _start(job)) is not None:
                        running[job] = process
            for job, process in list(running.items()):
                if (status := process.poll()) is not None:
                    del running[job]
                    if status:
                        failed[job.folder] = f"{job.folder.name}: nmt-{job.command} {_reason(job, status)}"
                        logger.error("%s", failed[job.folder])
            if time.monotonic() - shown >= LINE_SECONDS:
                shown = time.monotonic()
                _show(jobs, waiting, running, before, shown - started)
            time.sleep(POLL_SECONDS if running else 0)
    finally:
        for process in running.values():
            process.terminate()
        for process in running.values():
            try:
                process.wait(STOP_SECONDS)
            except subprocess.TimeoutExpired:
                process.kill()
    if failed:
        raise RunFailed("; ".join(failed.values()))


def log_file(job: Job) -> Path:
    """What the process of a job prints."""
    return job.folder.with_name(f"{job.folder.name}.log")


def _start(job: Job) -> subprocess.Popen[bytes] | None:
    """The process of a job; None where the model is there."""
    job.folder.parent.mkdir(parents=True, exist_ok=True)
    if job.source is not None:
        stamp = job.folder.with_name(f"{job.folder.name}.json")
        own = [text for text in job.overrides if not text.startswith(PLACES)]
        made: dict[str, Any] = {"command": [job.command, *own], "source": Checkpoint.find(job.source).digest()}
        if job.folder.exists():
            if not stamp.is_file() or read_json(stamp) != made:
                raise ConfigError(
                    f"{job.folder}: was made by another command or from another checkpoint; remove it, or choose "
                    "another runs="
                )
            return None
        write_text(stamp, json.dumps(made))
    logger.info("%s", job)
    with log_file(job).open("wb") as log:
        return subprocess.Popen(job.words, stdin=subprocess.DEVNULL, stdout=log, stderr=subprocess.STDOUT)


def _reason(job: Job, status: int) -> str:
    lines = log_file(job).read_text(encoding="utf-8", errors="replace").strip().splitlines()
    return f"ended with status {status}: {lines[-1] if lines else 'it said nothing'} ({log_file(job)})"


def metrics(folder: Path, event: str) -> list[dict[str, Any]]:
    """Lines of a run's ``metrics.jsonl`` of one kind."""
    path = folder / "metrics.jsonl"
    if not path.is_file():
        return []
    lines = path.read_bytes().split(b"\n")[:-1]  # what follows the last line break is half a line
    return [line for line in (parse_json(raw, str(path)) for raw in lines) if line["event"] == event]


def fraction(job: Job) -> float:
    """How much of a training is done, roughly; 1 where its last update was validated."""
    lines, validated = metrics(job.folder, "train"), metrics(job.folder, "valid")
    if not lines:
        return 0.0
    last = lines[-1]
    ended = (job.epochs and last["epoch"] >= job.epochs) or (job.updates and last["update"] >= job.updates)
    if ended and validated and validated[-1]["update"] >= last["update"]:
        return 1.0
    shares = [_epochs(lines) / job.epochs] if job.epochs else []
    shares += [last["update"] / job.updates] if job.updates else []
    return float(min(1.0, max(shares, default=0.0)))


def _epochs(lines: Sequence[Mapping[str, Any]]) -> float:
    """How many epochs are done; half of one where none has ended, so that nobody knows how long one is."""
    last = lines[-1]
    before = max((line["update"] for line in lines if line["epoch"] < last["epoch"]), default=None)
    if before is None:
        return float(last["epoch"] - 0.5)
    return float(last["update"] / (before / (last["epoch"] - 1)))


def _show(
    jobs: Sequence[Job],
    waiting: Sequence[Job],
    running: dict[Job, subprocess.Popen[bytes]],
    before: dict[Job, float],
    seconds: float,
) -> None:
    """A line of progress."""
    trainings = [job for job in jobs if job.source is None]
    open_jobs = {*waiting, *running}
    now = {job: fraction(job) if job in open_jobs else 1.0 for job in trainings}
    done = sum(now[job] - before[job] for job in trainings)
    left = sum(1 - share for share in now.values())
    eta = f"ETA {seconds / done * left:.0f} s" if done > 0.01 else "ETA unknown"
    names = ", ".join(f"{job.folder.name} {100 * now.get(job, 0):.0f} %" for job in running)
    logger.info("%d of %d models | %s | %s", len(jobs) - len(open_jobs), len(jobs), names, eta)
