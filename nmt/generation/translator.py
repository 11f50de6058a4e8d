"""Text in, text out: models with their vocabularies."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any

import torch

from nmt.checkpoints.checkpoint import load_model
from nmt.config import ConfigError
from nmt.device import Device, torch_device
from nmt.generation.defaults import read_defaults, resolve_search
from nmt.generation.forced import score_ids
from nmt.generation.hypothesis import FailedLines, Hypothesis, perplexity
from nmt.generation.options import GenerationBatchOptions, LengthNorm, Precision, Sampling, SearchOptions
from nmt.generation.translate import translate_ids
from nmt.memory import explaining_shortage
from nmt.models.encoder_decoder import SequenceModel
from nmt.models.language_model import LanguageModel
from nmt.models.packed import prepare_inference
from nmt.text.vocabulary import EOS, UNK, VocabularyPair


class Translator:
    """One model, or several over one vocabulary as an ensemble.

    Attributes:
        models: in evaluation mode, on ``device``.
        vocabularies: theirs.
        device: where they are.
        names: the checkpoints, as the user named them.
        defaults: the search defaults that each of these carries.
    """

    def __init__(
        self,
        models: Sequence[SequenceModel],
        vocabularies: VocabularyPair,
        device: torch.device,
        defaults: Sequence[tuple[str, Mapping[str, Any]]],
    ) -> None:
        self.models, self.vocabularies, self.device = list(models), vocabularies, device
        self.names, self.defaults = [name for name, _ in defaults], dict(defaults)

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
        defaults = [(str(path), read_defaults(one.config, one.path)) for path, one in zip(paths, loaded)]
        return cls([one.model for one in loaded], loaded[0].vocabularies, target, defaults)

    @property
    def reads_source(self) -> bool:
        """Whether the models translate; language models continue a line and read nothing else."""
        return not isinstance(self.models[0], LanguageModel)

    def search_options(self, given: Mapping[str, Any] = MappingProxyType({})) -> SearchOptions:
        """Options of a search: what is given, then the checkpoints' own defaults, then ours.

        Args:
            given: fields of ``SearchOptions``; None stands for what is not given.

        Raises:
            ConfigError: an option is unknown, out of range or does not go with another, or the models of an ensemble
                have different defaults for what is not given.
        """
        options = resolve_search({key: value for key, value in given.items() if value is not None}, self.defaults)
        self.may_repeat(options)
        return options

    def translate(
        self,
        lines: Sequence[str],
        beam: int | None = None,
        *,
        prefixes: Sequence[str] | None = None,
        batch: GenerationBatchOptions | None = None,
        **search: Any,
    ) -> list[str]:
        """Translate lines; with a language model, continue them.

        Args:
            lines: raw text, a sentence each; with a language model the beginnings.
            beam: hypotheses kept a step; 5 unless the checkpoint has a default of its own.
            prefixes: text that each translation starts with; none with a language model.
            batch: how to batch; changes speed, not results.
            search: other fields of ``SearchOptions``.

        Returns:
            One translation a line, in order; the empty string for a line without text (which a language model begins
            anew). A continued line starts with what was given. Where the rules of the search left nothing, the empty
            string too, with one warning that counts these lines.

        Raises:
            ConfigError: an option is unknown or out of range.
        """
        options = self.search_options({"beam": beam, **search})
        best = [found[0] for found in self.hypotheses(lines, options, prefixes=prefixes, batch=batch)]
        FailedLines.of(hypothesis.failed for hypothesis in best).warn(len(best))
        return [self.text(hypothesis) for hypothesis in best]

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
        """The n best hypotheses of every line; arguments as for `translate_ids`, options by default `search_options`.

        Raises:
            ConfigError: a single text instead of a list, another number of prefixes than lines, or prefixes for a
                language model.
        """
        options = options or self.search_options()
        _check_lines(lines=lines, prefixes=prefixes)
        sources = self.vocabularies.source.encode_batch(lines)
        given = None if prefixes is None else self.vocabularies.target.encode_batch(prefixes)
        if not self.reads_source:
            if prefixes is not None:
                raise ConfigError("prefix: a language model continues the lines of input; leave prefix out")
            sources, given = _some(sources), sources
        batch, rows = batch or GenerationBatchOptions(), "beam" if options.sampling is Sampling.none else "nbest"
        less = _less(batch, f"search.{rows}", "search.max_length_offset")
        with explaining_shortage(f"while searching with {rows} {options.rows}", less):
            return translate_ids(
                self.models,
                sources,
                options,
                batch=batch,
                device=self.device,
                prefixes=given,
                may_repeat=self.may_repeat(options),
                keys=keys,
                progress=progress,
                names=self.names,
            )

    def score(
        self,
        sources: Sequence[str],
        targets: Sequence[str],
        *,
        length_penalty: float | None = None,
        length_norm: LengthNorm | str | None = None,
        unk_penalty: float | None = None,
    ) -> list[float]:
        """Scores of given translations, as a search with these options gives them.

        Raises:
            ConfigError: sources and targets differ in number, or an option is out of range.
            DataError: a target is longer than the model allows.
        """
        _check_lines(sources=sources, targets=targets)
        options = self.search_options(
            {"length_penalty": length_penalty, "length_norm": length_norm, "unk_penalty": unk_penalty}
        )
        return [found.score for found in self.forced(sources, targets, options)]

    def forced(
        self, sources: Sequence[str], targets: Sequence[str], options: SearchOptions | None = None, **more: Any
    ) -> list[Hypothesis]:
        """Log-probabilities of given translations, token by token; arguments as for `score_ids`.

        A language model does not read the sources, and scores empty lines too.
        """
        options = options or self.search_options()
        right = self.vocabularies.target.encode_batch(targets)
        left = self.vocabularies.source.encode_batch(sources) if self.reads_source else _some(right)
        with explaining_shortage("while scoring", _less(more.get("batch") or GenerationBatchOptions())):
            return score_ids(self.models, left, right, options, device=self.device, names=self.names, **more)

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
        return perplexity(sum(h.logprob for h in found), sum(len(h.token_lprobs) for h in found))

    def may_repeat(self, options: SearchOptions) -> list[int]:
        """The pieces that ``no_repeat_except`` stands for.

        A text stands for the piece of that name, and for the pieces that it is cut into as a word; of these, those that
        are no text by themselves (a lone mark of a word's beginning) are left out: they occur with other words too.

        Raises:
            ConfigError: a text stands for none.
        """
        target, ids = self.vocabularies.target, set[int]()
        for text in options.no_repeat_except:
            piece, cut = target.find(text), target.encode(text)
            found = {index for index in cut if target.decode([index]).strip()} if UNK not in cut else set()
            if piece is not None:
                found.add(piece)
            if not found - {UNK}:
                raise ConfigError(f"search.no_repeat_except: {text!r} is no piece of the target, nor made of some")
            ids |= found - {UNK}
        return sorted(ids)

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
