"""Results as JSON, as tables and as a plot of quality against latency."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from nmt.benchmark.profile import Profile
from nmt.config import ConfigError
from nmt.files import write_files

RESULTS_FILE, REPORT_FILE, PLOT_FILE, PROFILE_FILE = "results.json", "report.md", "pareto.png", "profile.md"


def check_folder(out: Path) -> None:
    """Refuse to mix results with something else.

    Raises:
        ConfigError: the folder exists and holds no results, or it is a file.
    """
    if out.is_dir() and any(out.iterdir()) and not (out / RESULTS_FILE).is_file():
        raise ConfigError(f"out={out} exists and holds no results of nmt-bench; choose another folder")
    if out.exists() and not out.is_dir():
        raise ConfigError(f"out={out} is not a folder; choose another one")


def write_report(
    out: Path, rows: Sequence[Mapping[str, Any]], facts: Mapping[str, Any], profiles: Sequence[Profile]
) -> None:
    """Write ``results.json``, ``report.md``, and what else there is to show.

    Args:
        out: the folder.
        rows: see docs/benchmark.md.
        facts: where they come from.
        profiles: where the time goes, if that was asked for.
    """
    results = {"rows": rows, "profiles": [p.as_json() for p in profiles], **facts}
    plotted = any(row["bleu"] is not None for row in rows)
    files: dict[str, Callable[[Path], Any]] = {
        RESULTS_FILE: lambda path: path.write_text(json.dumps(results, indent=1, ensure_ascii=False) + "\n", "utf-8"),
        REPORT_FILE: lambda path: path.write_text(markdown(rows, facts, plotted), "utf-8"),
    }
    if plotted:
        files[PLOT_FILE] = lambda path: plot_pareto(rows, path)
    if profiles:
        files[PROFILE_FILE] = lambda path: path.write_text("\n".join(p.as_markdown() for p in profiles), "utf-8")
    try:
        write_files(out, files, (RESULTS_FILE, REPORT_FILE, PLOT_FILE, PROFILE_FILE))
    except OSError as error:
        raise ConfigError(f"out={out}: cannot be written ({error.strerror or error})") from error


# --- tables -----------------------------------------------------------------------------------------------------------

COLUMNS: dict[str, Callable[[Mapping[str, Any]], str]] = {
    "system": lambda r: r["system"],
    "model": lambda r: r["checkpoint"],
    "format": lambda r: r["precision"],
    "BLEU": lambda r: _score(r, "bleu"),
    "chrF": lambda r: _score(r, "chrf"),
    "sentences/s": lambda r: _number(r["sentences_per_second"]),
    "tokens/s": lambda r: f"{r['tokens_per_second']:.0f}",
    "× first here": lambda r: f"{r['speedup']:.2f}",
    "× first row": lambda r: f"{r['ratio']:.2f}",
    "p50 ms": lambda r: _number(r["latency_p50_ms"]),
    "p95 ms": lambda r: _number(r["latency_p95_ms"]),
    "start s": lambda r: f"{r['first_translation_seconds']:.1f}",
    "peak MiB": lambda r: f"{r['peak_mib']:.0f}",
    "M parameters": lambda r: f"{r['parameters'] / 1e6:.2f}",
    "MB on disk": lambda r: f"{r['bytes'] / 1e6:.1f}",
}


def markdown(rows: Sequence[Mapping[str, Any]], facts: Mapping[str, Any], plotted: bool) -> str:
    """The report: a table for every beam and batch size."""
    lines = ["# Benchmark", "", f"`{_command(facts['command'])}`", ""]
    lines.append(
        f"{facts['time']}, {facts['processor']}, device {facts['device']}, {facts['threads']} threads; "
        f"{facts['lines_timed']} of {facts['lines']} lines timed, "
        f"medians of {facts['repeats']} passes, systems in turn."
    )
    versions = ", ".join(f"{name} {version}" for name, version in facts["versions"].items() if version)
    lines += [f"{versions}; revision {facts['git']}.", ""]
    for beam, batch in dict.fromkeys((row["beam"], row["batch"]) for row in rows):
        group = [row for row in rows if (row["beam"], row["batch"]) == (beam, batch)]
        lines += [f"## Beam {beam}, batch {batch}", "", *table(group), ""]
    if plotted:
        lines += [f"![BLEU against latency]({PLOT_FILE})", ""]
    return "\n".join(lines)


def table(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """Lines of a Markdown table; columns that say nothing are left out."""
    columns = {name: [show(row) for row in rows] for name, show in COLUMNS.items()}
    columns = {name: cells for name, cells in columns.items() if any(cells)}
    heads = [f"| {' | '.join(columns)} |", f"|{'---|' * len(columns)}"]
    return heads + [f"| {' | '.join(cells)} |" for cells in zip(*columns.values())]


def _score(row: Mapping[str, Any], name: str) -> str:
    return "" if row[name] is None else f"{row[name]:.2f} ± {row[f'{name}_ci']:.2f}"


def _number(value: float) -> str:
    return f"{value:.1f}" if value < 100 else f"{value:.0f}"


def _command(words: Sequence[str]) -> str:
    """The command without the interpreter, and the program without its folder."""
    start = next((i for i, word in enumerate(words) if Path(word).name.startswith("nmt-")), 0)
    return " ".join([Path(words[start]).name, *words[start + 1 :]])


# --- plot -------------------------------------------------------------------------------------------------------------


def pareto_front(points: Sequence[tuple[float, float]]) -> list[int]:
    """Indices of the (latency, quality) points that no other point beats on both sides, fastest first."""
    front: list[int] = []
    for i in sorted(range(len(points)), key=lambda i: (points[i][0], -points[i][1])):
        if not front or points[i][1] > points[front[-1]][1]:
            front.append(i)
    return front


def plot_pareto(rows: Sequence[Mapping[str, Any]], path: Path) -> None:
    """BLEU with its confidence interval against the median latency of a line, and the Pareto front."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    scored = {(r["system"], r["checkpoint"], r["precision"], r["beam"]): r for r in rows if r["bleu"] is not None}
    figure = Figure(figsize=(8, 5), dpi=120, layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    for (system, checkpoint, precision, beam), r in scored.items():
        axes.errorbar(
            r["latency_p50_ms"],
            r["bleu"],
            yerr=r["bleu_ci"],
            fmt="o",
            capsize=3,
            label=f"{system} {precision} {Path(checkpoint).name}, beam {beam}",
        )
    points = [(float(r["latency_p50_ms"]), float(r["bleu"])) for r in scored.values()]
    front = [points[i] for i in pareto_front(points)]
    axes.plot([x for x, _ in front], [y for _, y in front], color="grey", linestyle="--", label="Pareto front")
    axes.set_xscale("log")
    axes.set_xlabel("latency of one line, median, ms")
    axes.set_ylabel("BLEU ± 95 % confidence interval")
    axes.grid(alpha=0.3, which="both")
    axes.legend(fontsize="small", loc="center left", bbox_to_anchor=(1.0, 0.5))
    figure.savefig(path, format="png")
