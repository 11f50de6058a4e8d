"""What must not change unnoticed: per-update losses of a training, and a checkpoint with its translations.

``scripts/make_golden.py`` writes these files; a change of them needs a line in CHANGELOG.md. Sums are ordered
differently on other processors, so numbers are compared to a tolerance; words are not.
"""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path
from typing import Any

import pytest

import nmt

GOLDEN = Path(__file__).parent
SCRIPT = GOLDEN.parents[1] / "scripts" / "make_golden.py"


@pytest.fixture(scope="module")
def expected() -> Any:
    return json.loads((GOLDEN / "expected.json").read_text(encoding="utf-8"))


def test_checkpoint_translates_and_scores_as_before(expected: Any) -> None:
    sources = (GOLDEN / "valid.en").read_text(encoding="utf-8").splitlines()
    translator = nmt.load(GOLDEN / "checkpoint")
    assert translator.translate(sources, beam=4) == expected["translations"]
    assert translator.score(sources, expected["translations"]) == pytest.approx(expected["scores"], abs=1e-4)


def test_training_gives_the_same_losses(expected: Any, tmp_path: Path) -> None:
    spec = importlib.util.spec_from_file_location("make_golden", SCRIPT)
    assert spec is not None
    assert spec.loader is not None
    script = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(script)
    losses = script.losses(script.train(GOLDEN, tmp_path))
    assert len(losses) == len(expected["losses"]) == 300
    assert losses[:20] == pytest.approx(expected["losses"][:20], rel=1e-4)
    assert losses == pytest.approx(expected["losses"], rel=0.02)  # differences in rounding grow with every update
    assert losses[-1] < 0.5 * losses[0]
