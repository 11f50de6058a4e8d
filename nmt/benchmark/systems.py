"""What is measured: systems that take lines of text and give their translations."""

from __future__ import annotations

import hashlib
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from math import prod
from pathlib import Path
from typing import Any

from safetensors import safe_open

from nmt.benchmark.options import OWN, SystemSpec
from nmt.device import Device
from nmt.generation.options import GenerationBatchOptions, Precision
from nmt.generation.translator import Translator
from nmt.training.checkpoint import CONFIG_FILE, MODEL_FILE, Checkpoint, resolve_checkpoint

UNLIMITED_TOKENS = 1 << 40


@dataclass(frozen=True)
class Search:
    """How every system searches; what is None here each checkpoint may have a default of its own for.

    Attributes:
        beam: hypotheses kept a step.
        length_penalty: exponent of the length, EOS counted.
        forced_length: tokens of every translation; None lets them end.
    """

    beam: int
    length_penalty: float | None
    forced_length: int | None

    @property
    def given(self) -> dict[str, Any]:
        """The fields of ``SearchOptions`` that are given."""
        return {name: value for name, value in asdict(self).items() if value is not None}


@dataclass(frozen=True)
class Translations:
    """Output of a system.

    Attributes:
        texts: a text a line.
        num_tokens: its tokens (EOS counted, unless a length was forced).
        num_failed: lines for which the search found nothing.
    """

    texts: list[str]
    num_tokens: int
    num_failed: int = 0


class System(ABC):
    """A loaded model. Text goes in and comes out: sub-words are part of what is timed."""

    folder: Path

    @abstractmethod
    def translate(self, lines: Sequence[str], search: Search, batch: int) -> Translations:
        """Translate lines, ``batch`` of them together."""

    def num_bytes(self) -> int:
        """Bytes on disk of all that translating needs."""
        return sum(path.stat().st_size for path in self.folder.rglob("*") if path.is_file())


class OwnSystem(System):
    """A checkpoint of this toolkit."""

    def __init__(self, spec: SystemSpec, device: Device, plugins: Sequence[str]) -> None:
        self.translator = Translator.load(
            spec.folder, device=device, precision=Precision[spec.precision], plugins=plugins
        )
        self.folder = resolve_checkpoint(spec.folder)

    def translate(self, lines: Sequence[str], search: Search, batch: int) -> Translations:
        options = self.translator.search_options(search.given)
        together = GenerationBatchOptions(max_tokens=UNLIMITED_TOKENS, max_sentences=batch)
        best = [found[0] for found in self.translator.hypotheses(lines, options, batch=together)]
        return Translations(
            [self.translator.text(h) for h in best],
            sum(len(h.token_lprobs) for h in best),
            sum(h.failed for h in best),
        )

    def num_bytes(self) -> int:
        # A run's checkpoint also holds the state of its training.
        needed = {MODEL_FILE, CONFIG_FILE, *self.translator.vocabularies.files}
        return sum((self.folder / name).stat().st_size for name in needed)


def num_parameters(checkpoint: str) -> int:
    """Values in a checkpoint's tensors; exports of it hold the same, and a model that is ready to decode fewer."""
    with safe_open(resolve_checkpoint(checkpoint) / MODEL_FILE, framework="pt") as tensors:
        return sum(prod(tensors.get_slice(name).get_shape()) for name in tensors.keys())  # noqa: SIM118 (no mapping)


def checkpoint_digest(checkpoint: str) -> str:
    """The sha256 (hex) of a checkpoint's weights and configuration."""
    found = Checkpoint.find(checkpoint)
    return hashlib.sha256("".join(found.digest(name) for name in (MODEL_FILE, CONFIG_FILE)).encode()).hexdigest()


def load_system(spec: SystemSpec, device: Device, threads: int, plugins: Sequence[str]) -> System:
    """Open a system.

    Args:
        spec: which.
        device: where it runs.
        threads: CPU threads that it may use.
        plugins: modules with components that our models need.

    Raises:
        ConfigError: a package is missing, or the device or the format is not there.
        DataError: a file is missing, truncated or foreign.
    """
    import torch

    torch.set_num_threads(threads)
    if spec.system == OWN:
        return OwnSystem(spec, device, plugins)
    from nmt.benchmark.peers import CTranslate2System, HuggingFaceSystem

    if spec.system == "hf":
        return HuggingFaceSystem(spec, device)
    return CTranslate2System(spec, device, threads)
