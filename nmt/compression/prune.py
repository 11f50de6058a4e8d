"""Pruning of a checkpoint: a smaller one that everything takes which takes checkpoints."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from omegaconf import OmegaConf

from nmt.checkpoints.checkpoint import MODEL_FILE, Loaded, build_to_fit, load_model, model_files
from nmt.compression.interfaces import Pruned, Pruner
from nmt.compression.options import PruneOptions
from nmt.config import ConfigError
from nmt.data.corpus import Corpus, ParallelSplit
from nmt.data.iteration import evaluation_batches
from nmt.data.options import BatchOptions
from nmt.device import torch_device
from nmt.memory import explaining_shortage
from nmt.models.encoder_decoder import SequenceModel, num_parameters
from nmt.models.tensors import load_tensors
from nmt.registry import build, discover
from nmt.text.vocabulary import VocabularyPair
from nmt.training.interfaces import real_tokens


@dataclass(frozen=True)
class PruneReport:
    """What became of a checkpoint.

    Attributes:
        method: the pruning method.
        kept: what it says about what was kept.
        parameters: before and after.
        bytes: of the file of tensors, before and after.
    """

    method: str
    kept: dict[str, Any]
    parameters: tuple[int, int]
    bytes: tuple[int, int]

    def __str__(self) -> str:
        kept = ", ".join(f"{name} {value}" for name, value in self.kept.items())
        parameters, sizes = ([f"{n / 1e6:.3f}" for n in pair] for pair in (self.parameters, self.bytes))
        return (
            f"{self.method}: {kept}; {' -> '.join(parameters)} million parameters, "
            f"{MODEL_FILE} {' -> '.join(sizes)} million bytes"
        )


class Validation:
    """The loss of pruned models on a split of a corpus, which is opened when it is first needed."""

    def __init__(self, options: PruneOptions, loaded: Loaded) -> None:
        self._options = options
        self._loaded = loaded
        self._split: ParallelSplit | None = None

    def _opened(self) -> ParallelSplit:
        options, loaded = self._options, self._loaded
        if options.corpus is None:
            raise ConfigError("corpus is required: this method compares models by their loss; give corpus=FOLDER")
        corpus = Corpus.open(options.corpus)
        if corpus.vocabularies.digest != loaded.vocabularies.digest:
            raise ConfigError(f"corpus={options.corpus}: prepared with another vocabulary than {loaded.path}")
        return corpus.split(options.split)

    @torch.inference_mode()
    def __call__(self, pruned: Pruned) -> float:
        """See ``interfaces.Validate``."""
        if self._split is None:
            self._split = self._opened()
        device, batch = torch_device(self._options.device), self._options.batch
        model = assemble(pruned, self._loaded.vocabularies, self._loaded.path).to(device).eval()
        total, num_tokens = 0.0, 0
        for pairs in evaluation_batches(self._split, BatchOptions(batch.max_tokens, batch.max_sentences, None, 0)):
            with explaining_shortage("while models are compared", "lower batch.max_tokens or batch.max_sentences"):
                on_device = pairs.to(device)
                output = model(on_device.src_tokens, on_device.prev_output_tokens)
                hidden, target = real_tokens(output.hidden, on_device.target)
                total += float(model.output.loss(hidden, target, 0.0)[1])
            num_tokens += pairs.num_tokens
        return total / max(num_tokens, 1)


def assemble(pruned: Pruned, vocabularies: VocabularyPair, path: Path) -> SequenceModel:
    """The model of a configuration with its tensors, on the CPU.

    Args:
        pruned: configuration and tensors.
        vocabularies: of the model.
        path: names it in messages.

    Raises:
        ConfigError: the components cannot be built so.
        DataError: the tensors are not those of the configuration's model.
    """
    shapes = {name: tuple(tensor.shape) for name, tensor in pruned.tensors.items()}
    model = build_to_fit(pruned.config, vocabularies, shapes, path)
    load_tensors(model, pruned.tensors, path)
    return model


def prune(options: PruneOptions) -> PruneReport:
    """Write a smaller checkpoint.

    Raises:
        ConfigError: ``out`` exists, or the checkpoint has not what the method's options name.
        DataError: a file is missing, truncated or foreign.
    """
    target = Path(options.out)
    if target.exists():
        raise ConfigError(f"out={options.out} exists; choose another folder")
    if options.threads is not None:
        torch.set_num_threads(options.threads)
    discover(options.plugins)
    pruner: Pruner = build("pruner", options.method, key="method")
    loaded = load_model(options.checkpoint, plugins=options.plugins)
    pruned = pruner.prune(loaded, Validation(options, loaded))
    smaller = assemble(pruned, loaded.vocabularies, target)
    method = options.method["name"]
    facts = {"of": loaded.path.resolve().name, "method": method, **pruned.report}
    OmegaConf.update(pruned.config, "checkpoint.pruned", facts, force_add=True)
    try:
        model_files(pruned.tensors, pruned.config, loaded.vocabularies).write(target.absolute())
    except OSError as error:
        raise ConfigError(f"out={options.out}: cannot be written ({error.strerror})") from error
    return PruneReport(
        method,
        pruned.report,
        (num_parameters(loaded.model), num_parameters(smaller)),
        ((loaded.path / MODEL_FILE).stat().st_size, (target / MODEL_FILE).stat().st_size),
    )
