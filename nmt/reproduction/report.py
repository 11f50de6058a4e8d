"""The report of a reproduction: the paper's claim beside what was measured, as text, JSON and a plot."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from statistics import mean, median
from typing import Any

from nmt.benchmark.report import table
from nmt.config import ConfigError
from nmt.files import write_files
from nmt.leftovers import is_leftover
from nmt.reproduction.judge import Measurements, by_seed, speed_ratio
from nmt.reproduction.options import RecipeMetric, ReproduceOptions

RESULTS_FILE, REPORT_FILE, PLOT_FILE, RUNS_FOLDER = "results.json", "report.md", "plot.png", "runs"


def check_folder(out: Path) -> None:
    """Refuse to mix results with something else.

    Raises:
        ConfigError: the folder holds what this command does not write, or it is a file.
    """
    if out.exists() and not out.is_dir():
        raise ConfigError(f"out={out} is not a folder; choose another one")
    own = {RESULTS_FILE, REPORT_FILE, PLOT_FILE, RUNS_FOLDER}
    foreign = sorted(p.name for p in out.iterdir() if p.name not in own and not is_leftover(p)) if out.is_dir() else []
    if foreign:
        raise ConfigError(f"out={out} holds {foreign[0]}, which nmt-reproduce does not write; choose another folder")


def write_results(options: ReproduceOptions, results: Mapping[str, Any], all_: Measurements) -> str:
    """Write ``results.json``, ``report.md`` and ``plot.png`` into ``out``.

    Returns:
        The text of the report.

    Raises:
        ConfigError: they cannot be written.
    """
    text = markdown(options, results, all_)
    files: dict[str, Callable[[Path], Any]] = {
        RESULTS_FILE: lambda path: path.write_text(json.dumps(results, indent=1, ensure_ascii=False) + "\n", "utf-8"),
        REPORT_FILE: lambda path: path.write_text(text, "utf-8"),
        PLOT_FILE: lambda path: plot(options, all_, path),
    }
    try:
        write_files(Path(options.out), files, files)
    except OSError as error:
        raise ConfigError(f"out={options.out}: cannot be written ({error.strerror or error})") from error
    return text


def markdown(options: ReproduceOptions, results: Mapping[str, Any], all_: Measurements) -> str:
    """The report."""
    recipe, facts = options.recipe, results["facts"]
    lines = [f"# {recipe.title}", "", f"{recipe.paper}. {recipe.claim}", ""]
    lines += [
        f"Recipe `{recipe.name}`, scale `{options.scale.name}`, seeds {results['seeds']}, corpus {options.corpus}."
    ]
    lines += [recipe.note] if recipe.note else []
    lines += ["", "## Verdicts", "", *(_verdict_line(v) for v in results["verdicts"]), ""]
    lines += _chosen(results["choices"])
    lines += ["## The paper's figures beside ours", ""]
    if recipe.metric is RecipeMetric.ppl:
        lines += _table([_ppl_row(options, name, all_) for name in recipe.variants])
    else:
        lines += _table([_bleu_row(options, name, results, all_) for name in recipe.variants])
    lines += ["", f"![quality against speed]({PLOT_FILE})", ""]
    for beam, batch in dict.fromkeys((row["beam"], row["batch"]) for row in all_.rows):
        group = [row for row in all_.rows if (row["beam"], row["batch"]) == (beam, batch)]
        lines += [f"## Beam {beam}, batch {batch}", "", *table(group), ""]
    lines += ["## Where this comes from", ""]
    versions = ", ".join(f"{name} {version}" for name, version in facts["versions"].items() if version)
    lines += [f"{facts['time']}, {facts['processor']}, device {facts['device']}; {versions}; revision {facts['git']}."]
    if options.train_overrides:
        lines += [f"Further options of all trainings: `{' '.join(options.train_overrides)}`."]
    return "\n".join([*lines, "", "```text", *results["commands"], "```", ""])


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


def _verdict_line(told: Mapping[str, Any]) -> str:
    bounds = [f"at least {told['at_least']:g}"] if told["at_least"] is not None else []
    bounds += [f"at most {told['at_most']:g}"] if told["at_most"] is not None else []
    where = f" (beam {told['beam']}, batch {told['batch']})" if "beam" in told else ""
    kind = "difference" if told["metric"] == "bleu" else "ratio"
    return (
        f"- **{told['verdict']}**: {told['metric']}{where} of {told['variant']} against {told['against']}, "
        f"{kind} {' and '.join(bounds)}; measured {told['value']:.3g} [{told['low']:.3g}, {told['high']:.3g}]"
    )


def _table(rows: Sequence[Mapping[str, str]]) -> list[str]:
    """A Markdown table; columns that say nothing are left out."""
    heads = [head for head in rows[0] if any(row[head] for row in rows)]
    lines = [f"| {' | '.join(heads)} |", f"|{'---|' * len(heads)}"]
    return lines + [f"| {' | '.join(row[head] for head in heads)} |" for row in rows]


def _common(options: ReproduceOptions, name: str) -> dict[str, str]:
    variant = options.recipe.variants[name]
    paper = ", ".join(f"{figure} {value:g}" for figure, value in variant.paper.items())
    return {"variant": name, "what": variant.what, "paper": paper}


def _training(all_: Measurements, name: str) -> dict[str, str]:
    runs = [run for run in all_.runs if run["variant"] == name]
    updates = [run["update_seconds"][1] for run in runs if run.get("update_seconds")]
    return {"s an update": f"{mean(updates):.3g}" if updates else ""}


def _ppl_row(options: ReproduceOptions, name: str, all_: Measurements) -> dict[str, str]:
    runs = [run for run in all_.runs if run["variant"] == name]
    ppl = [run["ppl"] for run in runs if "ppl" in run]
    size = [run["parameters"] for run in runs if "parameters" in run]
    row = {**_common(options, name), "valid ppl": _spread(ppl)}
    return {**row, **_training(all_, name), "M parameters": f"{size[0] / 1e6:.2f}" if size else ""}


def _bleu_row(options: ReproduceOptions, name: str, results: Mapping[str, Any], all_: Measurements) -> dict[str, str]:
    recipe = options.recipe
    first = (recipe.benchmark.beams[0], recipe.benchmark.batches[0])
    row = {**_common(options, name), "BLEU": _spread(by_seed(all_.rows, name, *first, "bleu"))}
    told = next((c for c in results["comparisons"] if c["variant"] == name), None)
    row["against the baseline"] = (
        "" if told is None else f"{told['delta']:+.2f} [{told['low']:+.2f}, {told['high']:+.2f}]"
    )
    row["p"] = "" if told is None else ", ".join(f"{p:.3f}" for p in told["p_values"])
    row["chrF"] = _spread(by_seed(all_.rows, name, *first, "chrf"))
    for beam in recipe.benchmark.beams:
        for batch in recipe.benchmark.batches:
            ratio = speed_ratio(all_, name, recipe.baseline, beam, batch)
            row[f"× speed, beam {beam}, batch {batch}"] = f"{ratio.value:.2f} [{ratio.low:.2f}, {ratio.high:.2f}]"
    size = next(r["parameters"] for r in all_.rows if r["variant"] == name)
    return {**row, **_training(all_, name), "M parameters": f"{size / 1e6:.2f}"}


def _spread(values: Sequence[float]) -> str:
    """The mean, and with several seeds the least and the most."""
    if not values:
        return ""
    return f"{mean(values):.2f}" + (f" [{min(values):.2f}, {max(values):.2f}]" if len(values) > 1 else "")


def points(options: ReproduceOptions, all_: Measurements) -> list[tuple[str, float, float, float]]:
    """(variant, cost, quality, half its interval): latency and BLEU, or seconds an update and perplexity."""
    recipe, found = options.recipe, []
    beam, batch = recipe.benchmark.beams[0], recipe.benchmark.batches[0]
    for name in recipe.variants:
        if recipe.metric is RecipeMetric.ppl:
            runs = [run for run in all_.runs if run["variant"] == name and run.get("update_seconds") and "ppl" in run]
            if runs:
                found.append((name, mean(r["update_seconds"][1] for r in runs), mean(r["ppl"] for r in runs), 0.0))
            continue
        latency = median(by_seed(all_.rows, name, beam, batch, "latency_p50_ms"))
        bleu, interval = (mean(by_seed(all_.rows, name, beam, batch, key)) for key in ("bleu", "bleu_ci"))
        found.append((name, latency, bleu, interval))
    return found


def plot(options: ReproduceOptions, all_: Measurements, path: Path) -> None:
    """Every variant with its name beside it."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 5), dpi=120, layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    for name, cost, quality, interval in points(options, all_):
        axes.errorbar(cost, quality, yerr=interval or None, fmt="o", capsize=3)
        axes.annotate(name, (cost, quality), xytext=(6, 6), textcoords="offset points", fontsize="small")
    ppl = options.recipe.metric is RecipeMetric.ppl
    axes.set_xlabel("seconds an update" if ppl else "latency of one line, median, ms")
    axes.set_ylabel("perplexity of the validation set" if ppl else "BLEU ± 95 % confidence interval")
    axes.set_title(f"{options.recipe.title}, scale {options.scale.name}")
    axes.grid(alpha=0.3)
    figure.savefig(path, format="png")
