"""The training loop: against a loop written out, what it writes and when, and when it stops."""

from __future__ import annotations

import json
import math
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from torch.nn import functional as F
from torch.testing import assert_close

from nmt.checkpoints.checkpoint import load_model
from nmt.config import ConfigError, DataError
from nmt.data.corpus import Corpus
from nmt.models.encoder_decoder import EncoderDecoder, full_log_probs
from nmt.training.trainer import Trainer
from nmt.training.update import TrainingError


def written_out(trainer: Trainer, updates: int) -> tuple[EncoderDecoder, list[float]]:
    """The same training in a dozen lines of torch, from the trainer's initial weights and batches."""
    model = trainer.model
    optimizer = torch.optim.Adam(model.parameters(), betas=(0.9, 0.98), eps=1e-9, foreach=False)
    losses = []
    stream = [batch for epoch in (1, 2, 3) for batch in trainer.batches.epoch(epoch)]
    for update, batch in enumerate(stream[:updates], start=1):
        logits = model.output.projection(model(batch.src_tokens, batch.prev_output_tokens).hidden)
        loss = F.cross_entropy(logits.transpose(1, 2), batch.target, ignore_index=0, label_smoothing=0.1)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 0.5)
        optimizer.param_groups[0]["lr"] = 0.01 * min(update / 4, math.sqrt(4 / update))
        optimizer.step()
        optimizer.zero_grad()
        losses.append(loss.item())
    return model, losses


def test_equals_a_loop_written_out(train, make_trainer, tmp_path: Path, read_metrics) -> None:
    overrides = ["model.dropout=0", "optimizer.lr=0.01", "train.clip_norm=0.5", "train.max_updates=15"]
    # Softmax does not see a bias of the keys: its gradient is rounding noise, which Adam scales up to full steps.
    overrides += [f"model.{s}.bias=false" for s in ("encoder.self_attention", "decoder.self_attention")]
    overrides += ["model.decoder.cross_attention.bias=false"]
    expected, losses = written_out(make_trainer(*overrides, f"run={tmp_path / 'a'}"), 15)
    got = train(*overrides, f"run={tmp_path / 'b'}")
    assert [line["loss"] for line in read_metrics(tmp_path / "b")] == pytest.approx(losses, rel=1e-5)
    assert losses[-1] < losses[0] - 0.3, "nothing was learned"
    for mine, other in zip(got.model.parameters(), expected.parameters(), strict=True):
        assert_close(mine, other, rtol=1e-3, atol=2e-5)


def test_data_is_verified_before_training(train, digits: Path, tmp_path: Path) -> None:
    """What is read, and only that; of a run that goes on, too."""
    copy = Path(shutil.copytree(digits, tmp_path / "copy"))
    values = [f"corpus={copy}", f"run={tmp_path / 'run'}"]

    def reverse(split: str) -> None:
        ids = np.fromfile(copy / split / "target.ids", "<u2")
        ids[::-1].tofile(copy / split / "target.ids")

    reverse("test")
    train(*values, "train.max_updates=1")
    for split in ("train", "valid"):
        reverse(split)
        with pytest.raises(DataError, match=rf"{split}/target\.ids: damaged \(its content is not what corpus\.json"):
            train(*values, "train.max_updates=2")
        train(*values, "train.max_updates=2", "verify=false")
        reverse(split)
    train(*values, "train.max_updates=3")


def test_of_several_corpora_only_what_is_read_is_verified(train, digits: Path, tmp_path: Path) -> None:
    copy = Path(shutil.copytree(digits, tmp_path / "copy"))
    path = copy / "valid" / "target.ids"
    path.write_bytes(path.read_bytes()[::-1])
    train(f"corpus=[{digits},{copy}]", f"run={tmp_path / 'run'}", "train.max_updates=1")


def test_seed_decides(train, tmp_path: Path, read_metrics) -> None:
    runs = [tmp_path / name for name in "abc"]
    for run, seed in zip(runs, (1, 1, 2)):
        train(f"run={run}", "train.max_updates=3", f"seed={seed}")
    first, again, other = ([line["loss"] for line in read_metrics(run)] for run in runs)
    assert first == again != other


# --- what a run writes ------------------------------------------------------------------------------------------------


def test_files_of_a_run(run: Path) -> None:
    assert sorted(p.name for p in run.iterdir()) == [
        ".lock",
        "checkpoints",
        "config.yaml",
        "manifest.json",
        "metrics.jsonl",
        "tensorboard",
    ]


@pytest.mark.parametrize("log_every", [1, 4, 10])
def test_metrics_come_at_least_every_ten_updates(log_every: int, train, tmp_path: Path, read_metrics) -> None:
    train(f"run={tmp_path / 'run'}", "train.max_epochs=2", f"train.log_every={log_every}")
    lines = read_metrics(tmp_path / "run")
    updates = [line["update"] for line in lines]
    assert updates == sorted(set(updates))
    assert all(b - a <= log_every for a, b in zip([0, *updates], updates))
    assert [line["epoch"] for line in lines] == sorted(line["epoch"] for line in lines)
    valid = read_metrics(tmp_path / "run", "valid")
    assert [(line["epoch"], line["update"]) for line in valid] == [(1, updates[-1] // 2), (2, updates[-1])]
    assert {"loss", "nll", "ppl", "lr", "grad_norm", "tokens", "tokens_per_second", "seconds"} <= lines[0].keys()


def test_logged_figures_are_means_over_the_window(train, tmp_path: Path, read_metrics) -> None:
    for name, every in (("one", 1), ("five", 5)):
        train(f"run={tmp_path / name}", "train.max_updates=5", f"train.log_every={every}")
    ones, [five] = read_metrics(tmp_path / "one"), read_metrics(tmp_path / "five")
    tokens = sum(line["tokens"] for line in ones)
    assert five["tokens"] == tokens
    assert five["nll"] == pytest.approx(sum(line["nll"] * line["tokens"] for line in ones) / tokens, rel=1e-6)
    assert five["ppl"] == pytest.approx(math.exp(five["nll"]))
    assert [line["lr"] for line in ones] == pytest.approx([2.5e-4, 5e-4, 7.5e-4, 1e-3, 1e-3 * math.sqrt(4 / 5)])


def test_validation_loss_is_that_of_the_whole_split(train, tmp_path: Path, digits: Path, read_metrics) -> None:
    trainer = train(f"run={tmp_path / 'run'}", "train.max_updates=2", "validate.max_tokens=40")
    split, total, count = Corpus.open(digits).split("valid"), 0.0, 0
    for i in range(len(split)):
        src, ids = torch.tensor([[*split.source_ids(i).tolist(), 2]]), split.target_ids(i).tolist()
        target = torch.tensor([*ids, 2])
        lprobs = full_log_probs(trainer.model.eval(), src, torch.tensor([[1, *ids]]))[0].detach()
        total -= float(lprobs.gather(1, target[:, None]).sum())
        count += target.numel()
    [line] = read_metrics(tmp_path / "run", "valid")
    assert line["nll"] == pytest.approx(total / count, rel=1e-5)
    assert line["ppl"] == pytest.approx(math.exp(total / count), rel=1e-5)


def test_best_is_the_best_and_last_the_last(train, tmp_path: Path, read_metrics) -> None:
    trainer = train(
        f"run={tmp_path / 'run'}", "train.max_updates=12", "optimizer.lr=0.3", "schedule.warmup_updates=1",
        "validate.every=2", "checkpoints.keep_best=2", "checkpoints.keep_last=2",
    )  # fmt: skip
    losses = {line["update"]: line["loss"] for line in read_metrics(tmp_path / "run", "valid")}
    assert list(losses) == [2, 4, 6, 8, 10, 12]
    best = sorted(losses, key=lambda update: losses[update])[:2]
    folder = tmp_path / "run" / "checkpoints"
    assert (folder / "best").resolve().name == f"update-{best[0]:08d}"
    assert (folder / "last").resolve().name == "update-00000012"
    kept = [int(p.name.removeprefix("update-")) for p in trainer.store.numbered()]
    assert kept == sorted({*best, 11, 12})  # update 11 ends the first epoch
    assert trainer.learner.progress.best == losses[best[0]]


def test_saved_weights_are_the_moving_average(train, tmp_path: Path) -> None:
    trainer = train(f"run={tmp_path / 'run'}", "train.max_updates=6", "train.ema=0.5")
    saved = load_model(tmp_path / "run").model
    for mine, average, raw in zip(saved.parameters(), trainer.learner.average.average, trainer.model.parameters()):
        assert_close(mine.data, average, rtol=0, atol=0)
        assert not torch.equal(mine, raw)


def test_moving_average_counts_its_updates_from_one(make_trainer, tmp_path: Path) -> None:
    """Decays 2/11, 3/12, 4/13 after updates 1, 2, 3."""
    trainer = make_trainer(f"run={tmp_path / 'run'}", "train.max_updates=3", "train.ema=0.9")
    weights = [[p.detach().clone() for p in trainer.model.parameters()]]
    update = trainer._update

    def recorded(group: Any) -> Any:
        result = update(group)
        weights.append([p.detach().clone() for p in trainer.model.parameters()])
        return result

    trainer._update = recorded
    trainer.fit()
    expected = weights[0]
    for n, raw in enumerate(weights[1:], start=1):
        decay = (1 + n) / (10 + n)
        expected = [decay * old + (1 - decay) * new for old, new in zip(expected, raw)]
    assert n == 3
    for mine, other in zip(trainer.learner.average.average, expected, strict=True):
        assert_close(mine, other)


def test_average_at_the_end_is_the_mean_of_the_newest(train, tmp_path: Path, read_metrics) -> None:
    folder = tmp_path / "run" / "checkpoints"
    train(f"run={tmp_path / 'run'}", "train.max_updates=9", "checkpoints.every=3", "checkpoints.average=2")
    a, b, got = (
        load_file(folder / name / "model.safetensors")
        for name in ("update-00000006", "update-00000009", "average-update-00000009")
    )
    for name, tensor in got.items():
        assert_close(tensor, (a[name] + b[name]) / 2)
    last, averaged = read_metrics(tmp_path / "run", "valid")[-2:]
    assert averaged["averaged"] == 2
    better = "average-update-00000009" if averaged["loss"] < last["loss"] else "update-00000009"
    assert (folder / "best").resolve().name == better
    assert (folder / "last").resolve().name == "update-00000009"


# --- stopping ---------------------------------------------------------------------------------------------------------


def test_without_an_end_patience_is_five(make_trainer, tmp_path: Path) -> None:
    trainer = make_trainer(f"run={tmp_path}/run", "validate.every=2")
    measured = iter([3.0, 2.0, *[2.0] * 5])
    trainer._measure = lambda: {"loss": next(measured), "nll": 1.0}
    trainer.fit()
    assert trainer.learner.progress.update == 14


def test_patience(make_trainer, tmp_path: Path) -> None:
    """The first validation is the best; the next two are no better, but the average at the end is."""

    def updates(patience: int, *losses: float) -> int:
        overrides = [f"run={tmp_path / 'run'}", "validate.every=2", "checkpoints.average=2"]
        trainer, measured = make_trainer(*overrides, f"train.patience={patience}"), iter(losses)
        trainer._measure = lambda: {"loss": next(measured), "nll": 1.0}
        trainer.fit()
        assert trainer.learner.progress.finished
        assert list(measured) == []
        return trainer.learner.progress.update

    assert updates(2, 1.0, 1.0, 1.5, 0.5) == 6
    assert updates(2) == 6  # it is finished
    assert updates(4, 1.0, 1.0, 1.0) == 10  # more patience: two more validations, and the average


@pytest.mark.parametrize(
    ("ends", "updates"),
    [
        (["train.max_updates=3"], 3),
        (["train.max_epochs=1"], 11),
        (["train.max_epochs=1", "train.max_updates=3"], 3),
        (["train.max_epochs=1", "train.accumulate=4"], 3),
    ],
)
def test_ends(ends: list[str], updates: int, train, tmp_path: Path) -> None:
    trainer = train(f"run={tmp_path / 'run'}", *ends)
    assert trainer.batches.num_batches(1) == 11, "the expectations stand on this"
    assert trainer.learner.progress.update == updates


def test_schedule_with_an_end_gets_there(train, tmp_path: Path, read_metrics) -> None:
    """Eleven batches in groups of four are three updates an epoch: six in all."""
    train(
        f"run={tmp_path / 'run'}", "train.max_epochs=2", "train.accumulate=4", "schedule=linear",
        "schedule.warmup_updates=2", "schedule.final_factor=0.2",
    )  # fmt: skip
    got = [line["lr"] for line in read_metrics(tmp_path / "run")]
    assert got == pytest.approx([5e-4, 1e-3, 8e-4, 6e-4, 4e-4, 2e-4])


def test_non_finite_loss_leaves_the_last_checkpoint_valid(make_trainer, tmp_path: Path) -> None:
    trainer = make_trainer(f"run={tmp_path / 'run'}", "train.max_updates=9", "checkpoints.every=2")
    plain: Callable[..., Any] = trainer.updater.forward

    def forward(*arguments: Any) -> Any:
        output = plain(*arguments)
        if trainer.learner.progress.update == 4:
            output.hidden = output.hidden * math.nan
        return output

    trainer.updater.forward = forward
    with pytest.raises(TrainingError, match=r"^a non-finite gradient at update 5 \(epoch 1\), .* sentences \d+, \d+"):
        trainer.fit()
    loaded = load_model(tmp_path / "run")
    assert loaded.path.resolve().name == "update-00000004"
    assert all(p.isfinite().all() for p in loaded.model.parameters())


def test_the_longest_pair_is_what_the_model_has_positions_for(make_trainer, tmp_path: Path) -> None:
    """Pairs of digits have 2 to 8 tokens; with 6 positions 5 and an end of sentence fit."""
    short = ["train.max_updates=1", "model.embedding.max_positions=6"]
    trainer = make_trainer(f"run={tmp_path / 'run'}", *short, "batch.max_length=null")
    assert (
        trainer.batches.num_pairs == make_trainer(f"run={tmp_path}/x", *short, "batch.max_length=5").batches.num_pairs
    )
    assert trainer.config.batch.max_length is None
    assert 0 < trainer.batches.num_left_out < 200
    trainer.batches.num_batches(1)


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["train.max_updates=1", "validate.metric=bleu"], "validate.metric=bleu needs validate.translate=true"),
        (
            ["train.max_updates=1", "batch.max_length=64"],
            "batch.max_length=64 tokens and an end of sentence do not fit",
        ),
        (["train.max_updates=1", "mix=[1e-9]"], "mix=[1e-09]: an epoch takes none of the 200 training pairs"),
        (["train.max_updates=1", "criterion=entropy"], "criterion.name='entropy' is not a registered criterion"),
        (["train.max_updates=1", "optimizer.momentum=1"], "unknown key optimizer.momentum; valid keys here: beta1,"),
        (["train.max_updates=1", "task.name=parsing"], "task.name='parsing' is not a registered task"),
        (["train.max_updates=1", "schedule=cosine", "schedule.final_factor=2"], "schedule.final_factor=2.0 is out of"),
        (["train.max_updates=1", "batch.max_tokens=2"], "no training pair is left"),
        (["train.max_updates=1", "corpus=/nowhere"], "/nowhere"),
        (
            ["train.max_updates=1", "train.parallel=shard", "train.precision=fp16"],
            "train.parallel=shard does not go with train.precision=fp16; valid option: train.parallel=replicate",
        ),
        (["train.max_updates=1", "train.parallel=shard", "compile=true"], "does not go with compile=true"),
    ],
)
def test_mistakes_leave_no_folder(overrides: list[str], message: str, make_trainer, tmp_path: Path) -> None:
    with pytest.raises(ConfigError) as caught:
        make_trainer(f"run={tmp_path / 'run'}", *overrides)
    assert message in str(caught.value)
    assert not (tmp_path / "run").exists()


# --- quality ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("metric", ["bleu", "chrf"])
def test_translation_quality_chooses_the_best(metric: str, make_trainer, tmp_path: Path, read_metrics) -> None:
    """Higher is better: of 10, 30 and 20 the second wins."""
    trainer = make_trainer(
        f"run={tmp_path / 'run'}", "train.max_updates=6", "validate.every=2", "validate.translate=true",
        f"validate.metric={metric}", "validate.max_sentences=3", "validate.beam=2",
    )  # fmt: skip
    measure, values = trainer._measure, iter([10.0, 30.0, 20.0])
    measured = []

    def report() -> dict[str, float]:
        measured.append(measure())
        return {**measured[-1], metric: next(values)}

    trainer._measure = report  # type: ignore[method-assign]
    trainer.fit()
    assert all(0 <= figures[name] <= 100 for figures in measured for name in ("bleu", "chrf"))
    assert (tmp_path / "run" / "checkpoints" / "best").resolve().name == "update-00000004"
    facts = json.loads((tmp_path / "run" / "checkpoints" / "last" / "training.json").read_text(encoding="utf-8"))
    assert facts["progress"]["ranking"] == [[30.0, "update-00000004"]]
    assert [line[metric] for line in read_metrics(tmp_path / "run", "valid")] == [10.0, 30.0, 20.0]


def test_several_corpora_by_weight(make_corpus, make_trainer, tmp_path: Path) -> None:
    first = make_corpus(60, seed=3)
    second = make_corpus(40, seed=4, vocabulary=str(first))
    corpora = f"corpus=[{first},{second}]"
    trainer = make_trainer(corpora, "mix=[1.0,0.5]", f"run={tmp_path / 'run'}", "train.max_epochs=1")
    seen = sum(len(batch) for batch in trainer.batches.epoch(1))
    assert seen == 60 + 20
    trainer.fit()
    [entry] = json.loads((tmp_path / "run" / "manifest.json").read_text(encoding="utf-8"))
    assert [corpus["path"] for corpus in entry["corpora"]] == [str(first), str(second)]
    with pytest.raises(ConfigError, match="have different vocabularies"):
        make_trainer(f"corpus=[{first},{make_corpus(60, seed=7)}]", f"run={tmp_path / 'b'}", "train.max_epochs=1")
    with pytest.raises(ConfigError, match=r"mix=\[1\.0\] has 1 weights for 2 corpora"):
        make_trainer(corpora, "mix=[1]", f"run={tmp_path / 'b'}", "train.max_epochs=1")


def test_an_average_needs_its_checkpoints(make_trainer, tmp_path: Path) -> None:
    with pytest.raises(ConfigError) as caught:
        make_trainer(
            f"run={tmp_path / 'run'}", "train.max_updates=1", "checkpoints.average=3", "checkpoints.keep_last=1"
        )
    assert str(caught.value) == (
        "checkpoints.average=3 needs as many checkpoints, but checkpoints.keep_last=1; raise checkpoints.keep_last, or "
        "lower checkpoints.average"
    )
    assert not (tmp_path / "run").exists()


def test_what_has_no_mean_costs_the_average_and_not_the_training(
    make_trainer, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """A part of a plug-in may keep whole numbers that differ from checkpoint to checkpoint."""
    overrides = ["train.max_updates=3", "checkpoints.every=1", "checkpoints.average=2"]
    trainer = make_trainer(f"run={tmp_path / 'run'}", *overrides)
    trainer.model.register_buffer("seen", torch.zeros(2, dtype=torch.int64))

    def count(model: torch.nn.Module, _: object) -> None:
        model.seen.add_(1)

    trainer.model.register_forward_pre_hook(count)
    with caplog.at_level("WARNING"):
        trainer.fit()
    [said] = caplog.messages
    assert said.startswith("checkpoints.average=2 is left out: ")
    assert "seen differs from" in said
    assert trainer.learner.progress.finished
