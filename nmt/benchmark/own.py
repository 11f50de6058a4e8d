"""Checkpoints of this toolkit as systems."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from math import prod

from safetensors import safe_open

from nmt.benchmark.options import SystemSpec
from nmt.benchmark.system import Search, System, Translations
from nmt.checkpoints.checkpoint import CONFIG_FILE, MODEL_FILE, Checkpoint, resolve_checkpoint
from nmt.device import Device
from nmt.generation.options import GenerationBatchOptions, Precision
from nmt.generation.translator import Translator

UNLIMITED_TOKENS = 1 << 40


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
