"""Where the time of decoding goes: by part of the model and of the search, and by operator."""

from __future__ import annotations

import time
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from functools import wraps
from typing import Any, TypeVar

import torch

from nmt.benchmark.options import OWN, BenchOptions, SystemSpec
from nmt.benchmark.own import UNLIMITED_TOKENS, OwnSystem
from nmt.benchmark.system import Search
from nmt.benchmark.systems import load_system
from nmt.benchmark.worker import Settings
from nmt.generation.options import GenerationBatchOptions, SearchOptions
from nmt.generation.translate import translate_ids
from nmt.generation.translator import Translator
from nmt.models.encoder_decoder import SequenceModel
from nmt.models.interfaces import CrossAttention, Decoder, Embedding, FeedForward, Layer, Output, SelfAttention, Stack

NUM_OPERATORS = 12
PROFILED_LINES = 8

TEXT, SEARCH, ENCODER, STATE = "sub-words", "search", "encoder", "state: allocate, reorder, compact"
PARTS: dict[type, tuple[str, tuple[str, ...]]] = {
    SelfAttention: ("self-attention", ("step",)),
    CrossAttention: ("cross-attention", ("step", "init_memory")),
    FeedForward: ("feed-forward", ("forward",)),
    Layer: ("layers: norms, residuals", ("step",)),
    Stack: ("layers: norms, residuals", ("step",)),
    Embedding: ("embedding", ("embed_target",)),
    Output: ("output: projection, softmax", ("log_probs",)),
    Decoder: ("decoder: masks, positions", ("step",)),
}
"""Interfaces of the slots, what their components' time is called, and the methods that decoding calls."""

T = TypeVar("T")


@dataclass(frozen=True)
class Part:
    """Time of one part, without the parts inside it.

    Attributes:
        name: what it is.
        milliseconds: in total.
        calls: how often it was entered.
    """

    name: str
    milliseconds: float
    calls: int


@dataclass(frozen=True)
class Profile:
    """Where the time of one translation of some lines went.

    Attributes:
        checkpoint: the model.
        precision: its number format.
        beam: hypotheses a sentence.
        batch: sentences together.
        num_sentences: translated.
        num_steps: decoding steps, of all batches.
        plain_milliseconds: the same work without clocks inside.
        parts: longest first; they add up to the whole.
        operators: the longest of PyTorch's operators by their own time, in a run with its profiler.
    """

    checkpoint: str
    precision: str
    beam: int
    batch: int
    num_sentences: int
    num_steps: int
    plain_milliseconds: float
    parts: list[Part]
    operators: list[Part]

    def as_json(self) -> dict[str, Any]:
        """Plain values."""
        return asdict(self)

    def as_markdown(self) -> str:
        """Two tables."""
        total = sum(part.milliseconds for part in self.parts)
        lines = [
            f"## {self.checkpoint}, {self.precision}, beam {self.beam}, batch {self.batch}",
            "",
            f"{self.num_sentences} sentences in {self.num_steps} steps: {self.plain_milliseconds:.0f} ms, "
            f"{self.plain_milliseconds / max(1, self.num_steps):.2f} ms a step ({total:.0f} ms with clocks inside).",
        ]
        for title, parts in (("part", self.parts), ("operator", self.operators)):
            whole = sum(part.milliseconds for part in parts) if title == "part" else total
            lines += ["", f"| {title} | ms | ms a step | share | calls a step |", "|---|---:|---:|---:|---:|"]
            lines += [
                f"| {part.name} | {part.milliseconds:.1f} | {part.milliseconds / max(1, self.num_steps):.3f} "
                f"| {part.milliseconds / whole:.1%} | {part.calls / max(1, self.num_steps):.1f} |"
                for part in parts
            ]
        return "\n".join([*lines, ""])


class Clock:
    """Exclusive time of nested parts; on a GPU it waits for the device at every border."""

    def __init__(self, device: torch.device) -> None:
        self.wait: Callable[[], Any] = torch.cuda.synchronize if device.type == "cuda" else lambda: None
        self.seconds: defaultdict[str, float] = defaultdict(float)
        self.calls: Counter[str] = Counter()
        self._open: list[str] = []
        self._since = 0.0

    def _turn(self) -> None:
        """What has passed since the last border belongs to the innermost open part."""
        self.wait()
        now = time.perf_counter()
        if self._open:
            self.seconds[self._open[-1]] += now - self._since
        self._since = now

    @contextmanager
    def part(self, name: str) -> Iterator[None]:
        """What happens inside belongs to ``name``, except for the parts entered there."""
        self._turn()
        self._open.append(name)
        self.calls[name] += 1
        try:
            yield
        finally:
            self._turn()
            self._open.pop()

    def around(self, name: str, function: Callable[..., T]) -> Callable[..., T]:
        """The function, its time counted."""

        @wraps(function)
        def timed(*args: Any, **kwargs: Any) -> T:
            with self.part(name):
                return function(*args, **kwargs)

        return timed

    def parts(self) -> list[Part]:
        """Longest first."""
        longest = sorted(self.seconds.items(), key=lambda item: -item[1])
        return [Part(name, seconds * 1000, self.calls[name]) for name, seconds in longest]


def instrument(model: SequenceModel, clock: Clock) -> None:
    """Put clocks around what decoding calls; the model serves for nothing else afterwards."""
    step, init_state = model.step, model.init_state
    model.encode = clock.around(ENCODER, model.encode)  # type: ignore[method-assign]
    for name, module in model.named_modules():
        if name.split(".")[0] == "encoder":
            continue  # one part as a whole
        for kind, (part, methods) in PARTS.items():
            if isinstance(module, kind):
                for method in methods:
                    setattr(module, method, clock.around(part, getattr(module, method)))

    def with_clocks(state: Any) -> Any:
        select = state.select
        state.reorder = clock.around(STATE, state.reorder)
        state.select = lambda *args: with_clocks(clock.around(STATE, select)(*args))
        return state

    def timed_init_state(*args: Any, **kwargs: Any) -> Any:
        with clock.part(STATE):
            return with_clocks(init_state(*args, **kwargs))

    model.init_state = timed_init_state  # type: ignore[method-assign]
    model.step = clock.around("decoder: masks, positions", step)  # type: ignore[method-assign]


def profile_decoding(options: BenchOptions, settings: Settings, lines: Sequence[str]) -> list[Profile]:
    """Profile every own system under every beam and batch size.

    Args:
        options: of the command.
        settings: of all systems.
        lines: what is translated.
    """
    profiles = []
    for checkpoint in options.checkpoints:
        for precision in options.precisions:
            for beam in options.beams:
                for batch in options.batches:
                    spec = SystemSpec(OWN, checkpoint, precision, checkpoint)
                    search = Search(beam, options.search.length_penalty, options.forced_length)
                    profiles.append(_profile(spec, settings, search, batch, lines))
    return profiles


def _profile(spec: SystemSpec, settings: Settings, wanted: Search, batch: int, lines: Sequence[str]) -> Profile:
    system = load_system(spec, settings.device, settings.threads, settings.plugins)
    assert isinstance(system, OwnSystem), "peers are closed to us"
    translator = system.translator
    search = translator.search_options(wanted.given)
    some = lines[: max(batch, PROFILED_LINES)]  # the profiler's memory grows with the work: a part stands for all
    idle = Clock(translator.device)
    _translate(translator, search, batch, lines, idle)  # warm-up
    begin = time.perf_counter()
    _translate(translator, search, batch, lines, idle)
    plain = (time.perf_counter() - begin) * 1000
    activities = [torch.profiler.ProfilerActivity.CPU]
    if translator.device.type == "cuda":
        activities.append(torch.profiler.ProfilerActivity.CUDA)
    with torch.profiler.profile(activities=activities) as profiler:
        _translate(translator, search, batch, some, idle)
    share = len(some) / len(lines)
    clock = Clock(translator.device)
    instrument(translator.models[0], clock)
    _translate(translator, search, batch, lines, clock)
    field = "self_device_time_total" if translator.device.type == "cuda" else "self_cpu_time_total"
    operators = sorted(profiler.key_averages(), key=lambda o: -getattr(o, field))[:NUM_OPERATORS]
    return Profile(
        checkpoint=spec.checkpoint,
        precision=spec.precision,
        beam=search.beam,
        batch=batch,
        num_sentences=len(lines),
        num_steps=clock.calls["output: projection, softmax"],
        plain_milliseconds=plain,
        parts=clock.parts(),
        operators=[Part(o.key, getattr(o, field) / 1000 / share, round(o.count / share)) for o in operators],
    )


def _translate(translator: Translator, search: SearchOptions, batch: int, lines: Sequence[str], clock: Clock) -> None:
    """Text to text, in the parts that are told apart."""
    vocabularies = translator.vocabularies
    with clock.part(TEXT):
        sources = vocabularies.source.encode_batch(lines)
    with clock.part(SEARCH):
        found = translate_ids(
            translator.models,
            sources,
            search,
            batch=GenerationBatchOptions(max_tokens=UNLIMITED_TOKENS, max_sentences=batch),
            device=translator.device,
            may_repeat=translator.may_repeat(search),
        )
    with clock.part(TEXT):
        for best in found:
            translator.text(best[0])
