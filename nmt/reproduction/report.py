"""The report of a reproduction, from ``results.json``: the paper's claim beside what was measured, as text and plot."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import mean
from typing import Any

from nmt.benchmark.hypotheses import HYPOTHESES_FOLDER, write_hypotheses
from nmt.benchmark.report import COLUMNS, table
from nmt.config import ConfigError
from nmt.files import write_files
from nmt.leftovers import is_leftover
from nmt.metrics.scoring import p_text

RESULTS_FILE, REPORT_FILE, PLOT_FILE, RUNS_FOLDER = "results.json", "report.md", "plot.png", "runs"

NOT_SHOWN = ("system", "model", "format", "speed, × first row")
"""Columns of a benchmark that say nothing here."""


def check_folder(out: Path) -> None:
    """Refuse to mix results with something else.

    Raises:
        ConfigError: the folder holds what this command does not write, or it is a file.
    """
    if out.exists() and not out.is_dir():
        raise ConfigError(f"out={out} is not a folder; choose another one")
    own = {RESULTS_FILE, REPORT_FILE, PLOT_FILE, RUNS_FOLDER, HYPOTHESES_FOLDER}
    foreign = sorted(p.name for p in out.iterdir() if p.name not in own and not is_leftover(p)) if out.is_dir() else []
    if foreign:
        raise ConfigError(f"out={out} holds {foreign[0]}, which nmt-reproduce does not write; choose another folder")


def write_results(out: Path, results: Mapping[str, Any], texts: Sequence[list[str] | None]) -> str:
    """Write ``results.json``, ``report.md``, ``plot.png`` and the translations.

    Args:
        out: the folder.
        results: all that was found; its rows are told where their translations lie.
        texts: translations of each row.

    Returns:
        The text of the report.

    Raises:
        ConfigError: they cannot be written.
    """
    files: dict[str, Callable[[Path], Any]] = {
        RESULTS_FILE: lambda path: path.write_text(json.dumps(results, indent=1, ensure_ascii=False) + "\n", "utf-8"),
        REPORT_FILE: lambda path: path.write_text(markdown(results), "utf-8"),
        PLOT_FILE: lambda path: plot(results, path),
    }
    try:
        out.mkdir(parents=True, exist_ok=True)
        write_hypotheses(out, results["rows"], texts, lambda row: f"{row['variant']}-seed{row['seed']}")
        write_files(out, files, files)
    except OSError as error:
        raise ConfigError(f"out={out}: cannot be written ({error.strerror or error})") from error
    return markdown(results)


# --- text -------------------------------------------------------------------------------------------------------------


def markdown(results: Mapping[str, Any]) -> str:
    """The report."""
    recipe, rows = results["recipe"], results["rows"]
    lines = [f"# {recipe['title']}", "", f"{recipe['paper']}. {recipe['claim']}", ""]
    lines += [f"Recipe `{recipe['name']}`, scale `{results['scale']}`, seeds {', '.join(map(str, results['seeds']))}."]
    lines += [recipe["note"]] if recipe["note"] else []
    lines += ["", "## Verdicts", "", *verdict_lines(results), "", *_chosen(results["choices"])]
    lines += ["## The paper's figures beside ours", "", *variants_table(results), "", *legend(results), ""]
    lines += [f"![quality against speed]({PLOT_FILE})", ""]
    columns = {name: show for name, show in COLUMNS.items() if name not in NOT_SHOWN}
    renamed = {"speed, × first system": f"speed, × {recipe['baseline']}"}
    shown: dict[str, Callable[[Mapping[str, Any]], str]] = {
        "variant": lambda r: r["variant"],
        "seed": lambda r: str(r["seed"]),
        **{renamed.get(name, name): show for name, show in columns.items()},
    }
    for beam, batch in dict.fromkeys((row["beam"], row["batch"]) for row in rows):
        group = [row for row in rows if (row["beam"], row["batch"]) == (beam, batch)]
        lines += [f"## Beam {beam}, batch {batch}", "", *table(group, shown), ""]
    lines += ["## Where this comes from", "", *_origin(results)]
    return "\n".join([*lines, "", "```text", *results["commands"], "```", ""])


def verdict_lines(results: Mapping[str, Any]) -> list[str]:
    """A line for every expectation; before them, whether the baseline is too poor to compare anything with."""
    told, lines = results["baseline"], []
    if not told["enough"]:
        reached = (
            f"a perplexity of {told['worst']:.4g}, and {told['limit']:.4g} is the most"
            if told["metric"] == "ppl"
            else f"{told['worst']:.2f} BLEU, and {told['limit']:g} is the least"
        )
        lines = [f"A training of the baseline has {reached} by which anything is judged.", ""]
    return lines + [_verdict_line(v) for v in results["verdicts"]]


def _verdict_line(told: Mapping[str, Any]) -> str:
    bounds = [f"at least {told['at_least']:g}"] if told["at_least"] is not None else []
    bounds += [f"at most {told['at_most']:g}"] if told["at_most"] is not None else []
    where = f" (beam {told['beam']}, batch {told['batch']})" if "beam" in told else ""
    kind = "difference" if told["metric"] == "bleu" else "ratio"
    return (
        f"- **{told['verdict']}**: {told['metric']}{where} of {told['variant']} against {told['against']}, "
        f"{kind} {' and '.join(bounds)}; measured {told['value']:.3g} [{told['low']:.3g}, {told['high']:.3g}]"
    )


def _chosen(choices: Sequence[Mapping[str, Any]]) -> list[str]:
    """All settings that were tried, with what the validation set said of each."""
    if not choices:
        return []
    rows = [
        {
            "variant": c["variant"],
            "setting": c["choice"],
            f"validation {c['metric']}": f"{c['value']:.4g}",
            "": "chosen" if c["chosen"] else "",
        }
        for c in choices
    ]
    seeds = ", ".join(map(str, dict.fromkeys(c["seed"] for c in choices)))
    told = f"Tried with seed {seeds} and chosen by the validation set; the test set was read for the chosen ones only."
    return ["## Chosen on the validation set", "", told, "", *_table(rows), ""]


def variants_table(results: Mapping[str, Any]) -> list[str]:
    """A line for every variant, the paper's figures beside ours."""
    return _table([_variant_row(figures, results) for figures in results["variants"]])


def _variant_row(figures: Mapping[str, Any], results: Mapping[str, Any]) -> dict[str, str]:
    recipe, name = results["recipe"], figures["variant"]
    variant, baseline = recipe["variants"][name], recipe["baseline"]
    row = {"variant": name, "what": variant["what"]}
    row["paper"] = ", ".join(f"{figure} {value:g}" for figure, value in variant["paper"].items())
    if recipe["metric"] == "ppl":
        row["validation perplexity"] = _spread(figures["ppl"])
    else:
        told = next((c for c in results["comparisons"] if c["variant"] == name), None)
        row["BLEU"] = _spread(figures["bleu"])
        row[f"BLEU, difference to {baseline}"] = (
            f"{told['difference']:+.2f} [{told['low']:+.2f}, {told['high']:+.2f}]" if told else ""
        )
        row["p"], row["p (Holm)"] = (p_text(told[key]) if told else "" for key in ("p_value", "p_holm"))
        row["chrF"] = _spread(figures["chrf"])
        for speed in figures["speed"]:
            head = f"speed, × {baseline}, beam {speed['beam']}, batch {speed['batch']}"
            row[head] = f"{speed['value']:.2f} [{speed['low']:.2f}, {speed['high']:.2f}]"
    row["s an update"] = f"{figures['update_seconds']:.3g}" if figures["update_seconds"] else ""
    row["M parameters"] = f"{figures['parameters'] / 1e6:.2f}" if figures["parameters"] else ""
    return row


def legend(results: Mapping[str, Any]) -> list[str]:
    """How to read the table of variants."""
    lines, compared = [], results["comparisons"]
    if compared:
        several = len(results["seeds"]) > 1
        spread = (
            "Both cover how trainings differ, too."
            if several
            else "There is one training of each: both are about these models, and another one may come out differently."
        )
        means = f"means over {len(results['seeds'])} seeds with the lowest and the highest, " if several else ""
        lines += [
            f"BLEU and chrF are {means}by sacrebleu, of raw text. In brackets beside a difference stands its 95 % "
            f"interval; p is two-sided, by approximate randomisation ({compared[0]['samples']:,} samples); p (Holm) is "
            f"adjusted for the number of comparisons in the table, {len(compared)}. {spread} Speed is in sentences a "
            "second: the median of the ratios pass by pass, with the lowest and the highest."
        ]
    if any("bleu" in figure for v in results["recipe"]["variants"].values() for figure in v["paper"]):
        lines += ["", "The paper's BLEU is of tokenised text, on its own corpus: compare differences, not values."]
    return lines


def _origin(results: Mapping[str, Any]) -> list[str]:
    """Command, corpus, machine and versions."""
    facts, corpus = results["facts"], results["corpus"]
    versions = ", ".join(f"{name} {version}" for name, version in facts["versions"].items() if version)
    lines = [f"`{' '.join(facts['command'])}`", "", f"Corpus `{corpus['folder']}`, digest {corpus['digest']}."]
    if results["rows"]:
        lines += [
            f"Split `{corpus['split']}`, {corpus['lines']} lines; {facts['lines_timed']} of them timed in each of "
            f"{facts['repeats']} passes, the models of one seed in turn."
        ]
    lines += [f"Threads: {facts['threads']}; trainings at a time: {facts['jobs']}."]
    lines += [f"{facts['time']}, {facts['processor']}, device {facts['device']}; {versions}; revision {facts['git']}."]
    trained = sorted({str(run["git"]) for run in results["runs"] if run.get("git")})
    lines += [f"Trainings began at revision {', '.join(trained)}."] if trained else []
    if results["train_overrides"]:
        lines += [f"Further options of all trainings: `{' '.join(results['train_overrides'])}`."]
    return lines


def _table(rows: Sequence[Mapping[str, str]]) -> list[str]:
    """A Markdown table; columns that say nothing are left out."""
    heads = [head for head in rows[0] if any(row[head] for row in rows)]
    lines = [f"| {' | '.join(heads)} |", f"|{'---|' * len(heads)}"]
    return lines + [f"| {' | '.join(row[head] for head in heads)} |" for row in rows]


def _spread(values: Sequence[float]) -> str:
    """The mean, and with several seeds the least and the most."""
    if not values:
        return ""
    return f"{mean(values):.2f}" + (f" [{min(values):.2f}, {max(values):.2f}]" if len(values) > 1 else "")


# --- plot -------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Point:
    """A variant in the plot: its cost, its quality, and how far the bar of its quality reaches down and up."""

    name: str
    cost: float
    quality: float
    below: float
    above: float


def points(results: Mapping[str, Any]) -> list[Point]:
    """Latency and BLEU, or seconds an update and perplexity; bars reach over the seeds, or the CI of a single one."""
    ppl = results["recipe"]["metric"] == "ppl"
    found = []
    for figures in results["variants"]:
        cost, qualities = (figures[key] for key in (("update_seconds", "ppl") if ppl else ("latency_ms", "bleu")))
        if cost is None or not qualities:
            continue
        middle, interval = mean(qualities), (None if ppl else figures["bleu_ci"]) or 0.0
        below, above = middle - min(qualities) + interval, max(qualities) - middle + interval
        found.append(Point(figures["variant"], cost, middle, below, above))
    return found


def plot(results: Mapping[str, Any], path: Path) -> None:
    """Every variant with its name beside it."""
    from nmt.benchmark.figure import name_points, new_figure, scale_cost

    ppl, seeds = results["recipe"]["metric"] == "ppl", len(results["seeds"])
    figure = new_figure(8, 5)
    axes = figure.add_subplot()
    shown = points(results)
    colours = [f"C{number % 10}" for number in range(len(shown))]
    for point, colour in zip(shown, colours):
        bars = [[point.below], [point.above]] if point.below or point.above else None
        axes.errorbar(point.cost, point.quality, yerr=bars, fmt="o", capsize=3, color=colour)
    scale_cost(axes, [point.cost for point in shown])
    name_points(axes, [(point.cost, point.quality, point.name) for point in shown], colours)
    axes.set_xlabel("seconds an update" if ppl else "latency of one line, median, ms")
    bars_are = f"mean, lowest and highest of {seeds} seeds" if seeds > 1 else "with its 95 % confidence interval"
    axes.set_ylabel("perplexity of the validation set" if ppl else f"BLEU, {bars_are}")
    axes.set_title(f"{results['recipe']['title']}, scale {results['scale']}")
    axes.grid(alpha=0.3)
    figure.savefig(path, format="png")
