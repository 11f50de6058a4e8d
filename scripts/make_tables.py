"""Writes what the documents say of ``results/``: a test holds every such block equal to its data.

    python scripts/make_tables.py

A block stands between ``<!-- results: NAME -->`` and ``<!-- end of results -->`` in README.md or docs/; ``BLOCKS`` says
which file it comes from and by which commands that is made. Where the file is missing the block says so. The report.md
of each folder in results/ is written anew from its results.json, too.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import mean, median
from typing import Any

import bench_modules
import bench_variants

from nmt.benchmark.report import markdown as bench_report
from nmt.config import presets
from nmt.metrics.scoring import p_text
from nmt.reproduction.report import legend, variants_table, verdict_lines
from nmt.reproduction.report import markdown as reproduction_report

ROOT = Path(__file__).parents[1]
BLOCK = re.compile(r"(<!-- results: (\w+) -->\n).*?(<!-- end of results -->)", flags=re.DOTALL)

Results = Mapping[str, Any]


@dataclass(frozen=True)
class Block:
    """A generated part of a document.

    Attributes:
        data: the file that it is made from, below ``results/``.
        commands: what makes that file.
        lines: of the block.
    """

    data: str
    commands: Sequence[str]
    lines: Callable[[Results], Iterable[str]]


def table(heads: Sequence[str], rows: Iterable[Sequence[str]], numbers_from: int = 1) -> list[str]:
    """A Markdown table, its columns right-aligned from the one of that index on."""
    rule = "|".join("---" if i < numbers_from else "---:" for i in range(len(heads)))
    first, *others = [f"| {' | '.join(line)} |" for line in (heads, *rows)]
    return [first, f"|{rule}|", *others]


def at(results: Results, **wanted: Any) -> dict[str, Any]:
    """The one row with these values."""
    (found,) = [row for row in results["rows"] if all(row[key] == value for key, value in wanted.items())]
    return dict(found)


# --- reproductions ----------------------------------------------------------------------------------------------------


def reproduce_command(recipe: str) -> str:
    """How the results of a recipe are made."""
    # Times of trainings compare only where nothing runs beside them.
    how = "corpus=data/lm threads=2" if recipe == "adaptive_softmax" else "corpus=data/multi30k jobs=2 threads=1"
    return f"nmt-reproduce recipe={recipe} {how} scale=tiny out=results/{recipe}"


def reproduction(results: Results) -> list[str]:
    """A recipe's verdicts and variants."""
    scale, seeds = results["scale"], ", ".join(map(str, results["seeds"]))
    told = f"Scale `{scale}`, seeds {seeds}, corpus `{results['corpus']['folder']}`:"
    return [told, "", *verdict_lines(results), "", *variants_table(results), "", *legend(results)]


def methods() -> list[str]:
    """Every variant of every recipe that was reproduced, and the recipes that were not."""
    rows, missing = [], []
    for recipe in presets("recipe"):
        results = load(f"{recipe}/results.json")
        if results is None:
            missing.append(recipe)
        elif results["recipe"]["metric"] == "bleu":
            rows += [_method_row(results, figures) for figures in results["variants"]]
    lines = []
    if rows:
        heads = ["recipe, scale", "variant", "BLEU", "difference to the baseline", "p (Holm)", "speed, × baseline", "M"]
        lines += [*table([*heads[:-1], "M parameters"], rows, numbers_from=2), ""]
    if missing:
        lines += [f"To be measured: {', '.join(f'`{name}`' for name in missing)}.", ""]
    return lines


def _method_row(results: Results, figures: Results) -> list[str]:
    recipe, name = results["recipe"], figures["variant"]
    told = next((c for c in results["comparisons"] if c["variant"] == name), None)
    speed = figures["speed"][0]
    return [
        f"[{recipe['name']}]({recipe['name']}.md), {results['scale']}, {len(results['seeds'])} seeds",
        f"{name}: {recipe['variants'][name]['what']}",
        f"{mean(figures['bleu']):.2f}",
        f"{told['difference']:+.2f} [{told['low']:+.2f}, {told['high']:+.2f}]" if told else "",
        p_text(told["p_holm"]) if told else "",
        f"{speed['value']:.2f}",
        f"{figures['parameters'] / 1e6:.2f}",
    ]


def quality(results: Results) -> list[str]:
    """Scores of a benchmark's models, with how they were trained."""
    lines = []
    for checkpoint, origin in results["checkpoints"].items():
        rows = [r for r in results["rows"] if r["checkpoint"] == checkpoint and r["system"] == "nmt"]
        best = max(rows, key=lambda r: (r["precision"] == "fp32", r["beam"]))
        trained = " ".join(map(str, origin.get("command") or [checkpoint]))
        lines += [
            f"`{trained}`: {best['bleu']:.2f} ± {best['bleu_ci']:.2f} BLEU, {best['chrf']:.1f} chrF2, "
            f"beam {best['beam']}, {best['parameters'] / 1e6:.1f} M parameters."
        ]
    return lines


# --- speed ------------------------------------------------------------------------------------------------------------

SYSTEMS = {"nmt": "nmt", "ctranslate2": "CTranslate2", "hf": "transformers"}


def system_name(results: Results, row: Results) -> str:
    """With the version of another toolkit."""
    package = {"ctranslate2": "ctranslate2", "hf": "transformers"}.get(row["system"])
    version = f" {results['versions'][package]}" if package else ""
    return f"{SYSTEMS[row['system']]}{version}, {row['precision']}"


def ms(row: Results) -> str:
    """Milliseconds a sentence."""
    return f"{1000 / row['sentences_per_second']:,.0f} ms"


def systems_table(results: Results) -> list[str]:
    """Every system at the widest beam: time and memory, alone and in batches."""
    beam = max(row["beam"] for row in results["rows"])
    rows = []
    for one in (r for r in results["rows"] if r["beam"] == beam and r["batch"] == 1):
        many = at(results, beam=beam, batch=32, **{key: one[key] for key in ("system", "checkpoint", "precision")})
        memory = f"{one['peak_mib']:,.0f} / {many['peak_mib']:,.0f} MiB"
        rows.append([system_name(results, one), ms(one), ms(many), memory])
    heads = [f"beam {beam}, a sentence in", "batch 1", "batch 32", "most memory, batch 1 / 32"]
    return table(heads, rows)


TARGETS = [  # what, beam, batch, our precision, other system, times as fast
    ("fp32, batch 1", 4, 1, "fp32", "ctranslate2", 1.3),
    ("fp32, batch 32", 4, 32, "fp32", "ctranslate2", 1.3),
    ("bf16, batch 1", 4, 1, "bf16", "ctranslate2", 2.0),
    ("bf16, batch 32", 4, 32, "bf16", "ctranslate2", 2.0),
    ("fp32, batch 1, greedy", 1, 1, "fp32", "ctranslate2", None),
    ("fp32, batch 32, greedy", 1, 32, "fp32", "ctranslate2", None),
    ("bf16, batch 1, greedy", 1, 1, "bf16", "ctranslate2", None),
    ("bf16, batch 32, greedy", 1, 32, "bf16", "ctranslate2", None),
    ("fp32, batch 1", 4, 1, "fp32", "hf", None),
    ("fp32, batch 32", 4, 32, "fp32", "hf", None),
]


def targets(results: Results) -> list[str]:
    """How many times as fast as other toolkits in fp32, beside what was aimed at."""
    rows = []
    for what, beam, batch, precision, peer, target in TARGETS:
        ours = at(results, system="nmt", beam=beam, batch=batch, precision=precision)
        theirs = at(results, system=peer, beam=beam, batch=batch, precision="fp32")
        ratio = ours["sentences_per_second"] / theirs["sentences_per_second"]
        missed = "missed" if target and ratio < target else ""
        goal = f"{target:g}×" if target else ""
        rows.append(
            [f"{what}, against {SYSTEMS[peer]} fp32", goal, f"{ratio:.2f}×", f"{ms(ours)} / {ms(theirs)}", missed]
        )
    heads = ["what", "target", "reached", "ours / theirs", ""]
    starts = [at(results, beam=4, batch=1, precision="fp32", system=name) for name in SYSTEMS]
    told = ", ".join(f"{system_name(results, r)} {r['first_translation_seconds']:.1f} s" for r in starts)
    return [*table(heads, rows), "", f"From start to the first translation: {told} (target: 3 s)."]


def variants(results: Results) -> list[str]:
    """Decoding speed by architecture."""
    rows = []
    for name, (what, _) in bench_variants.VARIANTS.items():
        one, many = (at(results, checkpoint=str(bench_variants.FOLDER / name), batch=batch) for batch in (1, 32))
        latency, size = f"{one['latency_p50_ms']:.0f} ms", f"{one['parameters'] / 1e6:.1f}"
        rows.append([what, latency, f"{one['speedup']:.2f}", f"{many['speedup']:.2f}", size])
    heads = ["encoder-decoder layers", "latency, batch 1", "speed, × 6-6, batch 1", "speed, × 6-6, batch 32"]
    return table([*heads, "M parameters"], rows)


def modules(results: Results) -> list[str]:
    """Time of a step of each component after prefixes of some lengths."""
    prefixes, lines = sorted({row["prefix"] for row in results["rows"]}), []
    found = sorted({(row["slot"], row["component"]) for row in results["rows"]}, key=lambda pair: pair[1])
    found.sort(key=lambda pair: bench_modules.SLOTS.index(pair[0]))
    for batch in sorted({row["batch"] for row in results["rows"]}):
        rows = []
        for slot, name in found:
            cells = [at(results, slot=slot, component=name, batch=batch, prefix=prefix) for prefix in prefixes]
            rows.append([f"{slot} {name}", *(f"{cell['step_microseconds']:,.0f}" for cell in cells)])
        lines += [*table([f"µs, batch {batch}", *(f"{prefix:,}" for prefix in prefixes)], rows), ""]
    return lines[:-1]


def training(results: Results) -> list[str]:
    """Target tokens a second of the variants of a training."""
    base = results["rows"][0]
    rows = []
    for row in results["rows"]:
        ratio = median(a / b for a, b in zip(row["all"], base["all"], strict=True))
        precision, *keys = row["variant"].split("+")
        name = ", ".join([precision, *(f"`{key}`" for key in keys)])
        rows.append([name, f"{row['tokens_per_second']:,.0f}", f"{ratio:.2f}"])
    heads = ["precision and keys", "target tokens a second", f"speed, × {base['variant']}"]
    return [*table(heads, rows), "", f"Of a batch {100 * results['padding_share']:.1f} % is padding."]


def threads(results: Results) -> list[str]:
    """Speed under each setting of waiting threads, on a free and on a busy machine."""
    settings = list(dict.fromkeys(row["setting"] for row in results["rows"]))
    rows = []
    for work, load in dict.fromkeys((row["work"], row["load"]) for row in results["rows"]):
        rates = [at(results, work=work, load=load, setting=setting)["rate"] for setting in settings]
        rows.append([WORK[work], LOADS[load], *(f"{rate:,.0f}" if rate >= 100 else f"{rate:.1f}" for rate in rates)])
    return table(["", "two threads", *(f"`{s}`" if "=" in s else s for s in settings)], rows, numbers_from=2)


WORK = {
    "train": "training, target tokens/s",
    "decode1": "decoding, batch 1, sentences/s",
    "decode32": "decoding, batch 32, sentences/s",
}
LOADS = {"alone": "alone", "busy": "beside a process that keeps a core busy", "two": "each of two processes"}


def profile(results: Results) -> list[str]:
    """Share of each part in the time of a decoding step."""
    shares = []
    for found in results["profiles"]:
        whole = sum(part["milliseconds"] for part in found["parts"])
        shares.append({part["name"]: part["milliseconds"] / whole for part in found["parts"]})
    heads = [f"{p['precision']}, beam {p['beam']}, batch {p['batch']}" for p in results["profiles"]]
    steps = [f"{p['plain_milliseconds'] / max(1, p['num_steps']):.1f}" for p in results["profiles"]]
    names = sorted({name for share in shares for name in share}, key=lambda n: -shares[0].get(n, 0.0))
    rows = [["ms a step", *steps], *([name, *(f"{share.get(name, 0):.0%}" for share in shares)] for name in names)]
    return table(["share of", *heads], rows)


def origin(results: Results) -> str:
    """On what and when."""
    facts = results.get("facts", results)
    threads = facts.get("threads")
    said = [facts["processor"], *([f"{threads} thread{'s' * (threads > 1)}"] if threads else []), facts["time"][:10]]
    return f"{', '.join(said)}, revision {facts['git']}"


# --- blocks -----------------------------------------------------------------------------------------------------------

RANDOM = "python scripts/make_random_checkpoint.py model=base out=runs/base-random"
BASE = "nmt-bench checkpoint=runs/base-random input=runs/base-random/input.txt forced_length=25"
PEERS = "precision=[fp32,bf16] peers=[ctranslate2,hf]"
SMALL = "nmt-train corpus=data/multi30k model=small run=runs/small train.precision=bf16 train.max_epochs=15"
TRAINING = "python scripts/bench_training.py corpus=data/multi30k model=small"
BENCH_BASE = [RANDOM, f"{BASE} search.beam=[1,4] batch=[1,32] {PEERS} lines=32 out=results/bench-base"]
BENCH_SMALL = [
    SMALL,
    "nmt-bench checkpoint=runs/small input=raw/test_2016_flickr.en reference=raw/test_2016_flickr.de search.beam=[1,4] "
    f"{PEERS} lines=100 out=results/bench-small",
]
PROFILE = [
    RANDOM,
    f"{BASE} search.beam=[4] batch=[1,32] precision=[fp32,bf16] lines=32 profile=true out=results/profile-base",
]
MOE = "model.encoder.feed_forward.name=moe+model.decoder.feed_forward.name=moe"
ALL = "model.encoder.feed_forward.layers=all+model.decoder.feed_forward.layers=all"
MOE_VARIANTS = ",".join(f"{p},{p}+{MOE},{p}+{MOE}+{ALL}" for p in ("fp32", "bf16"))
ADAPTIVE = "corpus=data/lm task.name=language_modeling model=tiny batch.max_tokens=2048 updates=6 repeats=3"

BLOCKS = {
    "systems_base": Block("bench-base/results.json", BENCH_BASE, systems_table),
    "targets": Block("bench-base/results.json", BENCH_BASE, targets),
    "systems_small": Block("bench-small/results.json", BENCH_SMALL, systems_table),
    "quality_small": Block("bench-small/results.json", BENCH_SMALL, quality),
    "profile_base": Block("profile-base/results.json", PROFILE, profile),
    "decoding_variants": Block(
        "decoding_variants/results.json", ["python scripts/bench_variants.py out=results/decoding_variants"], variants
    ),
    "modules": Block(
        "modules/results.json", ["python scripts/bench_modules.py out=results/modules model=base threads=1"], modules
    ),
    "threads": Block(
        "threads.json",
        ["python scripts/bench_threads.py corpus=data/multi30k out=results/threads.json"],
        threads,
    ),
    "training_small": Block(
        "training_small.json",
        [f"{TRAINING} variants=fp32,bf16 updates=40 repeats=3 out=results/training_small.json"],
        training,
    ),
    "training_small_4096": Block(
        "training_small_4096.json",
        [
            f"{TRAINING} variants=fp32,bf16 batch.max_tokens=4096 updates=10 repeats=3 "
            "out=results/training_small_4096.json"
        ],
        training,
    ),
    "training_moe": Block(
        "training_moe.json",
        [f"{TRAINING} updates=15 repeats=5 variants={MOE_VARIANTS} out=results/training_moe.json"],
        training,
    ),
    "training_adaptive": Block(
        "training_adaptive.json",
        [
            f"python scripts/bench_training.py {ADAPTIVE} variants=bf16,bf16+model.output.name=adaptive "
            "out=results/training_adaptive.json"
        ],
        training,
    ),
    **{
        recipe: Block(f"{recipe}/results.json", [reproduce_command(recipe)], reproduction)
        for recipe in presets("recipe")
    },
}


def load(name: str) -> dict[str, Any] | None:
    """A file below ``results/``; None where it is not there."""
    path = ROOT / "results" / name
    if not path.is_file():
        return None
    results: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return results


def block(name: str, document: Path) -> list[str]:
    """The lines of a block.

    Raises:
        KeyError: there is no such block.
    """
    if name == "methods":
        return methods()
    made = BLOCKS[name]
    results = load(made.data)
    if results is None:
        return ["To be measured:", "", "```text", *made.commands, "```"]
    path = ROOT / "results" / made.data
    report = path.with_name("report.md") if path.with_name("report.md").is_file() else path
    link = os.path.relpath(report, document.parent)
    source = f"{origin(results)}; command and all figures: [{report.relative_to(ROOT)}]({link})."
    return [*made.lines(results), "", source]


def fill(text: str, document: Path) -> str:
    """A document with its blocks made anew."""

    def filled(match: re.Match[str]) -> str:
        return f"{match[1]}{chr(10).join(block(match[2], document))}\n{match[3]}"

    return BLOCK.sub(filled, text)


def reports() -> dict[Path, str]:
    """The report of each folder in ``results/``, from its results.json."""
    found = {}
    for path in sorted((ROOT / "results").glob("*/results.json")):
        results = json.loads(path.read_text(encoding="utf-8"))
        if "recipe" in results:
            text = reproduction_report(results)
        elif "prefixes" in results:
            text = bench_modules.report(results["rows"], results)
        else:
            plotted = any(row["bleu"] is not None for row in results["rows"])
            text = bench_report(results["rows"], results, plotted)
        found[path.with_name("report.md")] = text
    return found


def documents() -> dict[Path, str]:
    """Every document, its blocks made anew."""
    paths = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
    return {path: fill(path.read_text(encoding="utf-8"), path) for path in paths}


def main() -> None:
    for path, text in {**reports(), **documents()}.items():
        if path.read_text(encoding="utf-8") != text:
            path.write_text(text, encoding="utf-8")
            print(path.relative_to(ROOT))


if __name__ == "__main__":
    main()
