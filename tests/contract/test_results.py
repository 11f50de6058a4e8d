"""Every figure in results/ says where it comes from, and those with translations beside them can be computed again."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from nmt.benchmark.hypotheses import write_hypotheses
from nmt.benchmark.kept import text_digest
from nmt.metrics.scoring import bleu, chrf, compare, read_lines

ROOT = Path(__file__).parents[2]
FILES = sorted((ROOT / "results").rglob("*.json"))
SHARED = Path(os.environ.get("NMT_SHARED", ROOT.parent / "shared")) / "data"


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_results_say_where_they_come_from(path: Path) -> None:
    results = json.loads(path.read_text(encoding="utf-8"))
    facts = results.get("facts", results)
    assert facts["command"][0] in {"nmt-bench", "nmt-reproduce", "python"}
    assert {"time", "processor", "versions", "python", "platform"} <= facts.keys()
    trained = [run["git"] for run in results.get("runs", []) if run.get("git")]
    for revision in [facts["git"], *trained]:
        assert revision, f"{path}: of no revision"
        assert "-dirty" not in revision, f"{path}: made from a changed tree; commit, and make it again"


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_results_name_no_folder_of_their_machine(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    assert not [word for word in ("/home/", "/root/", "/tmp/", "/work/") if word in text]


def reference_digest(results: dict[str, Any]) -> str | None:
    """Of the text that scores were computed with."""
    digest: str | None = results.get("corpus", results).get("reference_digest")
    return digest


def differing(folder: Path, results: dict[str, Any], references: list[str]) -> Iterator[str]:
    """Figures that are not what the translations beside them give."""
    texts = {row["hypotheses"]: read_lines(str(folder / row["hypotheses"])) for row in results["rows"]}
    for row in results["rows"]:
        lines = texts[row["hypotheses"]]
        found = {"bleu": bleu(lines, references).score, "chrf": chrf(lines, references).score}
        yield from (f"{row['hypotheses']}: {name}" for name in found if abs(found[name] - row[name]) > 1e-6)
    for told in results.get("comparisons", []):
        where = {"beam": told["beam"], "batch": told["batch"]}
        ours, theirs = (
            [texts[row["hypotheses"]] for row in results["rows"] if row.items() >= {**where, "variant": name}.items()]
            for name in (told["variant"], told["against"])
        )
        found = compare(ours, theirs, references, samples=1000, paired=told["paired"])  # fewer: within bounds
        if abs(found.delta - told["difference"]) > 1e-6 or abs(found.p_value - told["p_value"]) > 0.1:
            yield f"{told['variant']} against {told['against']}"
        if max(abs(found.low - told["low"]), abs(found.high - told["high"])) > 0.25 * (told["high"] - told["low"]):
            yield f"interval of {told['variant']} against {told['against']}"


WITH_TEXT = [p for p in FILES if p.name == "results.json" and reference_digest(json.loads(p.read_text("utf-8")))]


@pytest.mark.parametrize("path", WITH_TEXT, ids=lambda path: str(path.relative_to(ROOT)))
def test_figures_can_be_computed_again(path: Path) -> None:
    results = json.loads(path.read_text(encoding="utf-8"))
    candidates = (read_lines(str(text)) for text in sorted(SHARED.glob("*/test*.xz")))
    references = next((lines for lines in candidates if text_digest(lines) == reference_digest(results)), None)
    if references is None:
        pytest.skip(f"the references are not below {SHARED} (set NMT_SHARED)")
    assert list(differing(path.parent, results, references)) == []


def test_a_wrong_figure_is_found(tmp_path: Path) -> None:
    references = [f"the cat number {i} sat on the old mat of house {i % 7}" for i in range(30)]
    systems = {
        ("two", 1): [line.replace("old", "new") if i % 3 else line for i, line in enumerate(references)],
        ("two", 2): [line.replace("old", "new") if i % 4 else line for i, line in enumerate(references)],
        ("two", 3): [line.replace("old", "new") if i % 5 else line for i, line in enumerate(references)],
        ("one", 1): [line.replace("sat on", "is under") for line in references],
        ("one", 2): [line.replace("sat on", "was under") for line in references],
        ("one", 3): [line.replace("sat", "was") for line in references],
    }
    rows: list[dict[str, Any]] = [
        {"variant": variant, "seed": seed, "beam": 5, "batch": 1}
        | {"bleu": bleu(lines, references).score, "chrf": chrf(lines, references).score}
        for (variant, seed), lines in systems.items()
    ]
    write_hypotheses(tmp_path, rows, list(systems.values()), lambda row: f"{row['variant']}-seed{row['seed']}")
    ours, theirs = ([systems[name, seed] for seed in (1, 2, 3)] for name in ("one", "two"))
    found = compare(ours, theirs, references)
    told = {"variant": "one", "against": "two", "beam": 5, "batch": 1, "difference": found.delta, "paired": False}
    told.update(low=found.low, high=found.high, p_value=found.p_value)
    results = {"rows": rows, "comparisons": [told]}
    assert list(differing(tmp_path, results, references)) == []
    rows[3]["bleu"] += 0.01
    told["low"] -= 20
    assert list(differing(tmp_path, results, references)) == [
        "hypotheses/one-seed1.hyp.xz: bleu",
        "interval of one against two",
    ]
    told.update(low=found.low, p_value=0.9)
    assert list(differing(tmp_path, results, references))[1:] == ["one against two"]
