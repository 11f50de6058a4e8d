"""Text in, text out: models with their vocabularies."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import torch

from nmt.config import ConfigError, parse_options
from nmt.device import Device, torch_device
from nmt.generation.forced import score_ids
from nmt.generation.hypothesis import Hypothesis
from nmt.generation.options import GenerationBatchOptions, Precision, SearchOptions
from nmt.generation.translate import translate_ids
from nmt.memory import explaining_shortage
from nmt.models.encoder_decoder import SequenceModel
from nmt.models.language_model import LanguageModel
from nmt.models.packed import prepare_inference
from nmt.text.vocabulary import EOS, VocabularyPair
from nmt.training.checkpoint import load_model


class Translator:
    """One model, or several over one vocabulary as an ensemble.

    Attributes:
        models: in evaluation mode, on ``device``.
        vocabularies: theirs.
        device: where they are.
    """

    def __init__(self, models: Sequence[SequenceModel], vocabularies: VocabularyPair, device: torch.device) -> None:
        self.models, self.vocabularies, self.device = list(models), vocabularies, device

    @classmethod
    def load(
        cls,
        checkpoint: str | Path | Sequence[str | Path],
        *,
        device: Device | str = Device.auto,
        precision: Precision = Precision.fp32,
        plugins: Iterable[str] = (),
    ) -> Translator:
        """Read models for use.

        Args:
            checkpoint: a run (its best checkpoint), a checkpoint folder, or a list of these for an ensemble.
            device: ``auto`` takes a GPU where there is one.
            precision: number format of weights and activations; log-probabilities are always float32.
            plugins: modules with components that the models need.

        Raises:
            ConfigError: no checkpoint there, or vocabularies that differ.
            DataError: a file is missing, truncated or foreign.
        """
        place = device if isinstance(device, Device) else parse_device(device)
        paths = [checkpoint] if isinstance(checkpoint, str | Path) else list(checkpoint)
        if not paths:
            raise ConfigError("checkpoint=[]: give a run, a checkpoint folder or a list of them")
        target, names = torch_device(place), list(plugins)
        with explaining_shortage("while models are loaded", "choose device=cpu, or smaller or fewer models"):
            loaded = [load_model(path, target, names) for path in paths]
        for other, path in zip(loaded, paths):
            if other.vocabularies.digest != loaded[0].vocabularies.digest:
                raise ConfigError(
                    f"checkpoint: the models of an ensemble need one vocabulary, but {path} has another than {paths[0]}"
                )
        if len({isinstance(one.model, LanguageModel) for one in loaded}) > 1:
            raise ConfigError("checkpoint: the models of an ensemble need one task, but some translate and some do not")
        for one in loaded:
            prepare_inference(one.model, target, getattr(torch, precision.value))
        return cls([one.model for one in loaded], loaded[0].vocabularies, target)

    @property
    def reads_source(self) -> bool:
        """Whether the models translate; language models continue a line and read nothing else."""
        return not isinstance(self.models[0], LanguageModel)

    def translate(
        self,
        lines: Sequence[str],
        beam: int = 5,
        *,
        prefixes: Sequence[str] | None = None,
        batch: GenerationBatchOptions | None = None,
        **search: Any,
    ) -> list[str]:
        """Translate lines; with a language model, continue them.

        Args:
            lines: raw text, a sentence each; with a language model the beginnings.
            beam: hypotheses kept a step.
            prefixes: text that each translation starts with; none with a language model.
            batch: how to batch; changes speed, not results.
            search: other fields of ``SearchOptions``.

        Returns:
            One translation a line, in order; the empty string for a line without text (which a language model begins
            anew). A continued line starts with what was given.

        Raises:
            ConfigError: an option is unknown or out of range.
        """
        options = parse_options(SearchOptions, {"beam": beam, **search}, key="search")
        found = self.hypotheses(lines, options, prefixes=prefixes, batch=batch)
        return [self.text(best[0]) for best in found]

    def hypotheses(
        self,
        lines: Sequence[str],
        options: SearchOptions | None = None,
        *,
        prefixes: Sequence[str] | None = None,
        batch: GenerationBatchOptions | None = None,
        keys: Sequence[int] | None = None,
        progress: Callable[[int], None] | None = None,
    ) -> list[list[Hypothesis]]:
        """The n best hypotheses of every line; arguments as for `translate_ids`.

        Raises:
            ConfigError: a single text instead of a list, another number of prefixes than lines, or prefixes for a
                language model.
        """
        _check_lines(lines=lines, prefixes=prefixes)
        sources = self.vocabularies.source.encode_batch(lines)
        given = None if prefixes is None else self.vocabularies.target.encode_batch(prefixes)
        if not self.reads_source:
            if prefixes is not None:
                raise ConfigError("prefix: a language model continues the lines of input; leave prefix out")
            sources, given = _some(sources), sources
        options, batch = options or SearchOptions(), batch or GenerationBatchOptions()
        with explaining_shortage(f"while searching with beam {options.beam}", _less(batch, "search.beam")):
            return translate_ids(
                self.models,
                sources,
                options,
                batch=batch,
                device=self.device,
                prefixes=given,
                keys=keys,
                progress=progress,
            )

    def score(self, sources: Sequence[str], targets: Sequence[str], *, length_penalty: float = 1.0) -> list[float]:
        """Scores of given translations: log-probability / length ** length_penalty; length counts EOS.

        Raises:
            ConfigError: sources and targets differ in number.
            DataError: a target is longer than the model allows.
        """
        _check_lines(sources=sources, targets=targets)
        return [found.score for found in self.forced(sources, targets, length_penalty=length_penalty)]

    def forced(self, sources: Sequence[str], targets: Sequence[str], **options: Any) -> list[Hypothesis]:
        """Log-probabilities of given translations, token by token; options as for `score_ids`.

        A language model does not read the sources, and scores empty lines too.
        """
        right = self.vocabularies.target.encode_batch(targets)
        left = self.vocabularies.source.encode_batch(sources) if self.reads_source else _some(right)
        with explaining_shortage("while scoring", _less(options.get("batch") or GenerationBatchOptions())):
            return score_ids(self.models, left, right, device=self.device, **options)

    def perplexity(self, lines: Sequence[str], *, batch: GenerationBatchOptions | None = None) -> float:
        """How surprised a language model is: exp of the mean negative log-probability a token, EOS of lines counted.

        Raises:
            ConfigError: no lines, a single text instead of a list, or models that translate.
            DataError: a line is longer than the model allows.
        """
        _check_lines(lines=lines)
        if self.reads_source or not lines:
            raise ConfigError("perplexity needs a language model and a list of lines")
        found = self.forced(lines, lines, batch=batch)
        return math.exp(-sum(h.logprob for h in found) / sum(len(h.token_lprobs) for h in found))

    def text(self, hypothesis: Hypothesis) -> str:
        """A hypothesis as one line of text."""
        return " ".join(self.vocabularies.target.decode(hypothesis.ids).split("\n"))

    def pieces(self, hypothesis: Hypothesis) -> list[str]:
        """Its tokens as the vocabulary writes them."""
        return [self.vocabularies.target.piece(i) for i in hypothesis.ids]


def _less(batch: GenerationBatchOptions, *more: str) -> str:
    """What to change where memory runs out; ``more`` are further keys that take memory."""
    keys = [f"batch.max_tokens (now {batch.max_tokens})", "batch.max_sentences", *more]
    return f"lower {', '.join(keys)}, or give precision=bf16"


def _some(rows: list[list[int]]) -> list[list[int]]:
    """Rows without tokens filled up: a model that ignores its sources has no empty ones."""
    return [ids or [EOS] for ids in rows]


def _check_lines(**texts: Sequence[str] | None) -> None:
    """Refuse what would be taken for something else without a word: a text for its characters."""
    given = {name: text for name, text in texts.items() if text is not None}
    for name, text in given.items():
        if isinstance(text, str):
            raise ConfigError(f"{name} must be a list of lines, not one text: [{text!r}]")
    if len({len(text) for text in given.values()}) > 1:
        raise ConfigError(" but ".join(f"{len(text)} {name}" for name, text in given.items()))


def parse_device(name: str) -> Device:
    """The device of a name.

    Raises:
        ConfigError: there is no such device.
    """
    try:
        return Device(name)
    except ValueError:
        raise ConfigError(f"device={name}: valid options: {', '.join(d.value for d in Device)}") from None
