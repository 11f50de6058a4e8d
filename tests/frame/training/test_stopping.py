"""Moments at which a run may end: during a validation, within a save, before the first save, with a full disk."""

from __future__ import annotations

import errno
import itertools
import json
import os
import resource
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file
from torch.testing import assert_close

from nmt.checkpoints.checkpoint import Checkpoint, CheckpointFiles, load_model
from nmt.checkpoints.store import CheckpointStore
from nmt.data.batch import Batch
from nmt.leftovers import settle_all
from nmt.training.run.signals import Interrupted, StopSignals
from nmt.training.trainer import Trainer

OVERRIDES = [
    "train.max_updates=16", "validate.every=4", "checkpoints.every=8", "model.dropout=0.2", "train.ema=0.8",
    "checkpoints.average=2", "train.patience=9",
]  # fmt: skip
TIMES = ("seconds", "tokens_per_second", "updates_per_second", "peak_mib")


@pytest.fixture(scope="module")
def whole(train, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The uninterrupted run."""
    run = tmp_path_factory.mktemp("whole") / "run"
    train(f"run={run}", *OVERRIDES)
    return run


def assert_same(got: Path, expected: Path) -> None:
    """The whole log, times apart, and the newest checkpoint."""
    logs = []
    for run in (got, expected):
        lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
        logs.append([{k: v for k, v in line.items() if k not in TIMES} for line in lines])
    assert logs[0] == logs[1]
    assert [line["averaged"] for line in logs[0] if "averaged" in line] == [2]
    for link, file in (("last", "model"), ("last", "training"), ("best", "model")):
        folders = [(run / "checkpoints" / link).resolve() for run in (got, expected)]
        assert folders[0].name == folders[1].name
        assert_close(*(load_file(folder / f"{file}.safetensors") for folder in folders), rtol=0, atol=0)
    assert [sorted(p.name for p in run.rglob(".*")) for run in (got, expected)] == [[".lock"]] * 2


def during_validation(trainer: Trainer, number: int, action: Callable[[], Any]) -> None:
    """Do something in the middle of a validation, counted from 1."""
    plain, count = trainer.criterion.main, iter(range(1, 100))

    def measure() -> Any:
        current = next(count)

        def main(*arguments: Any) -> Any:
            if current == number:
                action()
            return plain(*arguments)

        trainer.criterion.main = main  # type: ignore[method-assign]
        try:
            return Trainer._measure(trainer)
        finally:
            trainer.criterion.main = plain  # type: ignore[method-assign]

    trainer._measure = measure  # type: ignore[method-assign]


# --- signals ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("number", "update"), [(1, 4), (2, 8), (4, 16), (5, 16)], ids=["middle", "where a save is due", "last", "average"]
)
def test_a_signal_breaks_a_validation_off(
    number: int, update: int, whole: Path, make_trainer, train, tmp_path: Path
) -> None:
    run = tmp_path / "run"
    trainer = make_trainer(f"run={run}", *OVERRIDES)
    during_validation(trainer, number, lambda: os.kill(os.getpid(), signal.SIGTERM))
    with pytest.raises(KeyboardInterrupt):
        trainer.fit()
    assert (run / "checkpoints" / "last").resolve().name == f"update-{update:08d}"
    valid = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines() if '"valid"' in line]
    assert len(valid) == number - 1, "the validation went on"
    train(f"run={run}", *OVERRIDES)
    assert_same(run, whole)


def test_a_signal_breaks_off_the_validation_at_the_end_of_an_epoch(
    make_trainer, train, tmp_path: Path, read_metrics
) -> None:
    overrides = ["train.max_epochs=2", "model.dropout=0.2"]
    trainer = make_trainer(f"run={tmp_path / 'run'}", *overrides)
    during_validation(trainer, 1, lambda: os.kill(os.getpid(), signal.SIGINT))
    with pytest.raises(KeyboardInterrupt):
        trainer.fit()
    for run in ("run", "whole"):
        train(f"run={tmp_path / run}", *overrides)
    for event in ("train", "valid"):
        got, expected = (
            [(line["update"], line["epoch"], line["loss"]) for line in read_metrics(tmp_path / run, event)]
            for run in ("run", "whole")
        )
        assert got == expected


def test_more_signals_while_the_first_is_obeyed(whole: Path, make_trainer, train, tmp_path: Path) -> None:
    """Impatience must cost nothing: neither the weights that come back after a validation nor the save."""
    run = tmp_path / "run"
    trainer = make_trainer(f"run={run}", *OVERRIDES)

    def again(plain: Callable[..., Any]) -> Callable[..., Any]:
        def call(*arguments: Any, **options: Any) -> Any:
            os.kill(os.getpid(), signal.SIGINT)
            result = plain(*arguments, **options)
            os.kill(os.getpid(), signal.SIGTERM)
            return result

        return call

    def first() -> None:
        trainer.learner.state_files = again(trainer.learner.state_files)
        trainer.store.save, trainer.store.link = again(trainer.store.save), again(trainer.store.link)
        os.kill(os.getpid(), signal.SIGINT)

    during_validation(trainer, 1, first)
    with pytest.raises(KeyboardInterrupt):
        trainer.fit()
    train(f"run={run}", *OVERRIDES)
    assert_same(run, whole)


def test_stop_signals() -> None:
    before = signal.getsignal(signal.SIGTERM)
    with StopSignals() as signals:
        os.kill(os.getpid(), signal.SIGTERM)
        assert signals.requested
        with pytest.raises(Interrupted), signals.breakable():
            pytest.fail("a stop that was wished for before breaks off at once")
        os.kill(os.getpid(), signal.SIGTERM)  # outside nothing is broken off
    assert signal.getsignal(signal.SIGTERM) is before
    with StopSignals() as signals, signals.breakable():
        with pytest.raises(Interrupted):
            os.kill(os.getpid(), signal.SIGTERM)
        os.kill(os.getpid(), signal.SIGINT)  # what tidies up after the first is not broken off in turn


@pytest.mark.parametrize(
    "error",
    [
        RuntimeError("DataLoader worker (pid 7) is killed by signal: Terminated."),
        ConnectionResetError(errno.ECONNRESET, "Connection reset by peer"),  # while it handed over a batch
        EOFError(),
    ],
    ids=lambda error: type(error).__name__,
)
def test_batches_of_workers_that_a_signal_ended_are_prepared_here(error: Exception, make_trainer, tmp_path) -> None:
    trainer = make_trainer(f"run={tmp_path / 'run'}", "train.max_updates=9", "train.accumulate=2", "subword.alpha=0.3")
    trainer.learner.progress.batch = 4

    def dying() -> Iterator[Batch]:
        yield from itertools.islice(trainer._batches(), 1)
        raise error

    with pytest.raises(type(error)):
        trainer._next_group(dying())
    trainer.signals.requested = True
    got, expected = trainer._next_group(dying()), list(trainer._batches())[:2]
    assert [batch.ids for batch in got] == [batch.ids for batch in expected]
    assert_close([batch.target for batch in got], [batch.target for batch in expected])


# --- kills ------------------------------------------------------------------------------------------------------------

FILES = ("model.safetensors", "config.yaml", "training.safetensors", "training.json")


def save(folder: Path, update: int, best: int, *, again: bool = False) -> None:
    """As training does; a moment that is saved again has another state and configuration and the same tensors."""
    texts = {name: f"{update}{' again' * (again and not name.endswith('.safetensors'))}" for name in FILES}
    writers = {name: lambda path, text=text: path.write_text(text) for name, text in texts.items()}
    files = CheckpointFiles(writers)
    CheckpointStore(folder, keep_last=2, keep_best=1).save(update, files, [CheckpointStore.name(best)])


@pytest.mark.parametrize("swap", ["exchange", "renames"])
@pytest.mark.parametrize("again", [False, True], ids=["a new moment", "the same moment again"])
def test_killed_at_every_step_of_a_save(
    again: bool, swap: str, struck, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever step comes last: the links lead to whole checkpoints, and the next save leaves nothing behind."""
    if swap == "renames":
        monkeypatch.setattr("nmt.files._exchange", lambda *_: False)
    step, update = 0, 4 if not again else 3
    while True:
        folder = tmp_path / str(step)
        for earlier, best in ((1, 1), (2, 2), (3, 3)):
            save(folder, earlier, best)
        status = struck(lambda where=folder: save(where, update, update, again=again), signal.SIGKILL, step)
        assert status in (0, -signal.SIGKILL)
        settle_all(folder)  # as the next start does
        for link in ("last", "best"):
            assert {(folder / link / name).read_text()[0] for name in FILES} <= {"3", str(update)}
        newest = Checkpoint(CheckpointStore(folder, keep_last=2, keep_best=1).newest_first()[0])
        assert {newest.whole(name).read_text()[0] for name in FILES} == {newest.folder.name[-1]}
        save(folder, 5, 5)
        save(folder, 6, 6)
        names = ["best", "last", "update-00000005", "update-00000006"]
        assert sorted(p.name for p in folder.iterdir()) == names
        if status == 0:
            break
        step += 1
    assert step > 15, "the audit hook saw nothing"


def test_links_and_removals_that_a_kill_cut_off_are_made_up_for(whole: Path, make_trainer, tmp_path: Path) -> None:
    """A finished run whose last save was killed after the folder appeared is finished, and its links are right."""
    run = tmp_path / "run"
    shutil.copytree(whole, run, symlinks=True)
    folder = run / "checkpoints"
    links = [(folder / name).resolve().name for name in ("last", "best")]
    for name in ("last", "best"):
        (folder / name).unlink()
    (folder / "last").symlink_to("update-00000008")
    shutil.copytree(folder / "update-00000016", folder / "update-00000001")
    make_trainer(f"run={run}", *OVERRIDES).fit()
    assert [(folder / name).resolve().name for name in ("last", "best")] == links
    assert (folder / "update-00000001").exists()  # keep_last is 5
    assert not (folder / "update-00000001" / "training.json").exists()


@pytest.mark.parametrize("leftover", [".config.yaml.nmt-0123abcd.tmp", ".lock"])
def test_killed_before_there_was_a_configuration(leftover: str, train, tmp_path: Path) -> None:
    run = tmp_path / "run"
    run.mkdir()
    (run / leftover).write_text("model: {dro")
    train(f"run={run}", "train.max_updates=1")
    assert sorted(p.name for p in run.rglob(".*")) == [".lock"]


def test_killed_before_the_first_checkpoint(whole: Path, make_trainer, train, tmp_path: Path) -> None:
    run = tmp_path / "run"
    trainer = make_trainer(f"run={run}", *OVERRIDES)

    def die(*_: Any) -> None:
        raise RuntimeError("killed")

    trainer._save = die  # type: ignore[method-assign]
    with pytest.raises(RuntimeError, match="killed"):
        trainer.fit()
    assert len((run / "metrics.jsonl").read_text().splitlines()) == 5  # four updates and a validation
    with (run / "metrics.jsonl").open("a") as file:
        file.write('{"event": "tra')
    train(f"run={run}", *OVERRIDES)
    assert_same(run, whole)


# --- a full disk ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("file", ["model.safetensors", "config.yaml", "training.safetensors", "training.json"])
def test_a_full_disk_is_one_line_and_costs_nothing(
    file: str, whole: Path, make_trainer, train, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = tmp_path / "run"
    trainer = make_trainer(f"run={run}", *OVERRIDES)

    def full(path: Path) -> None:
        raise OSError(28, "No space left on device")

    plain = CheckpointFiles.write

    def write(self: CheckpointFiles, folder: Path, **options: Any) -> None:
        eighth = folder.name == "update-00000008"
        plain(CheckpointFiles({**self.writers, file: full}) if eighth else self, folder, **options)

    monkeypatch.setattr(CheckpointFiles, "write", write)
    with pytest.raises(OSError, match="cannot be written") as caught:
        trainer.fit()
    assert (caught.value.filename, caught.value.strerror) == (
        f"{run}/checkpoints/update-00000008",
        "cannot be written (No space left on device); what was saved before is whole, and the same command goes on "
        "from there",
    )
    assert load_model(run / "checkpoints" / "last").path.resolve().name == "update-00000004"
    assert sorted(p.name for p in run.rglob(".*")) == [".lock"]
    monkeypatch.undo()
    train(f"run={run}", *OVERRIDES)
    assert_same(run, whole)


def test_no_room_in_a_real_process(digits: Path, tmp_path: Path) -> None:
    """Files may grow to 300 kB: the log and the model fit, the training state does not."""
    command = [
        sys.executable, "-m", "nmt.commands.train", "model=tiny", "model.encoder.embed_dim=32", "train.log_every=1",
        "model.decoder.embed_dim=32", "model.encoder.ffn_dim=64", "model.decoder.ffn_dim=64", "batch.max_tokens=128",
        "batch.max_length=32", "validate.metric=loss", "validate.translate=false", "device=cpu", "train.max_updates=9",
        "model.encoder.num_heads=2", "model.decoder.num_heads=2", "train.ema=0", "model.embedding.max_positions=64",
        f"corpus={digits}", f"run={tmp_path / 'run'}",
    ]  # fmt: skip
    limit = 300_000
    done = subprocess.run(
        command, capture_output=True, text=True, check=False,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit)),
    )  # fmt: skip
    lines = done.stderr.splitlines()
    expected = f"nmt-train: error: {tmp_path / 'run'}/checkpoints/update-00000009: cannot be written (File too large); "
    assert done.returncode == 1, done.stderr
    assert lines[-1].startswith(expected), done.stderr
    assert "Traceback" not in done.stderr
    assert list((tmp_path / "run" / "checkpoints").iterdir()) == []
