"""What was prepared, in a few lines for people."""

from __future__ import annotations

from nmt.data.prepare import Summary


def report(summary: Summary) -> str:
    """A table of the splits, what cleaning dropped and why, and the size of the vocabulary."""
    manifest = summary.manifest
    languages = {side: getattr(manifest, f"{side}_language") for side in manifest.sides}
    names = languages.values()
    rows = [("split", "lines", *(f"tokens {name}" for name in names), *(f"unknown {name}" for name in names))]
    for name, split in manifest.splits.items():
        tokens = [str(getattr(split.tokens, side)) for side in languages]
        rates = [f"{getattr(split.unknown_rate, side):.3%}" for side in languages]
        rows.append((name, str(split.lines), *tokens, *rates))
    unit = "pairs" if len(languages) > 1 else "lines"
    widths = [max(map(len, column)) for column in zip(*rows)]
    lines = ["  ".join(cell.rjust(width) for cell, width in zip(row, widths)) for row in rows]
    for name, split in manifest.splits.items():
        if split.dropped:
            reasons = ", ".join(f"{reason} {count}" for reason, count in split.dropped.items())
            lines.append(f"{name}: dropped {split.read - split.lines} of {split.read} {unit}: {reasons}")
    vocabulary = manifest.vocabulary
    sizes = f"{vocabulary.sizes.target} pieces" + (", shared by both sides" if len(languages) > 1 else "")
    if not vocabulary.joint:
        source, target = names
        sizes = f"{vocabulary.sizes.source} pieces of {source}, {vocabulary.sizes.target} of {target}"
    lines.append(f"vocabulary: {sizes}")
    lines.append(f"{summary.folder}: written in {summary.seconds:.1f} s")
    return "\n".join(lines)
