"""What was prepared, in a few lines for people."""

from __future__ import annotations

from nmt.data.prepare import Summary


def report(summary: Summary) -> str:
    """A table of the splits, what cleaning dropped and why, and the size of the vocabulary."""
    manifest = summary.manifest
    source, target = manifest.source_language, manifest.target_language
    rows = [("split", "lines", f"tokens {source}", f"tokens {target}", f"unknown {source}", f"unknown {target}")]
    for name, split in manifest.splits.items():
        tokens, rates = split.tokens, split.unknown_rate
        counts = (str(split.lines), str(tokens.source), str(tokens.target))
        rows.append((name, *counts, f"{rates.source:.3%}", f"{rates.target:.3%}"))
    widths = [max(map(len, column)) for column in zip(*rows)]
    lines = ["  ".join(cell.rjust(width) for cell, width in zip(row, widths)) for row in rows]
    for name, split in manifest.splits.items():
        if split.dropped:
            reasons = ", ".join(f"{reason} {count}" for reason, count in split.dropped.items())
            lines.append(f"{name}: dropped {split.read - split.lines} of {split.read} pairs: {reasons}")
    vocabulary = manifest.vocabulary
    sizes = f"{vocabulary.sizes.source} pieces, shared by both sides"
    if not vocabulary.joint:
        sizes = f"{vocabulary.sizes.source} pieces of {source}, {vocabulary.sizes.target} of {target}"
    lines.append(f"vocabulary: {sizes}")
    lines.append(f"{summary.folder}: written in {summary.seconds:.1f} s")
    return "\n".join(lines)
