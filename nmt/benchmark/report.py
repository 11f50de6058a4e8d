"""Results as JSON, as tables and as a plot of quality against latency."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from nmt.benchmark.hypotheses import write_hypotheses
from nmt.benchmark.profile import Profile
from nmt.config import ConfigError
from nmt.files import write_files
from nmt.metrics.scoring import SAMPLES, p_text

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
    out: Path,
    rows: list[dict[str, Any]],
    facts: Mapping[str, Any],
    profiles: Sequence[Profile],
    texts: Sequence[list[str] | None],
) -> None:
    """Write ``results.json``, ``report.md``, the translations, and what else there is to show.

    Args:
        out: the folder.
        rows: see docs/benchmark.md; each is told where its translations lie.
        facts: where they come from.
        profiles: where the time goes, if that was asked for.
        texts: translations of each row; None where the input was not translated.
    """
    plotted = any(row["bleu"] is not None for row in rows)
    try:
        out.mkdir(parents=True, exist_ok=True)
        write_hypotheses(
            out, rows, texts, lambda row: f"{Path(row['checkpoint']).name}-{row['system']}-{row['precision']}"
        )
        results = {"rows": rows, "profiles": [p.as_json() for p in profiles], **facts}
        files: dict[str, Callable[[Path], Any]] = {
            RESULTS_FILE: lambda path: path.write_text(
                json.dumps(results, indent=1, ensure_ascii=False) + "\n", "utf-8"
            ),
            REPORT_FILE: lambda path: path.write_text(markdown(rows, facts, plotted), "utf-8"),
        }
        if plotted:
            files[PLOT_FILE] = lambda path: plot_pareto(rows, path)
        if profiles:
            files[PROFILE_FILE] = lambda path: path.write_text("\n".join(p.as_markdown() for p in profiles), "utf-8")
        write_files(out, files, (RESULTS_FILE, REPORT_FILE, PLOT_FILE, PROFILE_FILE))
    except OSError as error:
        raise ConfigError(f"out={out}: cannot be written ({error.strerror or error})") from error


# --- tables -----------------------------------------------------------------------------------------------------------

COLUMNS: dict[str, Callable[[Mapping[str, Any]], str]] = {
    "system": lambda r: r["system"],
    "model": lambda r: r["checkpoint"],
    "format": lambda r: r["precision"],
    "BLEU": lambda r: _score(r, "bleu"),
    "BLEU, difference": lambda r: difference_text(r),
    "p": lambda r: "" if r.get("p_value") is None else p_text(r["p_value"]),
    "p (Holm)": lambda r: "" if r.get("p_holm") is None else p_text(r["p_holm"]),
    "chrF": lambda r: _score(r, "chrf"),
    "sentences/s": lambda r: _number(r["sentences_per_second"]),
    "tokens/s": lambda r: f"{r['tokens_per_second']:.0f}",
    "speed, × first system": lambda r: f"{r['speedup']:.2f}",
    "speed, × first row": lambda r: f"{r['ratio']:.2f}",
    "p50 ms": lambda r: _number(r["latency_p50_ms"]),
    "p95 ms": lambda r: _number(r["latency_p95_ms"]),
    "start s": lambda r: f"{r['first_translation_seconds']:.1f}",
    "peak MiB": lambda r: f"{r['peak_mib']:.0f}",
    "M parameters": lambda r: f"{r['parameters'] / 1e6:.2f}",
    "MB on disk": lambda r: f"{r['bytes'] / 1e6:.1f}",
}


def markdown(rows: Sequence[Mapping[str, Any]], facts: Mapping[str, Any], plotted: bool) -> str:
    """The report: a table for every beam and batch size."""
    lines = ["# Benchmark", "", f"`{' '.join(facts['command'])}`", ""]
    lines.append(
        f"{facts['time']}, {facts['processor']}, device {facts['device']}, {facts['threads']} threads; "
        f"{facts['lines_timed']} of {facts['lines']} lines timed, "
        f"medians of {facts['repeats']} passes, systems in turn."
    )
    versions = ", ".join(f"{name} {version}" for name, version in facts["versions"].items() if version)
    lines += [f"{versions}; revision {facts['git']}.", ""]
    for beam, batch in dict.fromkeys((row["beam"], row["batch"]) for row in rows):
        group = [row for row in rows if (row["beam"], row["batch"]) == (beam, batch)]
        lines += [f"## Beam {beam}, batch {batch}", "", *table(group, COLUMNS), ""]
    if number := sum(row.get("p_value") is not None for row in rows):
        lines += [
            f"Differences are those to the first system of a table, number of comparisons: {number}. p is two-sided, "
            f"by approximate randomisation ({SAMPLES:,} samples), in brackets the 95 % interval; p (Holm) is adjusted "
            "for the number of comparisons. Both are about these models: another training may come out differently.",
            "",
        ]
    if plotted:
        lines += [f"![BLEU against latency]({PLOT_FILE})", ""]
    return "\n".join(lines)


def table(rows: Sequence[Mapping[str, Any]], shown: Mapping[str, Callable[[Mapping[str, Any]], str]]) -> list[str]:
    """Lines of a Markdown table; columns that say nothing are left out.

    Args:
        rows: see docs/benchmark.md.
        shown: what each column shows of a row, by its heading.
    """
    columns = {name: [show(row) for row in rows] for name, show in shown.items()}
    columns = {name: cells for name, cells in columns.items() if any(cells)}
    heads = [f"| {' | '.join(columns)} |", f"|{'---|' * len(columns)}"]
    return heads + [f"| {' | '.join(cells)} |" for cells in zip(*columns.values())]


def difference_text(row: Mapping[str, Any]) -> str:
    """A difference with its interval."""
    if row.get("bleu_difference") is None:
        return ""
    low, high = row["bleu_difference_low"], row["bleu_difference_high"]
    return f"{row['bleu_difference']:+.2f} [{low:+.2f}, {high:+.2f}]"


def _score(row: Mapping[str, Any], name: str) -> str:
    return "" if row[name] is None else f"{row[name]:.2f} ± {row[f'{name}_ci']:.2f}"


def _number(value: float) -> str:
    return f"{value:.1f}" if value < 100 else f"{value:.0f}"


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
    from nmt.benchmark.figure import distinct_names, new_figure, scale_cost

    keys = ("system", "precision", "checkpoint", "beam")
    scored = list({tuple(r[key] for key in keys): r for r in rows if r["bleu"] is not None}.values())
    points = [(float(r["latency_p50_ms"]), float(r["bleu"])) for r in scored]
    figure = new_figure(8, 5)
    axes = figure.add_subplot()
    for row, (latency, bleu), name in zip(scored, points, distinct_names(scored, keys)):
        axes.errorbar(latency, bleu, yerr=row["bleu_ci"], fmt="o", capsize=3, label=name)
    front = [points[i] for i in pareto_front(points)]
    axes.plot([x for x, _ in front], [y for _, y in front], color="grey", linestyle="--", label="Pareto front")
    scale_cost(axes, [latency for latency, _ in points])
    axes.set_xlabel("latency of one line, median, ms")
    axes.set_ylabel("BLEU, with its 95 % confidence interval")
    axes.grid(alpha=0.3)
    axes.legend(fontsize="small", loc="center left", bbox_to_anchor=(1.0, 0.5))
    figure.savefig(path, format="png")
