"""Experts dealt to two processes: to the rounding of float64 they train as in one that takes as many batches."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from subprocess import CompletedProcess
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch.testing import assert_close

import nmt
from nmt.config import ConfigError, compose, parse_options
from nmt.parallel.experts import DealtExperts
from nmt.parallel.ranks import Ranks
from nmt.training.options import TrainOptions
from nmt.training.trainer import Trainer

TWO_EXPERTS = Path(__file__).parent / "two_experts.py"

# Nothing random but the order of equals, and capacities that drop tokens.
GIVEN = [
    "model=tiny",
    *(
        f"model.{side}.{key}"
        for side in ("encoder", "decoder")
        for key in ("embed_dim=16", "num_heads=2", "ffn_dim=24")
    ),
    "model.encoder.feed_forward={name: moe, experts: 4, router: gshard, layers: all, capacity_factor_train: 1.0}",
    "model.decoder.feed_forward={name: moe, experts: 2, router: switch, jitter: 0.0, activation: swiglu, aux: 0.1}",
    *("model.embedding.max_positions=64", "model.dropout=0", "batch.max_length=32", "batch.max_tokens=128"),
    *("train.log_every=2", "validate.max_tokens=40", "validate.metric=loss", "validate.translate=false"),
    *("optimizer.lr=1e-3", "schedule.warmup_updates=4", "train.ema=0.8", "train.clip_norm=0.5", "device=cpu"),
    *("train.max_epochs=2", "validate.every=4"),
    # Softmax does not see a bias of the keys: its gradient is rounding noise, which Adam scales up to full steps.
    *(f"model.{part}.bias=false" for part in ("encoder.self_attention", "decoder.self_attention")),
    "model.decoder.cross_attention.bias=false",
]


@pytest.fixture
def double() -> Iterator[None]:
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


def alone(*overrides: str) -> Trainer:
    config = compose("train", [*overrides])
    trainer = Trainer(parse_options(TrainOptions, config), config)
    trainer.fit()
    return trainer


def assert_equal(got: Path, expected: Path, read_metrics: Any) -> None:
    """The same figures, weights, averages and moments, in files of the same form."""
    for event, names in (("train", ["loss", "nll", "grad_norm", "lr", "tokens"]), ("valid", ["nll"])):
        rows = [
            [line[name] for line in read_metrics(run, event) for name in ("update", *names) if name in line]
            for run in (got, expected)
        ]
        assert rows[0] == pytest.approx(rows[1], rel=1e-10)
    for name in ("model.safetensors", "training.safetensors"):
        tensors = [load_file(run / "checkpoints" / "last" / name) for run in (got, expected)]
        tensors = [{k: t for k, t in of_run.items() if not k.startswith("random.")} for of_run in tensors]
        assert_close(tensors[0], tensors[1], rtol=1e-9, atol=1e-12)


@pytest.mark.slow
@pytest.mark.usefixtures("double")
def test_dealt_experts_are_one_process_that_accumulates(
    torchrun: Callable[..., CompletedProcess[str]], digits: Path, read_metrics: Any, tmp_path: Path
) -> None:
    """Eleven batches an epoch: in the last update of an epoch one process has none."""
    shutil.copy(TWO_EXPERTS, tmp_path)
    given = [f"corpus={digits}", *GIVEN]
    accumulated = [*given, "train.accumulate=2"]
    alone(*accumulated, "train.max_updates=4", f"run={tmp_path / 'more'}")
    done = torchrun("two_experts.py", *given, "train.parallel=experts")
    assert done.returncode == 0, done.stderr

    one = alone(*accumulated, "checkpoints.average=2", "train.max_updates=12", f"run={tmp_path / 'one'}")
    assert one.batches.num_batches(1) == 11, "the test stands on this"
    assert any(line["encoder.1.dropped"] > 0 for line in read_metrics(tmp_path / "one")), "and on this"
    assert_equal(tmp_path / "whole", tmp_path / "one", read_metrics)
    best = [(tmp_path / run / "checkpoints" / "best").resolve().name for run in ("whole", "one")]
    assert best[0] == best[1]

    alone(*accumulated, "train.max_updates=12", f"run={tmp_path / 'plain'}")
    alone(*accumulated, "train.max_updates=12", f"run={tmp_path / 'fewer'}")
    for name in ("fewer", "more", "sharded"):
        assert_equal(tmp_path / name, tmp_path / "plain", read_metrics)

    torch.set_default_dtype(torch.float32)
    narrow = ["train.max_updates=3", "train.precision=bf16", f"run={tmp_path / 'narrow_alone'}"]
    alone(*accumulated, *narrow)
    assert read_metrics(tmp_path / "narrow")[0]["nll"] == pytest.approx(
        read_metrics(tmp_path / "narrow_alone")[0]["nll"], rel=0.01
    )
    assert "bleu" in read_metrics(tmp_path / "narrow", "valid")[-1]
    assert len(nmt.load(tmp_path / "narrow").translate(["1 2 3"])) == 1


@pytest.mark.parametrize(
    ("node", "world", "message"),
    [
        ("{name: dense}", 2, r"^train\.parallel=experts: the model has none; give feed_forward\.name=moe or train\.p"),
        (
            "{name: moe, experts: 4}",
            3,
            r"^train\.parallel=experts: 3 processes cannot share the 4 experts of encoder\.layers\.1\.feed_forward\.",
        ),
    ],
)
def test_models_that_cannot_be_dealt(node: str, world: int, message: str, make_model: Any) -> None:
    with pytest.raises(ConfigError, match=message):
        DealtExperts(make_model(f"model.encoder.feed_forward={node}"), Ranks(0, world), torch.device("cpu"))


def test_layers_that_are_skipped_cannot_be_dealt(make_model: Any) -> None:
    model = make_model("model.encoder.feed_forward.name=moe", "model.encoder.stack.layer_drop=0.1")
    with pytest.raises(ConfigError, match=r"^train\.parallel=experts: all processes must run the same layers, but la"):
        DealtExperts(model, Ranks(0, 2), torch.device("cpu"))


def test_a_share_is_known_by_the_whole(make_model: Any) -> None:
    model = make_model("model.encoder.feed_forward.name=moe")
    sizes = [p.shape for p in model.parameters()]
    dealt = DealtExperts(model, Ranks(1, 2), torch.device("cpu"))
    assert [dealt.shape(p) for p in dealt.parameters] == sizes
    own = {name: p for name, p in model.named_parameters() if dealt.shape(p) != p.shape}
    assert {name.rpartition(".")[0] for name in own} == {"encoder.layers.1.feed_forward.experts"}
    for name, parameter in own.items():
        whole = dict(dealt._plain.named_parameters())[name]
        assert_close(dealt.part(parameter, whole.data), parameter.data, rtol=0, atol=0)
        assert_close(parameter.data, whole.data[4:], rtol=0, atol=0)
        step = torch.tensor(3.0)
        assert dealt.part(parameter, step) is step
        assert dealt.whole(parameter, step) is step
