"""Two processes that train together: like one that takes as many batches, and no process outlives another."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from subprocess import CompletedProcess
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch.testing import assert_close

from nmt.config import ConfigError, DataError, compose, parse_options
from nmt.parallel.ranks import Ranks
from nmt.parallel.replicas import NORMALISER, Replicas
from nmt.parallel.shards import Shards, _own_layers
from nmt.training.options import TrainOptions
from nmt.training.trainer import Trainer
from nmt.training.window import Window, dealt, gathered

HERE = Path(__file__).parent
FAULTY, TWO_PROCESSES = str(HERE / "faulty.py"), str(HERE / "two_processes.py")
HINTED = HERE.parents[1] / "helpers" / "hinted.py"

SHORT = [
    "model=tiny",
    *(f"model.{side}.{key}" for side in ("encoder", "decoder") for key in ("embed_dim=16", "num_heads=2")),
    "model.encoder.ffn_dim=25",  # an odd number of rows, which shards unevenly
    "model.decoder.ffn_dim=24",
    "model.embedding.max_positions=64",
    *("batch.max_length=32", "batch.max_tokens=128", "train.log_every=2", "validate.max_tokens=40"),
    *("optimizer.lr=1e-3", "schedule.warmup_updates=4", "train.ema=0.8", "train.clip_norm=0.5", "device=cpu"),
    *("validate.metric=loss", "validate.translate=false"),
]
# Softmax does not see a bias of the keys: its gradient is rounding noise, which Adam scales up to full steps.
EQUAL = [
    *SHORT,
    "model.dropout=0",
    *(f"model.{part}.bias=false" for part in ("encoder.self_attention", "decoder.self_attention")),
    "model.decoder.cross_attention.bias=false",
    *("train.max_epochs=2", "validate.every=4"),
]

Start = Callable[..., CompletedProcess[str]]


def errors(done: CompletedProcess[str]) -> list[str]:
    return re.findall(r"^nmt-\w+: error: .*$", done.stderr, re.MULTILINE)


def assert_alike(got: Path, expected: Path, read_metrics: Any) -> None:
    """The same figures at every logged update and validation, the same weights, averages and moments."""
    for event, names in (("train", ["loss", "nll", "grad_norm", "lr", "tokens"]), ("valid", ["nll", "bleu", "chrf"])):
        rows = [
            [line[name] for line in read_metrics(run, event) for name in ("update", *names) if name in line]
            for run in (got, expected)
        ]
        assert rows[0] == pytest.approx(rows[1], rel=1e-4)
    for name in ("model.safetensors", "training.safetensors"):
        tensors = [load_file(run / "checkpoints" / "last" / name) for run in (got, expected)]
        skipped = ("random.", "criterion.passes")  # differ by process
        tensors = [{k: t for k, t in of_run.items() if not k.startswith(skipped)} for of_run in tensors]
        assert_close(tensors[0], tensors[1], rtol=1e-3, atol=2e-5)
    best = [(run / "checkpoints" / "best").resolve().name for run in (got, expected)]
    assert best[0] == best[1]


def figures(run: Path, event: str, read_metrics: Any) -> list[dict[str, Any]]:
    """The lines of the log without times."""
    times = ("seconds", "tokens_per_second", "updates_per_second", "peak_mib")
    return [{k: v for k, v in line.items() if k not in times} for line in read_metrics(run, event)]


def alone(*overrides: str) -> Trainer:
    """One process, here."""
    config = compose("train", [*overrides])
    trainer = Trainer(parse_options(TrainOptions, config), config)
    trainer.fit()
    return trainer


@pytest.mark.slow
def test_two_processes_are_one_that_accumulates(
    torchrun: Start, digits: Path, read_metrics: Any, tmp_path: Path
) -> None:
    """Eleven batches an epoch: the last update of an epoch has one batch, or three for four places."""
    given = [f"corpus={digits}", *EQUAL, "validate.translate=true", "validate.beam=2", "checkpoints.average=2"]
    sweep = ["train.parallel=replicate,shard", "train.accumulate=1,2", "run=${train.parallel}.${train.accumulate}"]
    done = torchrun("-m", "nmt.commands.train", "--multirun", *given, *sweep)
    assert done.returncode == 0, done.stderr
    assert done.stderr.count(": finished after ") == 4, "one process speaks for both"
    for accumulate in (1, 2):
        one = tmp_path / f"one.{accumulate}"
        trainer = alone(*given, f"train.accumulate={2 * accumulate}", f"run={one}")
        assert trainer.batches.num_batches(1) == 11, "the test stands on this"
        for parallel in ("replicate", "shard"):
            assert_alike(tmp_path / f"Parallel.{parallel}.{accumulate}", one, read_metrics)
    [entry] = json.loads((tmp_path / "Parallel.shard.2" / "manifest.json").read_text(encoding="utf-8"))
    assert entry["processes"] == 2


@pytest.mark.slow
def test_parameters_of_a_criterion_are_trained_by_two_processes(
    torchrun: Start, digits: Path, read_metrics: Any, tmp_path: Path, plugin: Any
) -> None:
    plugin("hinted")
    shutil.copy(HINTED, tmp_path)
    given = [f"corpus={digits}", *EQUAL, "plugins=[hinted]", "criterion={name: hinted, dropout: 0}"]
    sweep = ["train.parallel=replicate,shard", "run=${train.parallel}"]
    done = torchrun("-m", "nmt.commands.train", "--multirun", *given, *sweep)
    assert done.returncode == 0, done.stderr
    alone(*given, "train.accumulate=2", f"run={tmp_path / 'one'}")
    for parallel in ("replicate", "shard"):
        assert_alike(tmp_path / f"Parallel.{parallel}", tmp_path / "one", read_metrics)


@pytest.mark.slow
def test_going_on_with_as_many_or_other_processes(
    torchrun: Start, digits: Path, read_metrics: Any, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    shutil.copy(FAULTY, tmp_path)
    given = [f"corpus={digits}", *EQUAL]
    for name in ("more", "sharded"):
        alone(*given, "train.accumulate=2", "train.max_updates=4", f"run={tmp_path / name}")
    done = torchrun(TWO_PROCESSES, *given)
    assert done.returncode == 0, done.stderr

    names = ("longer", "stopped", "broken_off", "damaged")
    for name in names:  # bit for bit, with dropout and skipped layers that differ by process
        got, expected = (load_file(tmp_path / r / "checkpoints/last/training.safetensors") for r in (name, "whole"))
        assert_close(got, expected, rtol=0, atol=0)
        assert not torch.equal(got["random.cpu"], got["random.cpu.1"])
        for event in ("train", "valid"):  # also the lines that cover updates of two starts
            lines, wanted = (figures(tmp_path / r, event, read_metrics) for r in (name, "whole"))
            ended = (5,) if (name, event) == ("longer", "valid") else ()  # where the first start ended
            assert [line for line in lines if line["update"] not in ended] == wanted
    # Asked in its third update, the second process tells the first one in the fourth.
    assert [(tmp_path / f"stopped.{rank}").read_text() for rank in (0, 1)] == ["update-00000004"] * 2

    # The signal came to the second process in the validation after the fourth update.
    assert [(tmp_path / f"broken_off.{rank}").read_text() for rank in (0, 1)] == ["update-00000004 train train"] * 2
    assert done.stderr.count("is set aside as damaged-update-00000008, training goes on from update-00000006") == 1
    assert (tmp_path / "damaged" / "checkpoints" / "damaged-update-00000008").is_dir()

    one = alone(*given, "train.accumulate=2", "train.max_updates=16", f"run={tmp_path / 'one'}")
    for name in ("fewer", "unsharded"):
        alone(*given, "train.accumulate=2", "train.max_updates=16", f"run={tmp_path / name}")
    for name in ("fewer", "unsharded", "more", "sharded"):
        assert_alike(tmp_path / name, tmp_path / "one", read_metrics)
    assert "batches from now on" not in caplog.text + done.stderr

    suspects = list(one.batches.epoch(1, rank=1, world=2))[2].ids
    listed = ", ".join(map(str, suspects[:8]))
    messages = [(tmp_path / f"broken.{rank}").read_text() for rank in (0, 1)]
    assert messages[0] == messages[1]
    assert f"a non-finite gradient at update 3 (epoch 1), loss nan, training sentences {listed}" in messages[0]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("fault", "parallel", "message"),
    [
        ("memory", "replicate", "nmt-train: error: out of memory at update 3 with a batch of "),
        ("error", "shard", "nmt-train: error: the second process cannot go on"),
        ("SIGKILL", "replicate", "nmt-train: error: another process of this run has ended without a word "),
    ],
)
def test_no_process_outlives_another(
    fault: str, parallel: str, message: str, torchrun: Start, digits: Path, tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    monkeypatch.setenv("FAULT", fault)
    shutil.copy(FAULTY, tmp_path)
    given = [f"corpus={digits}", *EQUAL, "plugins=[faulty]", "criterion.name=faulty", f"train.parallel={parallel}"]
    done = torchrun("-m", "nmt.commands.train", *given, "run=run", "train.max_updates=16", "checkpoints.every=2")
    assert done.returncode != 0
    [said] = errors(done)
    assert said.startswith(message)
    assert sorted(p.name for p in (tmp_path / "run" / "checkpoints").iterdir()) == ["last", "update-00000002"]


def test_a_mistake_is_reported_once(torchrun: Start, run: Path, digits: Path) -> None:
    """That the run exists with another configuration is found by the first process alone."""
    done = torchrun("-m", "nmt.commands.train", f"corpus={digits}", *EQUAL, f"run={run}")
    assert done.returncode != 0
    [said] = errors(done)
    assert said.startswith(f"nmt-train: error: run={run} exists with another configuration (")


class Told(Ranks):
    """A process of two, whose other one always answers the same."""

    def all_gather(self, value: Any) -> list[Any]:
        return [value, [True, "x: damaged"]]


def test_a_checkpoint_that_another_process_refuses_changes_nothing(
    train: Any, make_trainer: Any, tmp_path: Path
) -> None:
    train(f"run={tmp_path / 'run'}", "train.max_updates=2")
    learner = make_trainer(f"run={tmp_path / 'other'}", "train.max_updates=2", "seed=2").learner
    learner.parallel.ranks = Told()
    before = {name: tensor.clone() for name, tensor in learner.parallel.tensors().items()}
    random = torch.get_rng_state()
    with pytest.raises(DataError, match=r"^x: damaged$"):
        learner.restore(tmp_path / "run" / "checkpoints" / "last")
    assert learner.progress.update == 0
    assert torch.equal(torch.get_rng_state(), random)
    assert_close(learner.parallel.tensors(), before, rtol=0, atol=0)


def test_figures_of_a_line_are_dealt_to_another_number_of_processes() -> None:
    windows = [
        Window({"loss": 3.0, "nll": 2.0}, {"heads": 1.0, "gate": 5.0}, 10, 7, 2, 0.5, 4.0),
        Window({"loss": 1.0}, {"heads": 3.0}, 10, 9, 2, 0.5, 4.5),
    ]
    assert dealt(windows, Ranks(1, 2)) == windows[1]
    assert dealt([], Ranks(1, 3)) == Window()
    all_figures = {"heads": 2.0, "gate": 5.0}
    assert dealt(windows, Ranks(0, 3)) == Window({"loss": 4.0, "nll": 2.0}, all_figures, 10, 16, 2, 0.5, 4.0)
    assert dealt(windows, Ranks(2, 3)) == Window({}, {}, 10, 0, 2, 0.5, 4.0)
    assert gathered(windows[0], Ranks()) == windows[:1]


class OneOfTwo(Ranks):
    """The first of two processes; what the other would send is given."""

    def __init__(self, counts: list[int], gradients: torch.Tensor) -> None:
        super().__init__(0, 2)
        self.counts, self.gradients = counts, gradients

    def sum(self, values: Any) -> list[float]:
        return [a + b for a, b in zip(values, self.counts)]

    def all_reduce(self, tensor: torch.Tensor) -> None:
        tensor += self.gradients


def test_layers_that_some_process_ran_are_updated_and_no_others() -> None:
    """layer_drop skips other layers in each process: used by both, by this one, by the other one, by none."""
    model = torch.nn.Module()
    for name in "abcd":
        model.register_parameter(name, torch.nn.Parameter(torch.zeros(2)))
    model.a.grad, model.b.grad = torch.tensor([1.0, 2.0]), torch.tensor([3.0, 4.0])
    # Of the other process: 6 tokens, no wish to stop, gradients of a and c.
    other = OneOfTwo([6, 0, 1, 0, 1, 0], torch.tensor([10.0, 20.0, 0.0, 0.0, 50.0, 60.0]))
    assert Replicas(model, other, torch.device("cpu")).reduce(2, False) == (8, False)
    scale = NORMALISER / 8
    assert torch.equal(model.a.grad, torch.tensor([11.0, 22.0]) * scale)
    assert torch.equal(model.b.grad, torch.tensor([3.0, 4.0]) * scale)
    assert torch.equal(model.c.grad, torch.tensor([50.0, 60.0]) * scale)
    assert model.d.grad is None


def test_layers_that_are_skipped_cannot_be_shards(make_model: Any) -> None:
    model = make_model("model.decoder.stack.layer_drop=0.1")
    with pytest.raises(
        ConfigError, match=r"^train\.parallel=shard: all processes must run the same layers, but layer_"
    ):
        Shards(model, Ranks(0, 2), torch.device("cpu"))


def test_layers_that_share_parameters_stay_with_the_model(make_model: Any) -> None:
    model = make_model()
    layers = [*model.encoder.layers, *model.decoder.stack.layers]
    assert _own_layers(model) == layers
    layers[0].feed_forward = layers[1].feed_forward
    assert _own_layers(model) == layers[2:]
