"""Decoder components side by side: time of a step and bytes of state against the length of the prefix.

    python scripts/bench_modules.py out=results/modules model=base
    python scripts/bench_modules.py out=results/modules model=small dtype=bf16 prefixes=16,256 batches=1

Every registered component of the decoder's slots is built in a stack of ``layers`` layers (methods that share between
layers need more than one) and makes the step that follows a prefix of so many positions, with one hypothesis a
sentence. All components of a row of the sweep are measured in turn, ``repeats`` times; figures are medians, for one
layer. nmt-train's keys choose the dimensions. Writes results.json, report.md and modules.png.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

import torch
from torch import Tensor, nn

from nmt.config import ConfigError, compose, parse_options
from nmt.device import Device, torch_device
from nmt.files import Writer, write_files
from nmt.models.encoder_decoder import DecoderOptions, ModelOptions, build_stack
from nmt.models.interfaces import EncoderOut, ForwardPass, Part
from nmt.models.linear import LinearMaker
from nmt.models.packed import prepare_inference
from nmt.models.state import Step, num_bytes, tree_map
from nmt.provenance import provenance
from nmt.registry import discover, slots

OWN = {
    "out": "",
    "prefixes": "16,64,256,1024,4096",
    "batches": "1,32",
    "layers": "2",
    "src_len": "25",
    "repeats": "7",
    "dtype": "fp32",
    "device": "cpu",
    "threads": "",
    "plugins": "",
}
"""Keys of this script with their defaults; all others are nmt-train's."""

SLOTS = ("self_attention", "cross_attention", "feed_forward", "layer")
DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}
SAMPLE_SECONDS = 0.02
"""Least duration of one timed sample: shorter steps are repeated."""


@dataclass
class Case:
    """A component's layers, ready to be stepped."""

    slot: str
    name: str
    parts: nn.ModuleList


def cases(layers: int, overrides: list[str], device: torch.device, dtype: torch.dtype) -> Iterator[Case]:
    """Every component that a decoder can hold; says which cannot."""
    for slot in SLOTS:
        for name in slots()[slot].components:
            try:
                parts = build_parts(slot, name, layers, overrides)
            except ConfigError as error:
                print(f"{slot} {name} is left out: {error}", file=sys.stderr)
                continue
            if all(part is None for part in parts):
                print(f"{slot} {name} is left out: it stands for no part of a layer", file=sys.stderr)
                continue
            module = nn.ModuleList(parts)
            prepare_inference(module, device, dtype)
            yield Case(slot, name, module)


def build_parts(slot: str, name: str, layers: int, overrides: list[str]) -> list[Part]:
    """The component in every layer of a decoder."""
    keys = [
        "corpus=none",
        "run=none",
        *overrides,
        f"model.decoder.layers={layers}",
        f"model.decoder.{slot}.name={name}",
    ]
    model = parse_options(ModelOptions, compose("train", keys).model, key="model")
    own = {key: value for key, value in dict(model.decoder).items() if key in DecoderOptions.__dataclass_fields__}
    options = parse_options(DecoderOptions, own, key="model.decoder")
    torch.manual_seed(1)
    stack = build_stack(
        model,
        options,
        key="model.decoder",
        memory_dim=model.encoder.embed_dim,
        causal=True,
        make_linear=LinearMaker(model.linear),
    )
    built: list[Any] = list(stack.layers)  # type: ignore[arg-type]
    return built if slot == "layer" else [getattr(layer, slot) for layer in built]


def stepper(case: Case, x: Tensor, encoder_out: EncoderOut, prefix: int) -> tuple[Callable[[], None], int]:
    """A call that makes one step of all layers after a prefix, and the bytes of all their states."""
    rows, parts = x.size(0), list[Any](case.parts)

    def filled(tensor: Tensor) -> Tensor:
        return tensor.normal_()

    caches = [tree_map(filled, p.init_state(rows, prefix + 1, x)) if hasattr(p, "init_state") else {} for p in parts]
    memories = [p.init_memory(encoder_out) if hasattr(p, "init_memory") else {} for p in parts]
    step = Step(torch.tensor([prefix], device=x.device), prefix + 1, 1, None, None)

    def run() -> None:
        memo = ForwardPass()
        for part, cache, memory in zip(parts, caches, memories):
            if case.slot == "self_attention":
                part.step(x, cache, step, memo)
            elif case.slot == "cross_attention":
                part.step(x, memory, step, memo)
            elif case.slot == "feed_forward":
                part(x, memo)
            else:
                part.step(x, cache, memory, step, memo)

    return run, num_bytes(caches)


def seconds(run: Callable[[], None], times: int, device: torch.device) -> float:
    """Of one call, over so many."""
    if device.type == "cuda":
        torch.cuda.synchronize()
    begin = time.perf_counter()
    for _ in range(times):
        run()
    if device.type == "cuda":
        torch.cuda.synchronize()
    return (time.perf_counter() - begin) / times


@torch.inference_mode()
def sweep(given: dict[str, str], overrides: list[str]) -> list[dict[str, Any]]:
    """A row for every component, batch and prefix."""
    device, dtype = torch_device(Device(given["device"])), DTYPES[given["dtype"]]
    layers, src_len = int(given["layers"]), int(given["src_len"])
    found = list(cases(layers, overrides, device, dtype))
    width = parse_options(ModelOptions, compose("train", ["corpus=none", "run=none", *overrides]).model, key="model")
    rows: list[dict[str, Any]] = []
    for batch in map(int, given["batches"].split(",")):
        x = torch.randn(batch, 1, width.decoder["embed_dim"], device=device, dtype=dtype)
        memory = torch.randn(batch, src_len, width.encoder.embed_dim, device=device, dtype=dtype)
        for prefix in map(int, given["prefixes"].split(",")):
            runs = [stepper(case, x, EncoderOut(memory, None), prefix) for case in found]
            times = [max(1, round(SAMPLE_SECONDS / max(1e-9, _warm(run, device)))) for run, _ in runs]
            samples: list[list[float]] = [[] for _ in runs]
            for _ in range(int(given["repeats"])):
                for index, (run, _) in enumerate(runs):
                    samples[index].append(seconds(run, times[index], device))
            for case, (_, size), measured in zip(found, runs, samples):
                spread = (max(measured) - min(measured)) / median(measured)
                rows.append(
                    {
                        "slot": case.slot,
                        "component": case.name,
                        "batch": batch,
                        "prefix": prefix,
                        "step_microseconds": 1e6 * median(measured) / layers,
                        "spread": spread,
                        "state_bytes": size / layers / batch,
                    }
                )
            print(f"batch {batch}, prefix {prefix}: done", file=sys.stderr)
            del runs
    return rows


def _warm(run: Callable[[], None], device: torch.device) -> float:
    seconds(run, 3, device)
    return seconds(run, 3, device)


def report(rows: list[dict[str, Any]], facts: dict[str, Any]) -> str:
    """The tables as Markdown."""
    lines = [
        "# Decoder components: a step against the length of the prefix",
        "",
        f"{facts['model_keys']}, {facts['layers']} layers, {facts['dtype']}, {facts['threads']} threads, "
        f"{facts['processor']}; medians of {facts['repeats']} for one layer and one step.",
    ]
    prefixes = sorted({row["prefix"] for row in rows})
    found = dict.fromkeys((row["slot"], row["component"]) for row in rows)
    figures = [("microseconds a step", "step_microseconds"), ("bytes of state a hypothesis", "state_bytes")]
    for batch in sorted({row["batch"] for row in rows}):
        at = {(r["slot"], r["component"], r["prefix"]): r for r in rows if r["batch"] == batch}
        for title, key in figures:
            lines += ["", f"## Batch {batch}: {title}", ""]
            lines.append("| slot | component | " + " | ".join(map(str, prefixes)) + " |")
            lines.append("|---|---|" + "---:|" * len(prefixes))
            for slot, name in found:
                cells = [f"{at[slot, name, prefix][key]:,.0f}" for prefix in prefixes]
                lines.append(f"| {slot} | {name} | " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


def plot(rows: list[dict[str, Any]], path: Path) -> None:
    """Time and state of every component, a column for each batch."""
    from nmt.benchmark.figure import log_ticks, new_figure

    batches = sorted({row["batch"] for row in rows})
    figure = new_figure(5.5 * len(batches) + 2.5, 8)
    axes = figure.subplots(2, len(batches), squeeze=False, sharex=True)
    styles = dict(zip(SLOTS, ("-", ":", "-.", "--")))
    for column, batch in enumerate(batches):
        for line, (key, label) in enumerate([("step_microseconds", "µs a step"), ("state_bytes", "bytes of state")]):
            axis = axes[line][column]
            for number, (slot, name) in enumerate(dict.fromkeys((row["slot"], row["component"]) for row in rows)):
                own = [r for r in rows if (r["slot"], r["component"], r["batch"]) == (slot, name, batch)]
                look: dict[str, Any] = {"linestyle": styles[slot], "color": f"C{number}", "marker": "o"}
                if any(r[key] > 0 for r in own):
                    prefixes = [r["prefix"] for r in own]
                    axis.plot(prefixes, [r[key] for r in own], label=f"{slot} {name}", **look)
            axis.set(xscale="log", yscale="log", ylabel=label, title=f"batch {batch}")
            log_ticks(axis.yaxis)
            axis.set_xticks(sorted({row["prefix"] for row in rows}), minor=False)
            axis.set_xticks([], minor=True)
            axis.set_xticklabels([f"{prefix:,}" for prefix in sorted({row["prefix"] for row in rows})])
            axis.grid(alpha=0.3)
        axes[1][column].set_xlabel("positions of the prefix")
    handles, names = axes[0][0].get_legend_handles_labels()
    figure.legend(handles, names, loc="outside right center", fontsize="small")
    figure.savefig(path, format="png")


def main(arguments: list[str]) -> None:
    typed = dict(argument.split("=", 1) for argument in arguments)
    given = {key: typed.pop(key, default) for key, default in OWN.items()}
    if not given["out"]:
        raise SystemExit("bench_modules: out=FOLDER is required")
    if given["dtype"] not in DTYPES:
        raise SystemExit(f"bench_modules: dtype={given['dtype']}; valid options: {', '.join(DTYPES)}")
    if given["threads"]:
        torch.set_num_threads(int(given["threads"]))
    discover(name for name in given["plugins"].split(",") if name)
    overrides = [f"{key}={value}" for key, value in ({"model": "base"} | typed).items()]
    rows = sweep(given, overrides)
    facts = {
        **{key: value for key, value in given.items() if key != "out"},
        "threads": torch.get_num_threads(),
        "model_keys": " ".join(overrides),
        **provenance(),
    }
    files: dict[str, Writer] = {
        "results.json": lambda path: path.write_text(json.dumps({"rows": rows, **facts}, indent=1) + "\n"),
        "report.md": lambda path: path.write_text(report(rows, facts), encoding="utf-8"),
        "modules.png": lambda path: plot(rows, path),
    }
    write_files(Path(given["out"]), files, files)
    print(report(rows, facts))


if __name__ == "__main__":
    main(sys.argv[1:])
