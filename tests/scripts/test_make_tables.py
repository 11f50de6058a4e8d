"""What README and docs say of results/ is what lies there, and every kind of table can be made."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import bench_variants
import make_tables
import pytest
from make_tables import BLOCKS, ROOT

from nmt.config import presets

FACTS: dict[str, Any] = {
    "command": ["nmt-bench", "checkpoint=a"],
    "time": "2026-01-02T03:04:05+0000",
    "processor": "Z80",
    "threads": 1,
    "versions": {"ctranslate2": "4", "transformers": "5"},
    "git": "abc",
}


@pytest.mark.parametrize(
    "path", [*make_tables.documents(), *make_tables.reports()], ids=lambda p: str(p.relative_to(ROOT))
)
def test_documents_and_reports_are_what_the_results_say(path: Path) -> None:
    """Where this fails: ``python scripts/make_tables.py`` writes them anew."""
    made = {**make_tables.reports(), **make_tables.documents()}[path]
    assert path.read_text(encoding="utf-8") == made


def test_every_block_and_every_file_of_results_is_used() -> None:
    text = "".join(path.read_text(encoding="utf-8") for path in make_tables.documents())
    assert set(re.findall(r"<!-- results: (\w+) -->", text)) == {*BLOCKS, "methods"}
    assert text.count("<!-- results: ") == text.count("<!-- end of results -->")
    files = {str(p.relative_to(ROOT / "results")) for p in (ROOT / "results").rglob("*.json")}
    assert files <= {block.data for block in BLOCKS.values()}


@pytest.mark.parametrize("name", presets("recipe"))
def test_every_recipe_has_a_page(name: str) -> None:
    page = (ROOT / f"docs/methods/{name}.md").read_text(encoding="utf-8")
    assert f"<!-- results: {name} -->" in page


MEASURED = re.compile(r"\d ?(ms|µs|BLEU|MiB)\b|tokens?(/s| a second)|\d(\.\d+)? ?×|\d times as (fast|many|slow)")
PAGES = ["README.md", "docs/performance.md", "docs/benchmark.md", "docs/methods/README.md"]


@pytest.mark.parametrize("page", PAGES)
def test_no_measured_figure_stands_outside_of_a_block(page: str) -> None:
    """Memory of the weights and targets are no measurements; papers' figures have sections of their own."""
    text = (ROOT / page).read_text(encoding="utf-8")
    text = make_tables.BLOCK.sub("", re.sub(r"^```.*?^```", "", text, flags=re.DOTALL | re.MULTILINE))
    allowed = ("2,900 target tokens a second", "`sentences_per_second`", "2 × source", "2 × beam", "tokens/s` ")
    found = [line for line in text.splitlines() if MEASURED.search(line) and not any(a in line for a in allowed)]
    assert found == []


def test_a_block_that_is_not_measured_says_how_it_would_be() -> None:
    lines = make_tables.block("decoding_variants", ROOT / "README.md")
    assert lines[0] == "To be measured:" or "revision" in lines[-1]
    assert make_tables.fill("a\n<!-- results: methods -->\nold\n<!-- end of results -->\nb\n", ROOT / "x.md").endswith(
        "<!-- end of results -->\nb\n"
    )


def row(**changes: Any) -> dict[str, Any]:
    one = {"system": "nmt", "checkpoint": "runs/a", "precision": "fp32", "beam": 4, "batch": 1, "bleu": 30.0}
    one |= {"bleu_ci": 1.25, "chrf": 50.0, "chrf_ci": 1.0, "sentences_per_second": 4.0, "speedup": 1.0}
    one |= {"latency_p50_ms": 250.4, "first_translation_seconds": 1.96, "peak_mib": 1300.2, "parameters": 7_578_624}
    return {**one, **changes}


def grid() -> list[dict[str, Any]]:
    """Ours in two formats and two other toolkits, alone and in batches, greedy and with a beam."""
    systems = [("nmt", "fp32", 1.3), ("nmt", "bf16", 1.9), ("ctranslate2", "fp32", 1.0), ("hf", "fp32", 0.5)]
    return [
        row(system=system, precision=precision, beam=beam, batch=batch, sentences_per_second=rate * batch)
        for beam in (1, 4)
        for batch in (1, 32)
        for system, precision, rate in systems
    ]


def test_systems_and_targets_by_hand() -> None:
    results = {"rows": grid(), **FACTS}
    lines = make_tables.systems_table(results)
    assert lines[2] == "| nmt, fp32 | 769 ms | 24 ms | 1,300 / 1,300 MiB |"
    assert lines[4] == "| CTranslate2 4, fp32 | 1,000 ms | 31 ms | 1,300 / 1,300 MiB |"
    lines = make_tables.targets(results)
    assert "| fp32, batch 1, against CTranslate2 fp32 | 1.3× | 1.30× | 769 ms / 1,000 ms |  |" in lines
    assert "| bf16, batch 32, against CTranslate2 fp32 | 2× | 1.90× | 16 ms / 31 ms | missed |" in lines
    assert "| fp32, batch 1, against transformers fp32 |  | 2.60× | 769 ms / 2,000 ms |  |" in lines


def test_variants_by_hand() -> None:
    rows = [
        row(checkpoint=str(bench_variants.FOLDER / name), batch=batch, speedup=number + batch / 100)
        for batch in (1, 32)
        for number, name in enumerate(bench_variants.VARIANTS, start=1)
    ]
    lines = make_tables.variants({"rows": rows, **FACTS})
    assert lines[2] == "| 6-6 (`base`) | 250 ms | 1.01 | 1.32 | 7.6 |"
    assert len(lines) == 2 + len(bench_variants.VARIANTS)


def test_quality_by_hand() -> None:
    rows = [row(beam=1, bleu=20.0), row(), row(system="hf")]
    trained = {"runs/a": {"digest": "x", "command": ["nmt-train", "model=small"]}}
    assert make_tables.quality({"rows": rows, "checkpoints": trained, **FACTS}) == [
        "`nmt-train model=small`: 30.00 ± 1.25 BLEU, 50.0 chrF2, beam 4, 7.6 M parameters."
    ]


def test_training_by_hand() -> None:
    """The ratio is the median of those repeat by repeat, not that of the medians."""
    base = {"variant": "fp32", "tokens_per_second": 20.0, "all": [10.0, 20.0, 40.0]}
    fast = {"variant": "bf16+a.b=c", "tokens_per_second": 30.0, "all": [30.0, 40.0, 20.0]}
    lines = make_tables.training({"rows": [base, fast], "padding_share": 0.0123, **FACTS})
    assert lines[2:4] == ["| fp32 | 20 | 1.00 |", "| bf16, `a.b=c` | 30 | 2.00 |"]
    assert lines[-1] == "Of a batch 1.2 % is padding."


def test_profile_by_hand() -> None:
    parts = [{"name": "search", "milliseconds": 1.0}, {"name": "feed_forward", "milliseconds": 3.0}]
    one = {"precision": "fp32", "beam": 4, "batch": 1, "parts": parts, "plain_milliseconds": 20.0, "num_steps": 10}
    lines = make_tables.profile({"profiles": [one], **FACTS})
    assert lines[2:] == ["| ms a step | 2.0 |", "| feed_forward | 75% |", "| search | 25% |"]


def test_modules_by_hand() -> None:
    names = [("self_attention", "ssru"), ("layer", "transformer"), ("self_attention", "average")]
    rows = [
        {"slot": slot, "component": name, "batch": 1, "prefix": prefix, "step_microseconds": 1000.4 * prefix}
        for slot, name in names
        for prefix in (16, 1024)
    ]
    lines = make_tables.modules({"rows": rows, **FACTS})
    assert lines[0] == "| µs, batch 1 | 16 | 1,024 |"
    assert [line.split(" | ")[0] for line in lines[2:]] == [
        "| self_attention average",
        "| self_attention ssru",
        "| layer transformer",
    ]


def test_reproduction_by_hand(monkeypatch: pytest.MonkeyPatch) -> None:
    variant: dict[str, Any] = {"what": "as it is", "paper": {}}
    results: dict[str, Any] = {
        "recipe": {
            "name": "depth",
            "metric": "bleu",
            "baseline": "two",
            "variants": {"two": variant, "one": {"what": "shallow", "paper": {"bleu": 26.5}}},
        },
        "scale": "tiny",
        "seeds": [1, 2],
        "corpus": {"folder": "data/x"},
        "baseline": {"enough": True},
        "verdicts": [
            {
                **{"metric": "bleu", "variant": "one", "against": "two", "beam": 5, "batch": 1, "at_least": -1.0},
                **{"at_most": None, "value": -0.5, "low": -0.9, "high": -0.1, "verdict": "holds"},
            }
        ],
        "comparisons": [
            {"variant": "one", "difference": -0.5, "low": -0.9, "high": -0.1, "p_value": 0.012, "p_holm": 0.012}
            | {"samples": 10000}
        ],
        "variants": [
            {"variant": name, "bleu": bleu, "chrf": [50.0, 51.0], "update_seconds": None, "parameters": 2e6}
            | {"speed": [{"beam": 5, "batch": 1, "value": speed, "low": speed, "high": speed}]}
            for name, bleu, speed in (("two", [30.0, 31.0], 1.0), ("one", [29.0, 31.0], 1.5))
        ],
        "facts": FACTS,
    }
    lines = make_tables.reproduction(results)
    assert lines[0] == "Scale `tiny`, seeds 1, 2, corpus `data/x`:"
    assert lines[2].startswith(
        "- **holds**: bleu (beam 5, batch 1) of one against two, difference at least -1; measured"
    )
    assert (
        "| one | shallow | bleu 26.5 | 30.00 [29.00, 31.00] | -0.50 [-0.90, -0.10] | 0.012 | 0.012 "
        "| 50.50 [50.00, 51.00] | 1.50 [1.50, 1.50] | 2.00 |"
    ) in lines
    assert "of tokenised text" in lines[-1]
    monkeypatch.setattr(make_tables, "load", lambda name: results if name.startswith("ssru/") else None)
    lines = make_tables.methods()
    assert lines[3] == (
        "| [depth](depth.md), tiny, 2 seeds | one: shallow | 30.00 | -0.50 [-0.90, -0.10] | 0.012 | 1.50 | 2.00 |"
    )
    assert "`layer_drop`" in lines[-2]
    assert "`ssru`" not in lines[-2]
