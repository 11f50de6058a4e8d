"""Time and state of one decoding step against the length of the prefix, for every component of a decoder layer.

    python scripts/bench_modules.py out=results/modules model=base threads=1 dtype=fp32

Components come from the registry. Each stands in a model of one decoder layer and takes one token a step, beam 1,
over a state of exactly so many written positions (cross-attention: a source of so many words). Components take turns
in one process; figures are medians over the repeats. Keys beyond those of ``OWN`` are nmt-train's, such as
``model.decoder.embed_dim=256``.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

import torch
from torch import Tensor

from nmt.benchmark.report import check_folder
from nmt.config import ConfigError, compose
from nmt.device import Device, torch_device
from nmt.models.encoder_decoder import EncoderDecoder, build_model
from nmt.models.interfaces import EncoderOut, ForwardPass
from nmt.models.packed import prepare_inference
from nmt.models.state import DecoderState, num_bytes, tree_map
from nmt.provenance import provenance
from nmt.registry import discover, slots
from nmt.training.checkpoint import write_folder

OWN = {
    "out": "",
    "lengths": "16,64,256,1024,4096",
    "rows": "1,32",
    "source": "32",
    "steps": "20",
    "repeats": "7",
    "dtype": "fp32",
    "threads": "1",
    "device": "auto",
}
"""Keys of this script with their defaults; all others are nmt-train's."""

SLOTS = ("self_attention", "cross_attention", "layer")
DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}


@dataclass
class Subject:
    """A component in a model of one decoder layer."""

    slot: str
    name: str
    model: EncoderDecoder

    def prepare(self, rows: int, length: int, source: int) -> tuple[Callable[[], object], int]:
        """A step over a prefix, to be called again and again, and the bytes of the state that it reads."""
        layer: Any = self.model.decoder.stack.layers[0]  # type: ignore[attr-defined]
        like = next(self.model.parameters())
        src_len = length if self.slot == "cross_attention" else source
        width = self.model.encode(torch.full((1, 1), 4, device=like.device)).states.size(-1)
        memory = EncoderOut(torch.randn(rows, src_len, width, device=like.device).to(like.dtype), None)
        state: DecoderState = self.model.init_state(memory, 1, length + 1)
        tree_map(lambda t: t.normal_() if t.is_floating_point() else t, state.cache)
        embedded = self.model.embedding.embed_target(torch.ones(rows, 1, dtype=torch.long, device=like.device))
        x = torch.randn_like(embedded)
        cache, remembered = state.cache[0], state.memory[0]
        part = layer if self.slot == "layer" else getattr(layer, self.slot)

        def step() -> Tensor:
            state.position = length
            now = state.begin(1, x)
            if self.slot == "layer":
                return part.step(x, cache, remembered, now, ForwardPass())
            return part.step(x, remembered if self.slot == "cross_attention" else cache, now, ForwardPass())

        return step, num_bytes(remembered if self.slot == "cross_attention" else cache)


def subjects(overrides: list[str], device: torch.device, dtype: torch.dtype) -> list[Subject]:
    """Every component that can stand in a decoder of one layer; says why others cannot."""
    found = []
    for slot in SLOTS:
        for name, component in sorted(slots()[slot].components.items()):
            try:
                keys = [*overrides, "model.encoder.layers=1", "model.decoder.layers=1"]
                node = compose("train", [*keys, f"model.decoder.{slot}.name={name}"]).model
                model = build_model(node, source_size=8, target_size=8, joint=True)
                subject = Subject(slot, name, prepare_inference(model, device, dtype))  # type: ignore[arg-type]
                subject.prepare(2, 4, 4)[0]()
            except (ConfigError, LookupError, AttributeError, TypeError) as reason:
                print(f"{slot} {component.name} is left out: {reason}", file=sys.stderr)
            else:
                found.append(subject)
    return found


def step_seconds(step: Callable[[], object], steps: int, device: torch.device) -> float:
    """Seconds of one step."""
    if device.type == "cuda":
        torch.cuda.synchronize()
    begin = time.perf_counter()
    for _ in range(steps):
        step()
    if device.type == "cuda":
        torch.cuda.synchronize()
    return (time.perf_counter() - begin) / steps


def table(rows: list[dict[str, Any]]) -> str:
    """The report: a table of steps and of states for every number of rows."""
    lines = ["# A decoding step against the length of the prefix", ""]
    lengths = sorted({r["length"] for r in rows})
    for count in sorted({r["rows"] for r in rows}):
        for key, title, scale in (("step_seconds", "µs a step", 1e6), ("state_bytes", "KiB of state", 2**-10)):
            lines += [f"## {count} rows: {title}", "", f"| component | {' | '.join(map(str, lengths))} |"]
            lines.append(f"|{'---|' * (len(lengths) + 1)}")
            for who in dict.fromkeys((r["slot"], r["name"]) for r in rows):
                cells = {r["length"]: r[key] for r in rows if (r["slot"], r["name"], r["rows"]) == (*who, count)}
                lines.append(f"| {' '.join(who)} | {' | '.join(f'{cells[n] * scale:.1f}' for n in lengths)} |")
            lines.append("")
    return "\n".join([*lines, "![steps and states](modules.png)", ""])


def plot(rows: list[dict[str, Any]], path: Path) -> None:
    """Steps above, states below, a column for every number of rows."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    counts = sorted({r["rows"] for r in rows})
    figure = Figure(figsize=(5 * len(counts) + 2, 8), dpi=120, layout="constrained")
    FigureCanvasAgg(figure)
    grid = figure.subplots(2, len(counts), squeeze=False)
    for column, count in enumerate(counts):
        for axes, key, label in zip(grid[:, column], ("step_seconds", "state_bytes"), ("s a step", "bytes of state")):
            for who in dict.fromkeys((r["slot"], r["name"]) for r in rows):
                points = [(r["length"], r[key]) for r in rows if (r["slot"], r["name"], r["rows"]) == (*who, count)]
                axes.plot(*zip(*points), marker="o", label=" ".join(who))
            axes.set(xscale="log", yscale="log", xlabel="positions", ylabel=label, title=f"{count} rows")
            axes.grid(alpha=0.3, which="both")
    grid[0, -1].legend(fontsize="small", loc="center left", bbox_to_anchor=(1.0, 0.5))
    figure.savefig(path, format="png")


@torch.inference_mode()
def main(arguments: list[str]) -> None:
    given = {"model": "base", **dict(argument.split("=", 1) for argument in arguments)}
    own = {key: given.pop(key, default) for key, default in OWN.items()}
    if not own["out"] or own["dtype"] not in DTYPES:
        raise SystemExit(f"give out=FOLDER, and dtype= one of {', '.join(DTYPES)}")
    out = Path(own["out"])
    check_folder(out)
    discover()
    torch.manual_seed(0)
    torch.set_num_threads(int(own["threads"]))
    device = torch_device(Device(own["device"]))
    tested = subjects([f"{k}={v}" for k, v in given.items()], device, DTYPES[own["dtype"]])
    steps, rows = int(own["steps"]), []
    for count in map(int, own["rows"].split(",")):
        for length in map(int, own["lengths"].split(",")):
            prepared = [subject.prepare(count, length, int(own["source"])) for subject in tested]
            taken: list[list[float]] = [[] for _ in tested]
            for step, _ in prepared:
                step_seconds(step, 3, device)
            for repeat in range(int(own["repeats"])):
                for turn in range(len(tested)):  # another one first every time
                    i = (turn + repeat) % len(tested)
                    taken[i].append(step_seconds(prepared[i][0], steps, device))
            for subject, (_, size), each in zip(tested, prepared, taken):
                row = {"slot": subject.slot, "name": subject.name, "rows": count, "length": length}
                rows.append({**row, "step_seconds": median(each), "state_bytes": size, "all": each})
            print(f"{count} rows, {length} positions: done", file=sys.stderr)
    results = {"rows": rows, "settings": {**own, **given}, **provenance("matplotlib")}
    files: dict[str, Callable[[Path], Any]] = {
        "results.json": lambda path: path.write_text(json.dumps(results, indent=1) + "\n", "utf-8"),
        "report.md": lambda path: path.write_text(table(rows), "utf-8"),
        "modules.png": lambda path: plot(rows, path),
    }
    write_folder(out.absolute(), files)


if __name__ == "__main__":
    main(sys.argv[1:])
