"""The golden checkpoint as a system."""

from __future__ import annotations

from pathlib import Path

import pytest

from nmt.benchmark.options import SystemSpec
from nmt.benchmark.worker import Settings
from nmt.device import Device

GOLDEN = Path(__file__).parents[2] / "golden"


@pytest.fixture
def lines() -> list[str]:
    """Sources, one of them empty."""
    text = (GOLDEN / "valid.en").read_text(encoding="utf-8").splitlines()
    return [*text[:6], "", *text[6:8]]


@pytest.fixture
def settings() -> Settings:
    return Settings(Device.cpu, 1, ())


@pytest.fixture
def spec() -> SystemSpec:
    checkpoint = str(GOLDEN / "checkpoint")
    return SystemSpec("nmt", checkpoint, "fp32", checkpoint)
