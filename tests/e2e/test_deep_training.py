"""Stacks as deep as the presets' train from their initial values without divergence, pre- and post-norm."""

from __future__ import annotations

from pathlib import Path

import pytest


@pytest.mark.slow
@pytest.mark.parametrize(
    ("depth", "norm_position"),
    [((6, 6), "post"), ((6, 6), "pre"), ((12, 1), "pre")],
    ids=["post", "pre", "deep-shallow"],
)
def test_deep_stacks_train(
    depth: tuple[int, int], norm_position: str, make_corpus, train, read_metrics, tmp_path: Path
) -> None:
    run = tmp_path / "run"
    sides = tuple(zip(("encoder", "decoder"), depth))
    train(
        f"run={run}",
        f"corpus={make_corpus(2000, length=(3, 10))}",
        *(f"model.{side}.{key}" for side, _ in sides for key in ("embed_dim=64", "ffn_dim=256", "num_heads=4")),
        *(f"model.{side}.layers={layers}" for side, layers in sides),
        *(f"model.{side}.layer.norm_position={norm_position}" for side, _ in sides),
        "model.dropout=0.1",
        "optimizer.lr=1e-3",
        "schedule.warmup_updates=100",
        "batch.max_tokens=512",
        "train.max_updates=500",
        "train.log_every=10",
        "train.ema=0",
    )
    losses = [line["nll"] for line in read_metrics(run)]
    assert max(losses[5:]) < losses[0]  # never worse than at the start
    assert read_metrics(run, "valid")[-1]["ppl"] < 2  # 10 digits: a model that ignores the source has about 9
