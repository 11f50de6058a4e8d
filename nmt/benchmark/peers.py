"""CTranslate2 and Hugging Face transformers as systems, on exports of our checkpoints.

Both are set to the search that ours does by default (docs/interchange.md): a sentence is done when as many hypotheses
are finished as the beam is wide, scores are divided by length ^ length_penalty, EOS counted.
"""

from __future__ import annotations

import warnings
from abc import abstractmethod
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from nmt.benchmark.options import PEERS, SystemSpec
from nmt.benchmark.system import Search, System, Translations
from nmt.config import ConfigError
from nmt.data.plan import plan_batches
from nmt.device import Device, torch_device
from nmt.generation.defaults import defaults_of, describe_search, resolve_search, uncommon
from nmt.generation.options import SearchOptions
from nmt.text.vocabulary import BOS, EOS, PAD, VocabularyPair


class Peer(System):
    """What both have in common: a line without text stays one, and lengths are limited as ours are."""

    def __init__(self, spec: SystemSpec) -> None:
        self.folder = Path(spec.folder)
        self._defaults = {spec.checkpoint: defaults_of(spec.checkpoint)}

    def options(self, search: Search) -> SearchOptions:
        """Ours for a search.

        Raises:
            ConfigError: the checkpoint's defaults hold what peers do not have.
        """
        options = resolve_search(search.given, self._defaults)
        if extra := uncommon(options):
            raise ConfigError(f"peers: other toolkits have no {describe_search(extra)}, a default of the checkpoint")
        return options

    def translate(self, lines: Sequence[str], search: Search, batch: int) -> Translations:
        full = [i for i, line in enumerate(lines) if line.strip()]
        found = self._translate([lines[i] for i in full], search, batch) if full else Translations([], 0)
        texts = [""] * len(lines)
        for i, text in zip(full, found.texts, strict=True):
            texts[i] = text
        return Translations(texts, found.num_tokens)

    @abstractmethod
    def _translate(self, lines: Sequence[str], search: Search, batch: int) -> Translations:
        """Lines with text."""


class CTranslate2System(Peer):
    """CTranslate2 (OpenNMT/CTranslate2), which orders lines by length and cuts batches by itself."""

    def __init__(self, spec: SystemSpec, device: Device, threads: int) -> None:
        import ctranslate2

        super().__init__(spec)
        self.vocabularies = VocabularyPair.load(self.folder)
        place, format_ = torch_device(device).type, PEERS["ctranslate2"][spec.precision]
        valid = ctranslate2.get_supported_compute_types(place)
        if format_ not in valid:
            known = [ours for ours, theirs in PEERS["ctranslate2"].items() if theirs in valid]
            raise ConfigError(f"peers=ctranslate2:{spec.precision}: on this {place} it has {', '.join(known)}")
        self.model: Any = ctranslate2.Translator(
            str(self.folder), device=place, compute_type=format_, inter_threads=1, intra_threads=threads
        )

    def _translate(self, lines: Sequence[str], search: Search, batch: int) -> Translations:
        source, target = self.vocabularies.source, self.vocabularies.target
        pieces = [source.pieces(line) for line in lines]
        options = self.options(search)
        most = options.longest(max(map(len, pieces)), 0, None)
        results = self.model.translate_batch(
            pieces,
            beam_size=options.beam,
            length_penalty=options.length_penalty,
            patience=1,
            max_batch_size=batch,
            no_repeat_ngram_size=options.no_repeat_ngram,
            min_decoding_length=search.forced_length or options.min_length,
            max_decoding_length=most,
        )
        best = [result.hypotheses[0] for result in results]
        tokens = sum(map(len, best)) + (0 if search.forced_length else len(best))
        return Translations([target.join(hypothesis) for hypothesis in best], tokens)


class HuggingFaceSystem(Peer):
    """Transformers' Marian or Blenderbot with ``generate``; lines are ordered by length as ours are."""

    def __init__(self, spec: SystemSpec, device: Device) -> None:
        from transformers import AutoModelForSeq2SeqLM, AutoTokenizer
        from transformers.utils import logging as their_logging

        quiet: Any = their_logging
        quiet.set_verbosity_error()
        quiet.disable_progress_bar()
        warnings.filterwarnings("ignore", message="Recommended: pip install sacremoses")  # no use for it here
        super().__init__(spec)
        self.device = torch_device(device)
        model: Any = AutoModelForSeq2SeqLM.from_pretrained(
            self.folder, dtype=getattr(torch, PEERS["hf"][spec.precision])
        )
        self.model: Any = model.to(self.device).eval()
        self.tokenizer: Any = AutoTokenizer.from_pretrained(self.folder)

    def _translate(self, lines: Sequence[str], search: Search, batch: int) -> Translations:
        options = self.options(search)
        encoded = self.tokenizer(list(lines))["input_ids"]
        plan = plan_batches([len(ids) for ids in encoded], max_tokens=1 << 40, max_sentences=batch)
        texts, num_tokens = [""] * len(lines), 0
        for places in (batch.tolist() for batch in reversed(plan)):
            inputs = self.tokenizer.pad({"input_ids": [encoded[i] for i in places]}, return_tensors="pt")
            longest = inputs["input_ids"].size(1) - 1
            most = search.forced_length or options.longest(longest, 0, None) + 1
            with torch.inference_mode():
                tokens = self.model.generate(
                    **inputs.to(self.device),
                    num_beams=options.beam,
                    length_penalty=options.length_penalty,
                    early_stopping=options.beam > 1,
                    do_sample=False,
                    no_repeat_ngram_size=options.no_repeat_ngram,
                    min_new_tokens=search.forced_length or options.min_length,
                    max_new_tokens=most,
                ).cpu()
            for i, text in zip(places, self.tokenizer.batch_decode(tokens, skip_special_tokens=True), strict=True):
                texts[i] = text
            ends = tokens == EOS  # a search of several beams also pads with it
            real = (tokens != PAD) & (tokens != BOS) & (ends.cumsum(1) - ends.long() == 0)
            num_tokens += int((real & ~ends).sum() if search.forced_length else real.sum())
        return Translations(texts, num_tokens)
