"""Translating lists of id sequences: batches by length, results in the order of the input."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Sequence

import torch

from nmt.config import DataError
from nmt.data.batch import pad_rows
from nmt.data.plan import plan_batches
from nmt.generation.beam import beam_search
from nmt.generation.ensemble import Ensemble, as_list, model_name
from nmt.generation.hypothesis import EMPTY, FAILED, Hypothesis, SearchBatch
from nmt.generation.interface import NotNumbers, TranslationModel
from nmt.generation.options import GenerationBatchOptions, Sampling, SearchOptions
from nmt.generation.sampling import sample
from nmt.text.vocabulary import EOS

__all__ = ["GenerationBatchOptions", "cut", "length_batches", "translate_ids"]

log = logging.getLogger(__name__)


def translate_ids(
    models: TranslationModel | Sequence[TranslationModel],
    sources: Sequence[Sequence[int]],
    options: SearchOptions | None = None,
    *,
    batch: GenerationBatchOptions | None = None,
    device: torch.device | str = "cpu",
    prefixes: Sequence[Sequence[int]] | None = None,
    may_repeat: Sequence[int] = (),
    keys: Sequence[int] | None = None,
    progress: Callable[[int], None] | None = None,
    names: Sequence[str] = (),
) -> list[list[Hypothesis]]:
    """Translate id sequences.

    A source beyond the model's limit is cut there, with one warning that counts such lines; a source without tokens has
    the empty translation. Where the rules of a search leave nothing the translation is ``FAILED``.

    Args:
        models: one model, or several that form an ensemble; in evaluation mode, on ``device``.
        sources: ids of each source, without BOS and EOS.
        options: how to search; the defaults if None.
        batch: how to batch; the defaults if None.
        device: where the models are.
        prefixes: target ids that each translation starts with.
        may_repeat: the ids that ``no_repeat_except`` stands for.
        keys: place of each source in the whole input, from 0 (their order by default): names lines in messages and
            seeds samples.
        progress: called with the number of sentences that have been translated, batch by batch.
        names: of the models, for messages.

    Returns:
        For each source its n best hypotheses, best first; one at least.

    Raises:
        ConfigError: ``forced_length``, ``min_length`` or ``beam`` does not fit the models.
        DataError: a prefix does not fit, or a model gives nan.
    """
    options, batch = options or SearchOptions(), batch or GenerationBatchOptions()
    members = as_list(models)
    model = members[0] if len(members) == 1 else Ensemble(members)
    keys = range(len(sources)) if keys is None else keys
    sources = cut(sources, model.max_source_length, keys)
    results: list[list[Hypothesis]] = [[EMPTY] for _ in sources]
    search = beam_search if options.sampling is Sampling.none else sample
    todo = [i for i, ids in enumerate(sources) if ids]
    if progress and len(todo) < len(sources):
        progress(len(sources) - len(todo))
    for places in length_batches(todo, [len(sources[i]) for i in todo], batch):
        given = [prefixes[i] for i in places] if prefixes else [()] * len(places)
        work = SearchBatch(
            src_tokens=pad_rows([sources[i] for i in places], first=None, last=EOS).to(device),
            limits=[options.longest(len(sources[i]), len(p), model.max_target_length) for i, p in zip(places, given)],
            prefixes=list(given),
            keys=[keys[i] for i in places],
            may_repeat=may_repeat,
        )
        _check_prefixes(work)
        try:
            found = search(model, work, options)
        except NotNumbers:
            place = model.broken() if isinstance(model, Ensemble) else 0
            raise NotNumbers(model_name(place, len(members), names)) from None
        for i, hypotheses in zip(places, found):
            results[i] = hypotheses or [FAILED]
        if progress:
            progress(len(places))
    return results


def _check_prefixes(work: SearchBatch) -> None:
    for prefix, limit, key in zip(work.prefixes, work.limits, work.keys):
        if len(prefix) > limit:
            raise DataError(f"the target prefix of line {key + 1} has {len(prefix)} tokens; {limit} are allowed")


def length_batches(
    places: Sequence[int], lengths: Sequence[int], options: GenerationBatchOptions
) -> Iterator[list[int]]:
    """Batches of sentences of close lengths, longest first: what does not fit into memory shows at once.

    Args:
        places: the sentences.
        lengths: tokens of each of them, without EOS.
        options: the budget; a sentence that is longer than it forms its own batch.
    """
    plan = plan_batches(lengths, max_tokens=options.max_tokens, max_sentences=options.max_sentences)
    for batch in reversed(plan):
        yield [places[i] for i in batch.tolist()]


def cut(sources: Sequence[Sequence[int]], max_source_length: int | None, keys: Sequence[int]) -> list[Sequence[int]]:
    """Sources that fit the model: beyond its limit the rest is left out, with one warning that counts the lines."""
    if max_source_length is None:
        return list(sources)
    most = max_source_length - 1
    long = [key for ids, key in zip(sources, keys) if len(ids) > most]
    if long:
        lines = f"line {long[0] + 1} has" if len(long) == 1 else f"{len(long)} lines (line {long[0] + 1} first) have"
        log.warning("%s too many tokens; only the first %d, the model's limit, are translated", lines, most)
    return [ids[:most] for ids in sources]
