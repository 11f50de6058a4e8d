"""A process for every system: memory is its own, a crash is its own, and measurements of systems can take turns."""

from __future__ import annotations

import multiprocessing
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from multiprocessing.connection import Connection
from types import TracebackType
from typing import Any

from nmt.benchmark.options import OWN, SystemSpec
from nmt.benchmark.own import num_parameters
from nmt.benchmark.system import Search, System, Translations
from nmt.benchmark.systems import load_system
from nmt.config import ConfigError, DataError
from nmt.device import Device, peak_memory_mib, torch_device
from nmt.memory import explaining_shortage

STOP_SECONDS = 10


class SystemFailed(RuntimeError):
    """A system ended or failed while it was measured; says which and why."""


@dataclass(frozen=True)
class Loaded:
    """What is known of a system once it is open.

    Attributes:
        parameters: of the model.
        num_bytes: on disk.
        seconds: from the start of the process until the model was ready, imports included.
    """

    parameters: int
    num_bytes: int
    seconds: float


@dataclass(frozen=True)
class Timed:
    """A pass over some lines.

    Attributes:
        output: what came out.
        seconds: for all lines.
        each: seconds for each line, where they were given one by one.
    """

    output: Translations
    seconds: float
    each: list[float]


@dataclass(frozen=True)
class Settings:
    """What all systems of a benchmark share."""

    device: Device
    threads: int
    plugins: tuple[str, ...]


class Worker:
    """A system in a process of its own; a context manager.

    Raises:
        ConfigError: the system cannot be opened: an option.
        DataError: the system cannot be opened: a file.
        SystemFailed: anything else.
    """

    def __init__(self, spec: SystemSpec, settings: Settings) -> None:
        self.spec = spec
        context = multiprocessing.get_context("spawn")  # no threads, locks or memory of this process
        self._pipe, theirs = context.Pipe()
        self._process = context.Process(target=_serve, args=(theirs, spec, settings), daemon=True)
        started = time.perf_counter()
        self._process.start()
        theirs.close()
        parameters, num_bytes = self._answer()
        self.loaded = Loaded(parameters, num_bytes, time.perf_counter() - started)

    def translate(self, lines: Sequence[str], search: Search, batch: int) -> Timed:
        """All lines, ``batch`` together; one after the other, each timed, where that is 1."""
        timed: Timed = self._ask("translate", list(lines), search, batch)
        return timed

    def peak_mib(self) -> float:
        """Most memory that the process (on a GPU: its allocator) has held so far, in MiB."""
        return float(self._ask("peak"))

    def _ask(self, *request: Any) -> Any:
        try:
            self._pipe.send(request)
        except OSError as error:
            raise self._gone() from error
        return self._answer()

    def _answer(self) -> Any:
        try:
            answer, error = self._pipe.recv()
        except (EOFError, OSError) as reason:
            raise self._gone() from reason
        if error is not None:
            kind, message = error
            raise {"ConfigError": ConfigError, "DataError": DataError}.get(kind, SystemFailed)(
                f"{self.spec}: {message}"
            )
        return answer

    def _gone(self) -> SystemFailed:
        self._process.join(STOP_SECONDS)
        code = self._process.exitcode
        return SystemFailed(f"{self.spec}: its process ended with status {code} (-9: killed, perhaps out of memory)")

    def __enter__(self) -> Worker:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._pipe.close()  # the process ends at the end of its input
        self._process.join(STOP_SECONDS if kind is None else 0)
        if self._process.is_alive():
            self._process.terminate()
            self._process.join()


def _serve(pipe: Connection, spec: SystemSpec, settings: Settings) -> None:
    """The process: open the system, then answer requests until there are no more."""
    system: System | None = None

    def load() -> tuple[int, int]:
        nonlocal system
        system = load_system(spec, settings.device, settings.threads, settings.plugins)
        return num_parameters(spec.checkpoint), system.num_bytes()

    answer: Callable[[], Any] = load
    while True:
        try:
            pipe.send((answer(), None))
        except Exception as error:
            message = " ".join(str(error).split()) or type(error).__name__
            pipe.send((None, (type(error).__name__, message)))
            if system is None:
                return
        try:
            request = pipe.recv()
        except (EOFError, OSError, KeyboardInterrupt):
            return
        answer = _bind(request, system, spec, settings)


def _bind(request: tuple[Any, ...], system: System | None, spec: SystemSpec, settings: Settings) -> Callable[[], Any]:
    assert system is not None, "requests are taken by a loaded system"
    if request[0] == "peak":
        return lambda: _peak(spec, settings)
    _, lines, search, batch = request

    def timed() -> Timed:
        with explaining_shortage(f"with batch={batch} and search.beam={search.beam}", "leave the largest of them out"):
            return run_pass(system, lines, search, batch)

    return timed


def _peak(spec: SystemSpec, settings: Settings) -> float:
    device = torch_device(settings.device)
    if device.type == "cuda" and spec.system not in (OWN, "hf"):
        import torch

        free, total = torch.cuda.mem_get_info()  # it allocates by itself; nothing else may run on the GPU
        return (total - free) / 2**20
    return peak_memory_mib(device)


def run_pass(system: System, lines: Sequence[str], search: Search, batch: int) -> Timed:
    """Translate lines and take the time; see ``Worker.translate``."""
    begin = time.perf_counter()
    if batch > 1:
        output = system.translate(lines, search, batch)
        return Timed(output, time.perf_counter() - begin, [])
    texts, num_tokens, num_failed, each = [], 0, 0, []
    for line in lines:
        before = time.perf_counter()
        one = system.translate([line], search, 1)
        each.append(time.perf_counter() - before)
        texts.extend(one.texts)
        num_tokens += one.num_tokens
        num_failed += one.num_failed
    return Timed(Translations(texts, num_tokens, num_failed), time.perf_counter() - begin, each)
