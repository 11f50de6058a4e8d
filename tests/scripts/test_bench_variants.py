"""Every variant whose speed is measured is a model that can be built; what is wrong with the keys shows first."""

from __future__ import annotations

import bench_variants
import pytest
import torch

from nmt.config import ConfigError, compose, parse_options
from nmt.models.encoder_decoder import build_model
from nmt.registry import discover
from nmt.training.options import TrainOptions


@pytest.mark.parametrize("name", bench_variants.VARIANTS)
def test_variant_builds(name: str) -> None:
    discover()
    _, keys = bench_variants.VARIANTS[name]
    options = parse_options(TrainOptions, compose("train", ["corpus=none", "run=none", *keys]))
    with torch.device("meta"):
        build_model(options.model, source_size=8000, target_size=8000, joint=True)


def test_mistakes_show_before_any_work(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bench_variants.make_random_checkpoint, "main", lambda arguments: pytest.fail("too early"))
    with pytest.raises(SystemExit, match="out=FOLDER is required"):
        bench_variants.main(["lines=3"])
    with pytest.raises(ConfigError, match="unknown key line;"):
        bench_variants.main(["out=x", "line=3"])
